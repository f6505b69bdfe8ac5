"""The paper's tables and figures from your own runs."""
