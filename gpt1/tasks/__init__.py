"""Tasks of the paper's figure 1: labelled rows as token sequences, targets, losses and metrics."""
