"""How a model continues texts."""
