"""A known data set: its registry entry, and how one of its splits becomes a table with gpt1's columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
from gpt1.formatting import count_noun, float_or_nan
from gpt1.tables.facts import normalize_text
from gpt1.tables.table import Table

if TYPE_CHECKING:
    from gpt1.tasks.kinds import Kind

HUB = "hub"
"""Value of `data_dir` for the Hugging Face hub instead of a folder."""
EVALUATION_SPLITS = ("dev", "test")


class MissingSplit(UserError):
    """The files of a split were not found."""


@dataclass(frozen=True)
class KnownTable(Table):
    """A split of a known data set: the columns of its kind (text; premise, hypothesis; …), `label` and `subset`."""

    row_locations: list[str] = field(default_factory=list, repr=False)
    notes: list[str] = field(default_factory=list)
    """Messages for the user: row counts that differ from the official ones, skipped rows."""
    split: str = ""
    official_rows: int | None = None
    """Rows of the official split in the layout that was found."""

    def locate_row(self, i: int) -> str:
        return self.row_locations[i]

    def select(self, positions: Sequence[int]) -> Self:
        return replace(super().select(positions), row_locations=[self.row_locations[i] for i in positions])


@dataclass(frozen=True)
class DataSet:
    """An entry of the registry.

    Attributes:
        metrics: Metrics of the paper or GLUE; the paper's is first.
        counts: Rows of the official splits, or of their subsets as `split-subset`.
        labels: The classes; empty if the label is a number or the index of an answer.
        score_range: Minimum and maximum of a label that is a number.
        unlabeled_splits: Splits without public labels.
        train_split: Empty if the data set is for evaluation only.
        subsets: Subset → the part of the file name that identifies it.
        label_map: Labels in the files → gpt1's labels; None skips the row (no gold label).
        glue: GLUE's file names for predictions, in the order of the test split's files.
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
    unlabeled_splits: tuple[str, ...] = ()
    subsets: Mapping[str, str] = field(default_factory=dict)
    label_map: Mapping[str, str | int | None] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    glue: tuple[str, ...] = ()

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for files in self.files for split in files.splits))

    @property
    def kind(self) -> Kind:
        """The kind of task."""
        from gpt1.tasks.kinds import KINDS  # imports torch, which the registry does not need

        return KINDS[self.kind_name]

    @property
    def score(self) -> bool:
        """Whether the label is a number (`--score`)."""
        return self.score_range is not None

    @property
    def columns(self) -> dict[str, str]:
        """Role → column of the table, as in the flags of `gpt1 finetune`."""
        roles = [role for role in (*self.kind.columns, "label") if role in self.files[0].columns]
        return {role: role for role in roles}

    def read(
        self, split: str | None = None, data_dir: str | Path | None = None, subset: str | None = None
    ) -> KnownTable:
        """Read a split from a folder or the Hugging Face hub.

        Args:
            split: Default: the labeled evaluation split.
            data_dir: The data set's folder or one above it, or "hub". Default: GPT1_DATA, else the hub.
            subset: Read only this subset of the split.

        Raises:
            UserError: If the split or folder is missing, or a row has wrong columns or an unknown label.
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
            hub_parts = [part for part in source.splits[split] if self.subset_marker(subset) in part]
            locations = [f"{source.name} {part}" for part in hub_parts]
            parts = [(part, source.rows(part, self.labels)) for part in hub_parts]
        else:
            source, files = self.find_in_folder(split, Path(data_dir), subset)
            locations = [str(path) for _, path in files]
            parts = [*source.rows_by_file(files, dropped)]
        rows, row_locations = self.convert_rows(split, source.columns, parts, dropped)
        if not rows:
            raise UserError(
                f"the {split} split of {self.title} has no rows: {', '.join(dict.fromkeys(locations))}.",
                "Copy or download it again.",
            )
        name = f"{self.name}:{split}" + (f"-{subset}" if subset else "")
        notes = [f"{name}: {count_noun(n, 'row')} {reason}: skipped." for reason, n in dropped.items()]
        expected = source.counts.get(split) or self.official_count(split, subset)
        if expected and len(rows) != expected:
            notes.append(f"{name} has {count_noun(len(rows), 'row')}; the official split has {expected:,}.")
        return KnownTable(
            name, list(rows[0]), rows, row_locations=row_locations, notes=notes, split=split, official_rows=expected
        )

    def evaluation_table(self, data_dir: str | Path | None = None, subset: str | None = None) -> KnownTable:
        """The evaluation split; if its files have no labels (as in GLUE's own MRPC), another split with labels."""
        default = self.read(self.evaluation_split, data_dir, subset)
        if "label" in default.columns:
            return default
        for split in EVALUATION_SPLITS:
            if split in self.splits and split not in (self.evaluation_split, self.train_split):
                with suppress(MissingSplit):
                    other = self.read(split, data_dir, subset)
                    if "label" in other.columns:
                        return other
        return default

    def check_split(self, split: str, subset: str | None) -> str:
        if split not in self.splits:
            options = [*self.splits, *self.subsets]
            raise UserError(
                f"{self.name} has no split '{split}'.{did_you_mean(split, options)}", f"Splits: {', '.join(options)}."
            )
        if subset and self.subsets and self.official_count(split, subset) is None:
            raise UserError(f"the {split} split of {self.name} has no subset '{subset}'.", f"Use {self.name}:{split}.")
        return split

    def official_count(self, split: str, subset: str | None = None) -> int | None:
        if subset:
            return self.counts.get(f"{split}-{subset}")
        parts = [n for name, n in self.counts.items() if name == split or name.startswith(f"{split}-")]
        return sum(parts) or None

    def subset_in_name(self, name: str) -> str | None:
        return next((subset for subset, marker in self.subsets.items() if marker in name), None)

    def subset_marker(self, subset: str | None) -> str:
        """The part of a file name that identifies a subset; empty for all rows."""
        return self.subsets[subset] if subset else ""

    def find_in_folder(
        self, split: str, folder: Path, subset: str | None = None
    ) -> tuple[FileLayout, list[tuple[str, Path]]]:
        """The first layout whose files of the split (or subset) are in `folder`, and these files."""
        folders, marker = candidate_folders(folder, (self.name, *self.folders)), self.subset_marker(subset)
        for layout in self.files:
            if files := layout.find(split, folders, marker):
                return layout, files
        layouts = [layout for layout in self.files if split in layout.splits]
        names = [describe_files([name for name in layout.splits[split] if marker in name]) for layout in layouts]
        names += dict.fromkeys(archive for layout in layouts for archive in layout.archives)
        others = [other for other in self.splits if any(layout.find(other, folders) for layout in self.files)]
        raise MissingSplit(
            f"the {split} split of {self.title} is not in {folder}: no {', no '.join(names)} "
            f"(searched: {', '.join(map(str, folders[:4]))}).",
            (f"Found: {', '.join(f'{self.name}:{other}' for other in others)}. " if others else "")
            + f"{self.download_hint} Set its folder with --data-dir{', or use --data-dir hub' * bool(self.hub)}.",
        )

    def hub_source(self, split: str) -> HubSource:
        if self.hub is None or split not in self.hub.splits:
            raise MissingSplit(
                f"no folder with the files of {self.title} is set, and the hub does not have its {split} split.",
                f"{self.download_hint} Then set its folder with --data-dir or the environment variable GPT1_DATA.",
            )
        self.hub.check_installed(self.title, self.download_hint)
        return self.hub

    def convert_rows(
        self, split: str, columns: ColumnMap, parts: Iterable[tuple[str, Iterable[LocatedRow]]], dropped: dict[str, int]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """(rows with gpt1's columns, their locations); skipped rows are counted in `dropped` by reason."""
        rows, locations = [], []
        for name, part in parts:
            subset = self.subset_in_name(name)
            extra: dict[str, Any] = {} if subset is None else {"subset": subset}
            present: ColumnMap = {}  # `columns` without a hidden label; set at the first row
            for location, row in part:
                if not present:
                    hidden = split in self.unlabeled_splits and columns.get("label") not in row
                    present = {ours: theirs for ours, theirs in columns.items() if not (hidden and ours == "label")}
                    if error := missing_columns_error(location, present, list(row)):
                        raise error
                cells = {ours: convert_cell(row, ours, theirs, location) for ours, theirs in present.items()}
                if "label" in cells:
                    cells["label"] = self.convert_label(cells["label"], len(cells.get("choices", ())), location)
                    if cells["label"] is None:
                        reason = "without a gold label"
                        dropped[reason] = dropped.get(reason, 0) + 1
                        continue
                rows.append({**cells, **extra})
                locations.append(location)
        return rows, locations

    def convert_label(self, value: Any, answers: int, location: str) -> str | int | float | None:
        text = str(value).strip()
        if text in self.label_map:
            label = self.label_map[text]
            if label is None or not answers or int(label) < answers:
                return label
        elif text in self.labels:
            return text
        elif self.score_range:
            low, high = self.score_range
            number = float_or_nan(text)
            if low <= number <= high:
                return number
            raise UserError(
                f"{location}: '{text}' is not a score of {self.title}.", f"Scores are numbers from {low:g} to {high:g}."
            )
        known = [*self.labels, *(name for name, label in self.label_map.items() if label is not None)]
        raise UserError(
            f"{location}: '{text[:40]}' is not a label of {self.title}.{did_you_mean(text, known)}",
            f"Labels: {', '.join(known)}. Check that this is the folder of {self.title}.",
        )

    def train_table(
        self,
        data_dir: str | Path | None = None,
        *,
        keep_duplicates: bool = False,
        split: str | None = None,
        subset: str | None = None,
        tested: KnownTable | None = None,
    ) -> tuple[KnownTable, list[str]]:
        """The training table, without rows whose texts are also in dev or test.

        Args:
            data_dir: See `read`.
            keep_duplicates: Keep these rows (recipe `paper`); the messages still report them.
            split: Train on another split, such as SNLI's dev if its train split is not available.
            subset: See `read`.
            tested: Test rows of another or the same split, whose texts are removed as well.

        Returns:
            (table, messages for the user)
        """
        if not (split or self.train_split):
            raise UserError(
                f"{self.title} has no training rows.",
                f"Measure a pre-trained model: gpt1 zeroshot {self.name} --run RUN",
            )
        table = self.read(split or self.train_split, data_dir, subset)
        evaluations: dict[str, KnownTable] = {}
        for other in EVALUATION_SPLITS:
            if other != (split or self.train_split) and other in self.splits:
                with suppress(MissingSplit):
                    evaluations[other] = self.read(other, data_dir)
        if tested is not None and tested.split not in evaluations:
            evaluations[tested.name.partition(":")[2]] = tested
        notes = list(table.notes)
        for other, evaluation in evaluations.items():
            table, note = self.remove_rows_of(evaluation, other, table, keep_duplicates)
            notes += [note] if note else []
        return table, notes

    def remove_rows_of(
        self, evaluation: KnownTable, split: str, table: KnownTable, keep: bool
    ) -> tuple[KnownTable, str]:
        """(`table` without rows whose texts are in `evaluation`, or with them if `keep`; a message about them)."""
        exact = {self.comparison_texts(row) for row in evaluation.rows}
        normalized = {self.comparison_key(row) for row in evaluation.rows}
        kept = [i for i, row in enumerate(table.rows) if self.comparison_key(row) not in normalized]
        repeated = len(table) - len(kept)
        if not repeated:
            return table, ""
        identical = sum(self.comparison_texts(row) in exact for row in table.rows)
        ignored = "case, punctuation and order" if self.kind.is_symmetric else "case and punctuation"
        counts = {"identical": identical, f"ignoring {ignored}": repeated - identical}
        note = (
            f"{table.name}: {repeated:,} of {len(table):,} rows are also in {split} "
            f"({', '.join(f'{n:,} {what}' for what, n in counts.items() if n)}): {'kept' if keep else 'removed'}."
        )
        return table if keep else table.select(kept), note

    def comparison_texts(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The texts that identify a row: all of them; for multiple choice only the passage, which questions share."""
        kind = self.kind
        return tuple(row[role] for role in kind.columns if role in row)[: 1 if kind.multiple_choice else None]

    def comparison_key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Normalized `comparison_texts`; sorted for a pair that the model sees in both orders."""
        texts = tuple(map(normalize_text, self.comparison_texts(row)))
        return tuple(sorted(texts)) if self.kind.is_symmetric else texts


def describe_files(names: Sequence[str]) -> str:
    shown = names if len(names) < 5 else [*names[:2], f"{len(names) - 2} more"]
    return " + ".join(shown)


def convert_cell(row: Mapping[str, Any], ours: str, theirs: str | tuple[str, ...], location: str) -> Any:
    """The value of gpt1's column from the official columns; UserError if it is missing or has a wrong type."""
    names = (theirs,) if isinstance(theirs, str) else theirs
    values = [row.get(name) for name in names]
    fix = "Correct or remove the row."
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise UserError(f"{location}: '{name}' is missing.", fix)
        if ours not in ("label", "choices") and not isinstance(value, str):
            raise UserError(f"{location}: '{name}' is {str(value)[:40]!r}, not a text.", fix)
    if ours == "choices":
        answers = values[0] if len(values) == 1 else values
        if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(a, str) for a in answers):
            raise UserError(f"{location}: '{names[0]}' is not a list of at least two answers.", fix)
        return answers
    return values[0] if len(values) == 1 else " ".join(map(str, values))


@dataclass(frozen=True)
class DataSetSplit:
    """A data set, split and subset, as named by `rte`, `rte:dev`, `mnli:mm` or `race:test-high`."""

    data: DataSet
    split: str | None = None
    subset: str | None = None

    def evaluation_table(self, data_dir: str | Path | None = None) -> KnownTable:
        """The named split; default: the labeled evaluation split."""
        return self.data.read(self.split, data_dir, self.subset)

    def train_table(
        self,
        data_dir: str | Path | None = None,
        *,
        keep_duplicates: bool = False,
        tested: KnownTable | None = None,
    ) -> tuple[KnownTable, list[str]]:
        """`DataSet.train_table` of the named split; default: the training split."""
        return self.data.train_table(
            data_dir, keep_duplicates=keep_duplicates, split=self.split, subset=self.subset, tested=tested
        )


def resolve_split(data: DataSet, part: str) -> DataSetSplit:
    """Resolve the part of a name after the colon: a split, a subset, or split-subset."""
    if not part:
        return DataSetSplit(data)
    if part in data.subsets:
        return DataSetSplit(data, subset=part)
    split, _, subset = part.partition("-")
    if subset and subset not in data.subsets:
        split = part
    aliases = {normalize_name(s): s for s in data.splits} | {"validation": "dev", "unlabelled": "unlabeled"}
    split = data.check_split(aliases.get(normalize_name(split), split), subset or None)
    return DataSetSplit(data, split, subset if split != part and subset else None)
