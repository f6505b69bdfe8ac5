"""Label efficiency, zero-shot evaluation, and the paper's tables and figures."""
