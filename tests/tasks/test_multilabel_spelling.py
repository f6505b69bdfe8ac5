"""1 and 1.0, true and True are one label, whether a cell has one label or several."""

from __future__ import annotations

from typing import Any

import pytest

from gpt1.tasks.multilabel import MultiLabel


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["True", "true|x", "1.0", "1.0|2.0", "2.0"], ("1", "2", "True", "x")),
        (["2.0|3.1", 2, 3.1], ("2", "3.1")),
        ([["1.0", "a"], "1|a", 1.0], ("1", "a")),
    ],
)
def test_spellings_of_a_label_are_one_label_in_every_cell(cells: list[Any], labels: tuple[str, ...]):
    target = MultiLabel.from_labels(cells)
    assert target.labels == labels
    assert {label for cell in cells for label in target.split(cell)} == {*labels}


def test_labels_of_older_model_folders_are_found_in_their_spelling():
    target = MultiLabel(("1.0", "2", "2.0", "true"), "|")
    assert target.split("1|true|2.00") == ["1.0", "true", "2"]
    assert target.encode("1.0|2|True").tolist() == [1, 1, 0, 1]
