"""One loop for both stages: pre-training and fine-tuning."""
