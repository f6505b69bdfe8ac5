"""Labelled tables: reading, writing and checking them."""
