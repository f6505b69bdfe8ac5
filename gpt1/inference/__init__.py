"""Inference: predictions, evaluation, import and export of models."""
