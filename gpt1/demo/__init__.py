"""`gpt1 demo`: the whole method in ten minutes, offline."""
