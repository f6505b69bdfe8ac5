"""Winograd schemas in the format of the Definite Pronoun Resolution data (DPRD; Rahman and Ng 2012).

Four lines each: the sentence; the pronoun; the two referents, set off by a comma; the right one. Blank lines between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt1.errors import UserError
from gpt1.files.foreign import read_bounded
from gpt1.files.reading import not_found_error

SCHEMA_FILES = {"train": ("train.c.txt", "train.txt"), "test": ("test.c.txt", "test.txt")}
SCHEMA_FOLDERS = ("", "DPRD", "dprd", "DPR", "winograd", "dpr")
DOWNLOAD_HINT = "It is at https://www.hlt.utdallas.edu/~vince/data/emnlp12/ (train.c.txt and test.c.txt)."


@dataclass(frozen=True)
class WinogradSchema:
    """`before` pronoun `after`: which of `referents` does the pronoun stand for? `answer_index` is its position."""

    before: str
    pronoun: str
    after: str
    referents: tuple[str, str]
    answer_index: int


def find_schemas(data_dir: str | Path, split: str) -> Path:
    """The file of a split in a folder; UserError where it is not."""
    for folder in SCHEMA_FOLDERS:
        for name in SCHEMA_FILES[split]:
            if (path := Path(data_dir) / folder / name).is_file():
                return path
    raise UserError(f"there are no Winograd schemas in {data_dir}: no {SCHEMA_FILES[split][0]}.", DOWNLOAD_HINT)


def read_schemas(path: str | Path) -> list[WinogradSchema]:
    """The schemas of a file. UserError with file and line for one that is not of the format."""
    try:
        if not Path(path).exists():
            raise not_found_error(path)
        lines = read_bounded(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}).", "Save it as UTF-8.") from None
    found: list[WinogradSchema] = []
    block: list[tuple[int, str]] = []
    for number, line in [*enumerate(lines, 1), (len(lines) + 1, "")]:
        if line.strip():
            block.append((number, line.strip()))
        elif block:
            found.append(parse_schema(path, block))
            block = []
    if not found:
        raise UserError(
            f"{path} holds no schemas.", "It needs four lines each, with blank lines between. " + DOWNLOAD_HINT
        )
    return found


def parse_schema(path: str | Path, block: list[tuple[int, str]]) -> WinogradSchema:
    where = f"{path}, line {block[0][0]:,}"
    if len(block) != 4:
        raise UserError(
            f"{where}: a schema of {len(block)} lines.", "It has four: sentence, pronoun, two referents, the right one."
        )
    sentence, pronoun, pair, answer = (line for _, line in block)
    referents = tuple(part.strip() for part in pair.split(","))
    if len(referents) != 2 or not all(referents):
        raise UserError(f"{path}, line {block[2][0]:,}: '{pair}' is no pair.", "Write the two referents as: one,other")
    lowered = [referent.lower() for referent in referents]
    if answer.lower() not in lowered:
        raise UserError(f"{path}, line {block[3][0]:,}: '{answer}' is none of: {pair}.", "Mend the line.")
    start = find_pronoun(sentence, pronoun, referents)
    if start is None:
        raise UserError(f"{where}: the sentence has no word '{pronoun}'.", "Mend the sentence or its second line.")
    before, after = sentence[:start].rstrip(), sentence[start + len(pronoun) :].strip()
    return WinogradSchema(before, pronoun, after, (referents[0], referents[1]), lowered.index(answer.lower()))


def find_pronoun(sentence: str, pronoun: str, referents: Sequence[str]) -> int | None:
    """Where the pronoun stands: its first place behind both referents, else the last one."""
    named = [re.search(re.escape(referent), sentence, re.IGNORECASE) for referent in referents]
    ends = [match.end() for match in named if match]
    found = re.finditer(rf"(?<!\w){re.escape(pronoun)}(?!\w)", sentence, re.IGNORECASE)
    places = [match.start() for match in found]
    return next((p for p in places if p >= max(ends, default=0)), places[-1] if places else None)
