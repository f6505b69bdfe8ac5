"""GPT-1: the model (equation 2), its losses (L1, L2, L3) and its weights on disk."""
