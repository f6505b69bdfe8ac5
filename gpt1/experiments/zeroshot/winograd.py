"""Winograd schemas in the format of the Definite Pronoun Resolution data (DPRD; Rahman and Ng 2012).

Four lines each: the sentence, the pronoun, the two referents separated by a comma, and the correct referent. A blank
line separates schemas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt1.datasets import MissingSplit
from gpt1.errors import UserError
from gpt1.files.foreign import read_bounded
from gpt1.files.reading import not_found_error

SCHEMA_FILES = {"train": ("train.c.txt", "train.txt"), "test": ("test.c.txt", "test.txt")}
SCHEMA_FOLDERS = ("", "DPRD", "dprd", "DPR", "winograd", "dpr")
DOWNLOAD_HINT = "Download them from https://www.hlt.utdallas.edu/~vince/data/emnlp12/ (train.c.txt and test.c.txt)."


@dataclass(frozen=True)
class WinogradSchema:
    """The sentence is `before`, a pronoun and `after`. The pronoun stands for `referents[answer_index]`."""

    before: str
    after: str
    referents: tuple[str, str]
    answer_index: int


def find_schemas(data_dir: str | Path | None, split: str) -> Path:
    """The file of a split, in `data_dir` or GPT1_DATA; MissingSplit if there is none."""
    data_dir = data_dir or os.environ.get("GPT1_DATA")
    if not data_dir:
        raise MissingSplit(
            "the folder with the Winograd schemas is missing.",
            f"{DOWNLOAD_HINT} Set their folder with --data-dir (or GPT1_DATA).",
        )
    for folder in SCHEMA_FOLDERS:
        for name in SCHEMA_FILES[split]:
            if (path := Path(data_dir) / folder / name).is_file():
                return path
    raise MissingSplit(f"no Winograd schemas in {data_dir}: no {SCHEMA_FILES[split][0]} found.", DOWNLOAD_HINT)


def read_schemas(path: str | Path) -> list[WinogradSchema]:
    """Read a file of schemas. UserError with the file and line if one is invalid."""
    try:
        if not Path(path).exists():
            raise not_found_error(path)
        lines = read_bounded(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}).", "Save it as UTF-8.") from None
    schemas: list[WinogradSchema] = []
    block: list[tuple[int, str]] = []
    for number, line in [*enumerate(lines, 1), (len(lines) + 1, "")]:
        if line.strip():
            block.append((number, line.strip()))
        elif block:
            schemas.append(parse_schema(path, block))
            block = []
    if not schemas:
        raise UserError(
            f"{path} has no schemas.", "A schema has four lines; blank lines separate them. " + DOWNLOAD_HINT
        )
    return schemas


def parse_schema(path: str | Path, block: list[tuple[int, str]]) -> WinogradSchema:
    where = f"{path}, line {block[0][0]:,}"
    if len(block) != 4:
        raise UserError(
            f"{where}: a schema with {len(block)} lines.",
            "Use four: sentence, pronoun, two referents, correct referent.",
        )
    sentence, pronoun, pair, answer = (line for _, line in block)
    referents = tuple(part.strip() for part in pair.split(","))
    if len(referents) != 2 or not all(referents):
        raise UserError(
            f"{path}, line {block[2][0]:,}: '{pair}' is not a pair.", "Write the two referents as: one,other"
        )
    lowered = [referent.lower() for referent in referents]
    if answer.lower() not in lowered:
        raise UserError(f"{path}, line {block[3][0]:,}: '{answer}' is none of: {pair}.", "Fix this line.")
    start = find_pronoun(sentence, pronoun, referents)
    if start is None:
        raise UserError(
            f"{where}: the sentence has no word '{pronoun}'.", "Fix the sentence or the pronoun in the next line."
        )
    before, after = sentence[:start].rstrip(), sentence[start + len(pronoun) :].strip()
    return WinogradSchema(before, after, (referents[0], referents[1]), lowered.index(answer.lower()))


def find_pronoun(sentence: str, pronoun: str, referents: Sequence[str]) -> int | None:
    """The position of the pronoun: the first one after both referents, otherwise the last one."""
    matches = [re.search(re.escape(referent), sentence, re.IGNORECASE) for referent in referents]
    end = max((match.end() for match in matches if match), default=0)
    pattern = rf"(?<!\w){re.escape(pronoun)}(?!\w)"
    starts = [match.start() for match in re.finditer(pattern, sentence, re.IGNORECASE)]
    return next((start for start in starts if start >= end), starts[-1] if starts else None)
