"""What the original does to a text before it looks for words: ftfy mends it, punctuation and white space are set apart.

`blocks(text)` mends a text, which is then cut at white space into chunks; `separate(chunks)` sets off the punctuation
in each. Together they give, chunk by chunk, what the original computes for the whole text at once:

    fix_text → dashes, ellipses and accents to ASCII → punctuation set off by spaces → spaces round newlines →
    other white space to one space → strip

Nothing in there looks further than a run of white space, so a chunk that was seen once never has to be looked at again.
ftfy is asked only for lines that it could change; the tests hold all this against the whole-text form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

NEWLINE = "\0"
"""Stands for a line break among the chunks. No chunk can look like it: ftfy removes this character from every text."""

BLOCK_CHARACTERS = 1 << 16
"""Characters of a text that are handed on at a time."""

# The released pattern, behind a look at the next character (five times as fast). It names plus twice where a backslash
# was meant the second time, so backslashes stay where they are.
PUNCTUATION = re.compile(r"(?=[-~!\";?+,)(/*\[\]}{|_])(-+|~+|!+|\"+|;+|\?+|\++|,+|\)+|\(+|/+|\*+|\[+|\]+|}+|{+|\|+|_+)")


def split_blocks(text: str) -> Iterator[str]:
    """A mended text, about BLOCK characters at a time; NEWLINE, with white space around it, stands between two lines.

    A run of white space with line breaks in it counts as one line break; at either end of the text it is nothing.
    """
    lines = [line for line in map(str.strip, fix_text(text).split("\n")) if line]
    start, size, joint = 0, 0, ""
    for number, line in enumerate(lines):
        size += len(line)
        if size >= BLOCK_CHARACTERS or number == len(lines) - 1:
            yield joint + f" {NEWLINE} ".join(lines[start : number + 1])
            start, size, joint = number + 1, 0, f"{NEWLINE} "


def separate_punctuation(chunks: Sequence[str]) -> list[str]:
    """Each chunk with its runs of punctuation set off: `word,--` → `word ,  -- ` (with more spaces than are needed)."""
    if not chunks:
        return []
    text = "\n".join(chunks)
    for dash in "—–―":
        text = text.replace(dash, "-")
    text = text.replace("…", "...").replace("´", "'")
    return " ".join(PUNCTUATION.split(text)).split("\n")


# ---- ftfy, and where it can be left out ------------------------------------------------------------------------------

VERIFIED_FTFY_VERSION = "6.3.1"
"""The version of ftfy that `_plain` was read and tested against. Another version gets every line that is not ASCII."""

# ASCII text that ftfy changes: control characters (ESC starts a terminal escape) and HTML entities. Form feeds stay.
CONTROLS = re.compile(r"[\x00-\x08\x0b\r\x0e-\x1f\x7f]")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")

REWRITTEN = {**dict.fromkeys("‘’‚‛ʼ", "'"), **dict.fromkeys("“”„‟", '"'), "\ufeff": ""}
TYPOGRAPHY = "".join(REWRITTEN) + "–—―…´•\xa0"
# Letters with accents; not those that ftfy takes apart, nor those that it judges by a space beside them (see _plain).
LETTERS = "".join(
    char
    for char in map(chr, [*range(0xC0, 0x250), *range(0x1E00, 0x1F00)])
    if char.isalpha() and char not in "ÂÃÎÐØÙŒœĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳ"
)
ONLY_TYPOGRAPHY = re.compile(f"[\t\n\x0c -~{TYPOGRAPHY}]*")
ONLY_SAFE_CHARACTERS = re.compile(f"[\t\n\x0c -~{TYPOGRAPHY}{LETTERS}]*")


def fix_text(text: str) -> str:
    """ftfy.fix_text(text).

    ftfy works line by line. One thing passes from line to line: after the first `<`, entities are left alone.
    """
    controls = CONTROLS.search(text) is not None
    entities = "&" in text and ENTITY.search(text) is not None
    if text.isascii() and not controls and not entities:
        return text
    lines = LINE.findall(text)
    first_tag = text.count("\n", 0, text.index("<")) if "<" in text else len(lines)
    for number, line in enumerate(lines):
        if line.isascii() and not (controls and CONTROLS.search(line)) and not (entities and ENTITY.search(line)):
            continue
        plain = None if line.isascii() else _fix_without_ftfy(line)
        unescape_html = "auto" if number <= first_tag else False
        lines[number] = _ftfy().fix_text(line, unescape_html=unescape_html) if plain is None else plain
    return "".join(lines)


def _fix_without_ftfy(line: str) -> str | None:
    """The line as ftfy leaves it, where that can be told without ftfy; else None.

    Of the characters admitted here ftfy only straightens quotes and drops U+FEFF, unless it takes the line for text
    that was decoded wrongly. It judges that by sequences of neighbouring characters (its `is_bad`); with the characters
    admitted here none of them spans white space, and none is made of typography and ASCII alone. So it is enough to
    judge the words with accented letters.
    """
    if _ftfy().__version__ != VERIFIED_FTFY_VERSION or not ONLY_SAFE_CHARACTERS.fullmatch(line):
        return None
    fixed = line
    for char, straight in REWRITTEN.items():
        fixed = fixed.replace(char, straight)
    if ENTITY.search(fixed):
        return None
    if not ONLY_TYPOGRAPHY.fullmatch(line):
        from ftfy.badness import is_bad

        if any(is_bad(word) for word in {*line.split(), *fixed.split()} if not word.isascii()):
            return None
    return fixed


@cache
def _ftfy() -> Any:
    import ftfy

    return ftfy
