"""The same data sets from the Hugging Face hub. Needs a network and `datasets`: pip install 'gpt1[hub]'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from gpt1.datasets.files import ColumnMap, LocatedRow
from gpt1.errors import UserError, first_line


@dataclass(frozen=True)
class HubSource:
    """The location of a data set on the hub.

    Attributes:
        name: The repository, or a local folder with the same layout.
        splits: gpt1's split → `configuration/split` on the hub, several in order.
        columns: gpt1's columns and those on the hub.
        revision: Git revision of the repository.
        counts: Rows of each split if they differ from the data set's.
    """

    name: str
    splits: Mapping[str, tuple[str, ...]]
    columns: ColumnMap
    revision: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def check_installed(self, title: str, download_hint: str) -> None:
        if find_spec("datasets") is None:
            raise UserError(
                f"no folder with the files of {title} is set, and the hub needs `datasets`, which is not installed.",
                f"{download_hint} Set its folder with --data-dir (or GPT1_DATA), or: pip install 'gpt1[hub]'",
            )

    def rows(self, part: str, labels: Sequence[str]) -> Iterator[LocatedRow]:
        """(location, row) of `configuration/split`, without labels if all are −1 (hidden).

        Classes are numbers on the hub; they become class names if these are among `labels`.
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
        except Exception as error:  # the package passes on any exception of its backends
            raise UserError(
                f"{self.name} could not be loaded from the Hugging Face hub: {first_line(error)}",
                "Check the network, or set a folder with the official files: --data-dir DIR (or GPT1_DATA).",
            ) from None
