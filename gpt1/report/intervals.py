"""How pages write intervals and scores."""

from __future__ import annotations

from gpt1 import formatting


def format_interval(interval: tuple[float, float]) -> str:
    return f"[{format_score(interval[0])},\u00a0{format_score(interval[1])}]"


def format_score(value: float) -> str:
    """A score or correlation with three decimals; larger numbers with three digits."""
    return f"{value + 0.0:.3f}".replace("-", "−") if abs(value) < 1 else formatting.format_number(value)
