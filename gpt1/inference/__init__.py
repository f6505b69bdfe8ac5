"""Using a model: predictions, evaluation, conversion."""
