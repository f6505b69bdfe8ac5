"""Labeled tables: reading, writing and checking them."""
