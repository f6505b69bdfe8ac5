"""Zero-shot evaluation (paper, figure 2 right)."""
