"""Figure 1: labelled rows as token sequences; labels, losses and metrics."""
