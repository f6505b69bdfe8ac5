"""`gpt1 demo`: the whole story in a few minutes, offline."""
