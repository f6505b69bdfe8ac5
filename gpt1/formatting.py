"""How numbers, times and strange characters are shown to people: in the terminal and on pages alike."""

from __future__ import annotations

import math
import unicodedata


def number(value: float, digits: int = 3) -> str:
    """A measurement: integers with separators, other numbers with `digits` significant digits (0.870, 61.2, 12,345)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= 10 ** max(digits, 3) - 0.5:  # what rounds to it too
        return f"{value:,.0f}"
    if value and abs(value) < 1e-3:
        return plain(float(f"{value:.{digits}g}"))
    return f"{value:#.{digits}g}".rstrip(".") if value else f"{0:.{digits}f}"


def plain(value: float) -> str:
    """A setting: as short as it can be written (0.1, 2000, 2.5e-4)."""
    text = f"{value:.12g}"
    if "e" not in text and value and abs(value) < 1e-3:
        text = f"{value:.12e}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    return text


def amount(value: float) -> str:
    """A large count in two or three digits: 980, 16.4 k, 25.3 M, 1.20 G."""
    for size, unit, least in ((1e9, "G", 0.9995e9), (1e6, "M", 0.9995e6), (1e3, "k", 1e4)):
        if abs(value) >= least:
            return f"{number(value / size)} {unit}"
    return f"{value:,.0f}"


def counted(n: int, what: str) -> str:
    """1 document, 2,000 documents."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def duration(seconds: float) -> str:
    """1:52, or 2:03:00 from an hour on."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def measurement(name: str, value: float) -> str:
    """What stands beside a bar: `loss 3.21`, `9,012 tokens/s`."""
    said = name.replace("_per_s", "/s").replace("_", " ")
    return f"{number(value)} {said}" if said.endswith("/s") else f"{said} {number(value)}"


REORDER = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Orders to show what follows from right to left: left open in a label, they turn the numbers beside it round."""


def printable(text: str) -> str:
    r"""`text` with what a terminal would obey (escape, bell, carriage return …) written out, as in \x1b."""
    return "".join(_code(c) if is_order(c) else c for c in text)


def is_order(character: str) -> bool:
    if character in REORDER:
        return True
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
