"""Formatting of numbers, times and control characters, for the terminal and for report pages."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any


def format_number(value: float, digits: int = 3) -> str:
    """A measurement: integers with separators, other numbers with `digits` significant digits (0.870, 61.2, 12,345)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= 10 ** max(digits, 3) - 0.5:  # including values that round up to it
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        return format_setting(float(f"{value:.{digits}g}"))
    return f"{value:#.{digits}g}".rstrip(".") if value else f"{0:.{digits}f}"


def float_or_nan(value: Any) -> float:
    """A value from a file as a number; NaN if it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def three_decimals(interval: Sequence[float]) -> str:
    """A confidence interval in a line of text: [0.821, 0.914]."""
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def format_setting(value: float) -> str:
    """A setting in its shortest form (0.1, 2000, 2.5e-4)."""
    text = f"{value:.12g}"
    if "e" not in text and value and abs(value) < 1e-3:
        text = f"{value:.12e}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return text


def format_large_count(value: float) -> str:
    """A large count in three digits: 980, 16.4k, 25.3M, 1.20G."""
    for size, unit, threshold in ((1e9, "G", 0.9995e9), (1e6, "M", 0.9995e6), (1e3, "k", 1e4)):
        if abs(value) >= threshold:
            return f"{format_number(value / size)}{unit}"
    return f"{value:,.0f}"


def count_parameters(n: int) -> str:
    """1.8M parameters, 28.9k parameters."""
    return f"{f'{n / 1e6:.1f}M' if n >= 1e6 else format_large_count(n)} parameters"


def count_noun(n: float, what: str) -> str:
    """1 document, 2,000 documents, 1.5 epochs."""
    number = f"{n:,}" if isinstance(n, int) else f"{n:,.6g}"
    return f"{number} {what}" if n == 1 else f"{number} {what}s"


def format_columns(value: Any) -> str:
    """Columns by role: `text = review, label = stars`; any other value as text."""
    return ", ".join(f"{role} = {name}" for role, name in value.items()) if isinstance(value, dict) else str(value)


def format_size(size: float) -> str:
    """A number of bytes: 812 bytes, 12.3 kB, 600.1 MB; from 100 kB on in MB."""
    if size < 1000:
        return count_noun(round(size), "byte")
    return f"{size / 1e3:.1f} kB" if size < 1e5 else f"{size / 1e6:,.1f} MB"


def format_duration(seconds: float) -> str:
    """Minutes and seconds (1:52), from an hour on with hours (2:03:00)."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def format_estimate(seconds: float) -> str:
    """An estimated time in its largest fitting unit: about 40 s, about 47 min, about 5 h, about 12 days."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:,.0f} {unit}"
    return f"about {seconds:.0f} s"


METRIC_NAMES = {
    "f1": "F1",
    "f1_micro": "F1 (micro)",
    "f1_macro": "F1 (macro)",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
}
"""What people call a metric, unless its name is a word already."""


def metric_name(name: str) -> str:
    """A metric in words, for the terminal and for pages: `Pearson correlation`, `validation loss`."""
    return METRIC_NAMES.get(name, name.replace("_", " "))


def format_metric(name: str, value: float) -> str:
    """A metric for a progress line: `loss 3.21`, `9,012 tokens/s`."""
    if name == "MB_per_s" and value < 0.1:
        return f"{format_size(1e6 * value)}/s"
    label = metric_name(name.replace("_per_s", "/s"))
    return f"{format_number(value)} {label}" if label.endswith("/s") else f"{label} {format_number(value)}"


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal (C0, DEL, C1), that reorder the text around them (bidi embeddings, overrides and
isolates), or that have no UTF-8 form (surrogates: bytes of a file name that are not UTF-8)."""


def escape_controls(text: str, keep: str = "\n\t") -> str:
    r"""`text` with control characters escaped, for example as \x1b, except those in `keep`."""
    return CONTROL.sub(lambda match: match[0] if match[0] in keep else _code(match[0]), text)


def printable_line(text: str) -> str:
    r"""`text` as one line: newlines and tabs are escaped too, so that a file name cannot forge a line of output."""
    return escape_controls(text, keep="")


def printable_json(text: str) -> str:
    r"""JSON text with control characters as \uXXXX: safe in a terminal, and the same value."""
    return CONTROL.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def shell_quote(word: object) -> str:
    r"""`word` quoted for a POSIX shell, on one line: $'a\012b' if it contains control characters."""
    text = str(word)
    if not CONTROL.search(text):
        return shlex.quote(text)

    def escape(match: re.Match[str]) -> str:
        # A byte of a file name that is not UTF-8, or half a character from JSON or YAML.
        errors = "surrogateescape" if "\udc80" <= match[0] <= "\udcff" else "surrogatepass"
        return "".join(f"\\{byte:03o}" for byte in match[0].encode("utf-8", errors))

    return "$'" + CONTROL.sub(escape, text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def shell_join(words: Iterable[object]) -> str:
    return " ".join(map(shell_quote, words))


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
