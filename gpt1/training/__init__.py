"""Pre-training and fine-tuning: one training loop for both stages."""
