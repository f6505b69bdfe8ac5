"""A known data set: what its entry in the registry says, and how a split of it becomes a table with our columns."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.datasets.files import (
    ColumnMap,
    FileLayout,
    LocatedRow,
    candidate_folders,
    missing_columns_error,
    normalize_name,
)
from gpt1.datasets.hub import HubSource
from gpt1.errors import UserError, did_you_mean
from gpt1.tables.facts import normalize_text
from gpt1.tables.table import Table

if TYPE_CHECKING:
    from gpt1.tasks.kinds import Kind

HUB = "hub"
"""As data_dir: take the Hugging Face hub and not a folder."""
EVALUATION_SPLITS = ("dev", "test")


class MissingSplit(UserError):
    """The files of a split cannot be found."""


@dataclass(frozen=True)
class KnownTable(Table):
    """A split of a known data set. Its columns are the kind's own (text; premise, hypothesis; …), `label`, and `subset`
    where the split has some."""

    row_locations: list[str] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list)
    """What a person should know: counts that are not the official ones, rows that were left out."""
    split: str = ""
    official_rows: int | None = None
    """Rows of the official split, in the layout in which it was found."""

    def locate_row(self, i: int) -> str:
        return self.row_locations[i]


@dataclass(frozen=True)
class DataSet:
    """An entry of the registry.

    labels: the classes; none where the label is a number (`score_range`: its least and greatest value) or an answer.
    metrics: of the paper or of GLUE, the paper's first.
    counts: rows of the official splits, of their parts as `split-subset`.
    subsets: name → the mark that the files of the subset have in their names.
    label_map: labels as the files write them → ours; None leaves the row out (no gold label).
    glue: the names of GLUE's files for predictions, in the order of the test split's files.
    """

    name: str
    title: str
    kind_name: str
    metrics: tuple[str, ...]
    files: tuple[FileLayout, ...]
    hub: HubSource | None
    counts: Mapping[str, int]
    download_hint: str
    labels: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    train_split: str = "train"
    evaluation_split: str = "dev"
    unlabelled: tuple[str, ...] = ()
    """Splits whose labels are not handed out."""
    subsets: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str | int | None] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    glue: tuple[str, ...] = ()

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for files in self.files for split in files.splits))

    @property
    def kind(self) -> Kind:
        """The kind's record. It brings torch along, which names and entries can do without."""
        from gpt1.tasks.kinds import KINDS

        return KINDS[self.kind_name]

    @property
    def score(self) -> bool:
        """Whether the label is a number: `--score`."""
        return self.score_range is not None

    @property
    def columns(self) -> dict[str, str]:
        """Role → column of our tables, as the flags of `gpt1 finetune` take them."""
        roles = [role for role in (*self.kind.columns, "label") if role in self.files[0].columns]
        return {role: role for role in roles}

    def read(
        self, split: str | None = None, data_dir: str | Path | None = None, subset: str | None = None
    ) -> KnownTable:
        """A split (the labelled evaluation split, where none is named), from a folder or from the hub.

        data_dir: the data set's folder, or one above it; else the environment's GPT1_DATA; else the hub.
        Raises UserError for a split or folder that is not there, other columns, a label outside the set, a broken row.
        """
        if split is None:
            return self.evaluation_table(data_dir, subset)
        split = self.check_split(split, subset)
        data_dir = data_dir or os.environ.get("GPT1_DATA") or HUB
        dropped: dict[str, int] = {}
        source: FileLayout | HubSource
        parts: list[tuple[str, Iterable[LocatedRow]]]
        if str(data_dir) == HUB:
            source = self.hub_source(split)
            theirs = [part for part in source.splits[split] if self.subset_marker(subset) in part]
            read_from = [f"{source.name} {part}" for part in theirs]
            parts = [(part, source.rows(part, self.labels)) for part in theirs]
        else:
            source, found = self.find_in_folder(split, Path(data_dir), subset)
            read_from = [str(path) for _, path in found]
            parts = [*source.rows_by_file(found, dropped)]
        rows, stands = self.convert_rows(split, source.columns, parts, dropped)
        if not rows:
            raise UserError(
                f"the {split} split of {self.title} has no rows: {', '.join(dict.fromkeys(read_from))}.",
                "Copy or download it again.",
            )
        name = f"{self.name}:{split}" + (f"-{subset}" if subset else "")
        notes = [f"{name}: {n:,} rows {why}: left out." for why, n in dropped.items()]
        expected = source.counts.get(split) or self.official_count(split, subset)
        if expected and len(rows) != expected:
            notes.append(f"{name} has {len(rows):,} rows; the official split has {expected:,}.")
        return KnownTable(
            name, list(rows[0]), rows, row_locations=stands, notes=notes, split=split, official_rows=expected
        )

    def evaluation_table(self, data_dir: str | Path | None = None, subset: str | None = None) -> KnownTable:
        """The evaluation split; where its files have no labels (as in GLUE's own MRPC), another one that has some."""
        usual = self.read(self.evaluation_split, data_dir, subset)
        if "label" in usual.columns:
            return usual
        for split in EVALUATION_SPLITS:
            if split in self.splits and split not in (self.evaluation_split, self.train_split):
                with suppress(MissingSplit):
                    other = self.read(split, data_dir, subset)
                    if "label" in other.columns:
                        return other
        return usual

    def check_split(self, split: str, subset: str | None) -> str:
        if split not in self.splits:
            options = [*self.splits, *self.subsets]
            raise UserError(
                f"{self.name} has no split '{split}'.{did_you_mean(split, options)}", f"It has: {', '.join(options)}."
            )
        if subset and self.subsets and self.official_count(split, subset) is None:
            raise UserError(f"the {split} split of {self.name} has no part '{subset}'.", f"Take {self.name}:{split}.")
        return split

    def official_count(self, split: str, subset: str | None = None) -> int | None:
        if subset:
            return self.counts.get(f"{split}-{subset}")
        parts = [n for name, n in self.counts.items() if name == split or name.startswith(f"{split}-")]
        return sum(parts) or None

    def subset_in_name(self, name: str) -> str | None:
        return next((subset for subset, mark in self.subsets.items() if mark in name), None)

    def subset_marker(self, subset: str | None) -> str:
        """What the names of a subset's files have in them; of all rows nothing in particular."""
        return self.subsets[subset] if subset else ""

    def find_in_folder(
        self, split: str, folder: Path, subset: str | None = None
    ) -> tuple[FileLayout, list[tuple[str, Path]]]:
        """The first layout that has the split (or its part) in `folder`, with its files."""
        where, mark = candidate_folders(folder, (self.name, *self.folders)), self.subset_marker(subset)
        for files in self.files:
            if found := files.find(split, where, mark):
                return files, found
        layouts = [files.splits[split] for files in self.files if split in files.splits]
        names = [" + ".join(name for name in layout if mark in name) for layout in layouts]
        names += dict.fromkeys(archive for files in self.files if split in files.splits for archive in files.archives)
        others = [other for other in self.splits if any(files.find(other, where) for files in self.files)]
        raise MissingSplit(
            f"the {split} split of {self.title} is not in {folder}: there is no {', no '.join(names)} "
            f"(looked in {', '.join(map(str, where[:4]))}).",
            (f"There are: {', '.join(f'{self.name}:{other}' for other in others)}. " if others else "")
            + f"{self.download_hint} Name its folder with --data-dir{', or take --data-dir hub' * bool(self.hub)}.",
        )

    def hub_source(self, split: str) -> HubSource:
        if self.hub is None or split not in self.hub.splits:
            raise MissingSplit(
                f"no folder with the files of {self.title} is named, and the hub does not have its {split} split.",
                f"{self.download_hint} Then name its folder with --data-dir, or in the environment as GPT1_DATA.",
            )
        self.hub.check_installed(self.title, self.download_hint)
        return self.hub

    def convert_rows(
        self,
        split: str,
        columns: ColumnMap,
        parts: Iterable[tuple[str, Iterable[LocatedRow]]],
        dropped: dict[str, int],
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """(rows with our columns, where they stand)."""
        rows, stands = [], []
        for name, part in parts:
            own: dict[str, Any] = {} if (subset := self.subset_in_name(name)) is None else {"subset": subset}
            taken: ColumnMap = {}
            for place, row in part:
                if not taken:
                    hidden = split in self.unlabelled and columns.get("label") not in row
                    taken = {ours: theirs for ours, theirs in columns.items() if not (hidden and ours == "label")}
                    if error := missing_columns_error(place, taken, list(row)):
                        raise error
                cells = {ours: convert_cell(row, ours, theirs, place) for ours, theirs in taken.items()}
                if "label" in cells:
                    cells["label"] = self.convert_label(cells["label"], len(cells.get("choices", ())), place)
                    if cells["label"] is None:
                        reason = "have no gold label"
                        dropped[reason] = dropped.get(reason, 0) + 1
                        continue
                rows.append({**cells, **own})
                stands.append(place)
        return rows, stands

    def convert_label(self, value: Any, answers: int, place: str) -> str | int | float | None:
        text = str(value).strip()
        if text in self.label_map:
            label = self.label_map[text]
            if label is None or not answers or int(label) < answers:
                return label
        elif text in self.labels:
            return text
        elif self.score_range:
            low, high = self.score_range
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if low <= number <= high:
                return number
            raise UserError(
                f"{place}: the score is '{text}'.", f"A score of {self.title} is a number from {low:g} to {high:g}."
            )
        known = [*self.labels, *(name for name, label in self.label_map.items() if label is not None)]
        raise UserError(
            f"{place}: '{text[:40]}' is no label of {self.title}.{did_you_mean(text, known)}",
            f"The labels are: {', '.join(known)}. Is this the folder of another data set?",
        )

    def train_table(
        self,
        data_dir: str | Path | None = None,
        *,
        keep_duplicates: bool = False,
        split: str | None = None,
        subset: str | None = None,
    ) -> tuple[KnownTable, list[str]]:
        """(the training table, what to tell): rows whose texts also stand in dev or test leave it.

        keep_duplicates: they stay, and are told (recipe `paper`). split: train on another one, such as SNLI's dev where
        its train split is not at hand.
        """
        table = self.read(split or self.train_split, data_dir, subset)
        notes = list(table.notes)
        for other in EVALUATION_SPLITS:
            if other == (split or self.train_split) or other not in self.splits:
                continue
            try:
                there = self.read(other, data_dir)
            except MissingSplit:
                continue
            exact, alike = ({key(row) for row in there.rows} for key in (self.comparison_texts, self.comparison_key))
            kept = [i for i, row in enumerate(table.rows) if self.comparison_key(row) not in alike]
            if repeated := len(table) - len(kept):
                same = sum(self.comparison_texts(row) in exact for row in table.rows)
                nearly = (
                    "but for case, spaces, signs and order" if self.is_symmetric else "but for case, spaces and signs"
                )
                how = {"to the letter": same, nearly: repeated - same}
                notes.append(
                    f"{table.name}: {repeated:,} of {len(table):,} rows also stand in {other} "
                    f"({', '.join(f'{n:,} {what}' for what, n in how.items() if n)}): "
                    f"{'kept' if keep_duplicates else 'left out'}."
                )
                if not keep_duplicates:
                    table = select_rows(table, kept)
        return table, notes

    def comparison_texts(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The texts by which rows are the same: all; the passage alone where questions and answers hang on it."""
        kind = self.kind
        return tuple(row[role] for role in kind.columns if role in row)[: 1 if kind.multiple_choice else None]

    def comparison_key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """`texts` but for case, spaces and signs, and for the order of a pair that the model sees in both orders."""
        texts = tuple(map(normalize_text, self.comparison_texts(row)))
        return tuple(sorted(texts)) if self.is_symmetric else texts

    @property
    def is_symmetric(self) -> bool:
        """Whether a pair means the same in both orders."""
        return self.kind.sequences > 1


def convert_cell(row: Mapping[str, Any], ours: str, theirs: str | tuple[str, ...], place: str) -> Any:
    """The value of our column out of a row of theirs; UserError for one that is missing or of another type."""
    names = (theirs,) if isinstance(theirs, str) else theirs
    values = [row.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise UserError(f"{place}: '{name}' is missing.", "Mend or remove the row.")
        if ours not in ("label", "choices") and not isinstance(value, str):
            raise UserError(f"{place}: '{name}' is {str(value)[:40]!r} and not a text.", "Mend or remove the row.")
    if ours == "choices":
        answers = values[0] if len(values) == 1 else values
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(a, str) for a in answers):
            raise UserError(f"{place}: '{names[0]}' is no list of two answers or more.", "Mend or remove the row.")
        return answers
    return values[0] if len(values) == 1 else " ".join(map(str, values))


def select_rows(table: KnownTable, kept: Sequence[int]) -> KnownTable:
    rows, stands = [table.rows[i] for i in kept], [table.row_locations[i] for i in kept]
    return replace(table, rows=rows, row_locations=stands)


@dataclass(frozen=True)
class DataSetSplit:
    """What a name such as `rte`, `rte:dev`, `mnli:mm` or `race:test-high` means."""

    data: DataSet
    split: str | None = None
    subset: str | None = None

    def evaluation_table(self, data_dir: str | Path | None = None) -> KnownTable:
        """The split that is named, else the labelled evaluation split."""
        return self.data.read(self.split, data_dir, self.subset)

    def train_table(
        self, data_dir: str | Path | None = None, *, keep_duplicates: bool = False
    ) -> tuple[KnownTable, list[str]]:
        """The split that is named, else the training split, without what dev and test repeat; and what to tell."""
        return self.data.train_table(data_dir, keep_duplicates=keep_duplicates, split=self.split, subset=self.subset)


def resolve_split(data: DataSet, part: str) -> DataSetSplit:
    """`part` of a name behind its colon: a split, a subset, or split-subset."""
    if not part:
        return DataSetSplit(data)
    if part in data.subsets:
        return DataSetSplit(data, subset=part)
    split, _, subset = part.partition("-")
    if subset and subset not in data.subsets:
        split = part
    meant = {normalize_name(s): s for s in data.splits} | {"validation": "dev", "unlabelled": "unlabeled"}
    split = data.check_split(meant.get(normalize_name(split), split), subset or None)
    return DataSetSplit(data, split, subset if split != part and subset else None)
