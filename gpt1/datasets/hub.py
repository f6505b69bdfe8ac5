"""The same data sets from the Hugging Face hub, where there is a network: `datasets`, pip install 'gpt1[hub]'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from gpt1.datasets.files import ColumnMap, LocatedRow
from gpt1.errors import UserError


@dataclass(frozen=True)
class HubSource:
    """Where the hub has a data set.

    name: the repository, or a folder in its layout. splits: ours → `configuration/split` of theirs, several in order.
    columns: our columns ← theirs.
    """

    name: str
    splits: Mapping[str, tuple[str, ...]]
    columns: ColumnMap
    revision: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows of each split where they are not the data set's."""

    def check_installed(self, title: str, download_hint: str) -> None:
        if find_spec("datasets") is None:
            raise UserError(
                f"no folder with the files of {title} is named, and the hub needs `datasets`, which is not installed.",
                f"{download_hint} Name its folder with --data-dir (or GPT1_DATA), or: pip install 'gpt1[hub]'",
            )

    def rows(self, part: str, labels: Sequence[str]) -> Iterator[LocatedRow]:
        """(place, row) of `configuration/split`. A split whose labels are all −1 has none.

        Classes are numbers there; they become their names where those are our `labels`.
        """
        table = self.load(part)
        label = self.columns["label"]
        names = getattr(table.features.get(label), "names", [])
        named = bool(set(names) & set(labels))
        hidden = label in table.features and set(table[label]) <= {-1}
        for number, row in enumerate(table, 1):
            if hidden:
                del row[label]
            elif named and row[label] >= 0:
                row[label] = names[row[label]]
            yield f"{self.name} {part}, row {number:,}", row

    def load(self, part: str) -> Any:
        import datasets

        configuration, _, split = part.rpartition("/")
        try:
            return datasets.load_dataset(self.name, configuration or None, split=split, revision=self.revision)
        except Exception as error:  # the package lets through whatever its many back ends raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{self.name} could not be loaded from the Hugging Face hub: {reason}",
                "Is there a network? Otherwise name a folder with the official files: --data-dir DIR (or GPT1_DATA).",
            ) from None
