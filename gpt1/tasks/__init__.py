"""Tasks of the paper's figure 1: labeled rows as token sequences, targets, losses and metrics."""
