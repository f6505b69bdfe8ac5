"""Text normalization of the original pipeline: ftfy repairs a text, then punctuation is separated by spaces.

`split_blocks(text)` repairs a text, which is then split at white space into chunks; `separate_punctuation(chunks)`
separates the punctuation in each chunk. The result is the same as that of the released code, which processes the whole
text at once:

    fix_text → dashes, ellipses and accents to ASCII → spaces around punctuation → spaces around newlines →
    other white space to one space → strip

None of these steps depends on text beyond white space, so the result of a chunk can be cached. ftfy is called only for
lines that it could change. The tests compare all this with the whole-text form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

NEWLINE = "\0"
"""The chunk for a line break. No other chunk can equal it: ftfy removes this character from every text."""

BLOCK_CHARACTERS = 1 << 16
"""Characters of a text per block."""

# The released pattern with a lookahead in front (five times as fast). The release writes plus twice, where the second
# was probably meant to be a backslash, so backslashes are not separated.
PUNCTUATION = re.compile(r"(?=[-~!\";?+,)(/*\[\]}{|_])(-+|~+|!+|\"+|;+|\?+|\++|,+|\)+|\(+|/+|\*+|\[+|\]+|}+|{+|\|+|_+)")


def split_blocks(text: str) -> Iterator[str]:
    """The repaired text in blocks of about BLOCK_CHARACTERS, with NEWLINE and white space around it between lines.

    Several line breaks in a row count as one; those at the ends of the text are dropped.
    """
    lines = [line for line in map(str.strip, fix_text(text).split("\n")) if line]
    start, size, separator = 0, 0, ""
    for i, line in enumerate(lines):
        size += len(line)
        if size >= BLOCK_CHARACTERS or i == len(lines) - 1:
            yield separator + f" {NEWLINE} ".join(lines[start : i + 1])
            start, size, separator = i + 1, 0, f"{NEWLINE} "


def separate_punctuation(chunks: Sequence[str]) -> list[str]:
    """Each chunk with spaces around its runs of punctuation: `word,--` → `word ,  -- ` (spaces may repeat)."""
    if not chunks:
        return []
    text = "\n".join(chunks)
    for dash in "—–―":
        text = text.replace(dash, "-")
    text = text.replace("…", "...").replace("´", "'")
    return " ".join(PUNCTUATION.split(text)).split("\n")


# ---- ftfy, and how to avoid calling it -------------------------------------------------------------------------------

VERIFIED_FTFY_VERSION = "6.3.1"
"""The version of ftfy that `_fix_without_ftfy` was tested with. Other versions process every line that is not ASCII."""

# ASCII text that ftfy changes: control characters (ESC starts a terminal escape) and HTML entities. Form feeds remain.
CONTROLS = re.compile(r"[\x00-\x08\x0b\r\x0e-\x1f\x7f]")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")

REWRITTEN = {**dict.fromkeys("‘’‚‛ʼ", "'"), **dict.fromkeys("“”„‟", '"'), "\ufeff": ""}
TYPOGRAPHY = "".join(REWRITTEN) + "–—―…´•\xa0"
# Letters with accents, except those that ftfy decomposes or checks together with a space (see _fix_without_ftfy).
LETTERS = "".join(
    char
    for char in map(chr, [*range(0xC0, 0x250), *range(0x1E00, 0x1F00)])
    if char.isalpha() and char not in "ÂÃÎÐØÙŒœĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳ"
)
ONLY_TYPOGRAPHY = re.compile(f"[\t\n\x0c -~{TYPOGRAPHY}]*")
ONLY_SAFE_CHARACTERS = re.compile(f"[\t\n\x0c -~{TYPOGRAPHY}{LETTERS}]*")


def fix_text(text: str) -> str:
    """Same result as ftfy.fix_text(text), which works line by line.

    The only dependence between lines: after the first `<`, ftfy does not decode HTML entities.
    """
    controls = CONTROLS.search(text) is not None
    entities = "&" in text and ENTITY.search(text) is not None
    if text.isascii() and not controls and not entities:
        return text
    lines = LINE.findall(text)
    first_tag = text.count("\n", 0, text.index("<")) if "<" in text else len(lines)
    for i, line in enumerate(lines):
        if line.isascii() and not (controls and CONTROLS.search(line)) and not (entities and ENTITY.search(line)):
            continue
        fixed = None if line.isascii() else _fix_without_ftfy(line)
        if fixed is None:
            fixed = _ftfy().fix_text(line, unescape_html="auto" if i <= first_tag else False)
        lines[i] = fixed
    return "".join(lines)


def _fix_without_ftfy(line: str) -> str | None:
    """The result of ftfy for a line, if it can be computed without ftfy; else None.

    For the characters allowed here, ftfy only straightens quotes and removes U+FEFF, unless it detects text decoded
    with a wrong encoding. It detects that by sequences of adjacent characters (its `is_bad`). With the characters
    allowed here, no such sequence spans white space or consists only of typography and ASCII. So only words with
    accented letters need the check.
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
