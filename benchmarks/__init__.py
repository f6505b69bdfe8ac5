"""Ours and its peers, measured in turn on the same work: `python -m benchmarks --help`."""
