"""95% confidence intervals that follow from a score and its number of rows alone."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Standard deviations on each side of the mean that hold 95% of a normal distribution."""


def estimate_interval(metric: str, value: float, rows: int) -> tuple[float, float] | None:
    """Wilson's interval for accuracy, Fisher's for correlations; None for other metrics or too few rows."""
    if metric == "accuracy" and rows > 0 and 0 <= value <= 1:
        return wilson_interval(value, rows)
    if metric in ("pearson", "spearman") and rows > 3 and -1 <= value <= 1:
        return fisher_interval(value, rows, ranks=metric == "spearman")
    return None


def wilson_interval(share: float, rows: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927)."""
    shrink = 1 + Z**2 / rows
    middle = (share + Z**2 / (2 * rows)) / shrink
    half = Z / shrink * math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def fisher_interval(correlation: float, rows: int, ranks: bool = False) -> tuple[float, float]:
    """Interval of Pearson's correlation (Fisher 1921), or of Spearman's with `ranks` (Fieller et al. 1957)."""
    z = math.atanh(min(max(correlation, -1 + 1e-12), 1 - 1e-12))
    half = Z * math.sqrt((1.06 if ranks else 1.0) / (rows - 3))
    return math.tanh(z - half), math.tanh(z + half)
