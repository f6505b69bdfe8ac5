"""The official files, where they are at hand: every row of them, and none of an evaluation split in train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from known_datasets import no_data_dir_variable  # noqa: F401 (a fixture for every test)

from gpt1.datasets import KnownTable, find_data_set, parse_data_set

HERE = {  # rows of the splits in ../shared, by its README
    "sst2": {"train": 67_349, "dev": 872, "test": 1_821},
    "cola": {"train": 8_551, "dev": 527 + 516},
    "mrpc": {"train": 4_076, "test": 1_725},
    "rte": {"train": 2_490, "dev": 277, "test": 3_000},
    "stsb": {"train": 5_749, "dev": 1_500, "test": 1_379},
    "qnli": {"dev": 5_463},
    "snli": {"dev": 9_842, "test": 9_824},
    "scitail": {"dev": 1_304, "test": 2_126},
    "race": {"train": 87_866, "dev": 4_887, "test": 4_934},
    "imdb": {"train": 25_000, "test": 25_000, "unlabeled": 50_000},
    "nsmc": {"train": 120_000, "test": 24_998, "unlabeled": 366_666},
}
ALIKE = {
    "sst2": (5, 10),
    "cola": (20,),
    "mrpc": (14,),
    "stsb": (12, 13),
    "race": (35, 23),
    "imdb": (123,),
    "nsmc": (1_670,),
}


@pytest.fixture(scope="session")
def official(shared_data):
    """A split of ../shared; each of the smaller ones is read once."""
    read: dict[str, KnownTable] = {}

    def table(name: str) -> KnownTable:
        found = read.get(name) or parse_data_set(name).evaluation_table(shared_data)
        if len(found) < 30_000:
            read[name] = found
        return found

    return table


def large(names: Iterable[str]) -> list[Any]:
    """`names` as parameters; those of the large sets are slow."""
    slow = ("race", "imdb", "nsmc")
    return [pytest.param(name, marks=pytest.mark.slow) if name.startswith(slow) else name for name in names]


@pytest.mark.parametrize("name", large(f"{name}:{split}" for name, splits in HERE.items() for split in splits))
def test_official_files_have_the_rows_that_they_should_or_it_is_remarked_and_labels_inside_the_set(official, name):
    table = official(name)
    data, split = find_data_set(name.split(":")[0]), name.split(":")[1]
    rows, expected = HERE[data.name][split], data.official_count(split)
    assert len(table) == rows
    if rows == expected or name in ("mrpc:train", "nsmc:unlabeled"):  # before GLUE cut it in two; has no official count
        assert table.notes == []
    else:
        assert table.notes == [f"{name} has {rows:,} rows; the official split has {expected:,}."]
    labels = Counter(row.get("label") for row in table.rows)
    if "label" not in table.columns:
        assert split in data.unlabelled
    elif data.score_range:
        assert min(labels) >= 0
        assert max(labels) <= 5
    elif data.labels:
        assert set(labels) == set(data.labels)
    else:
        assert all(0 <= row["label"] < len(row["choices"]) for row in table.rows)
    assert [role for role in data.columns if role != "label"] == [
        c for c in table.columns if c not in ("label", "subset")
    ]
    assert all(isinstance(row[c], str) for row in table.rows for c in table.columns if c not in ("label", "choices"))


@pytest.mark.parametrize("name", large(name for name, splits in HERE.items() if len(splits) > 1))
def test_no_text_of_an_evaluation_split_stands_in_train(official, shared_data, name):
    data = find_data_set(name)
    split = data.train_split if data.train_split in HERE[name] else "dev"
    table, notes = data.train_table(shared_data, split=split)
    others = [other for other in HERE[name] if other in ("dev", "test") and other != split]
    seen = {data.comparison_texts(row) for other in others for row in official(f"{name}:{other}").rows}
    assert not any(data.comparison_texts(row) in seen for row in table.rows)
    left_out = [note for note in notes if "left out" in note]
    assert len(left_out) == len(ALIKE.get(name, ()))
    for note, n in zip(left_out, ALIKE.get(name, ()), strict=True):
        assert f" {n:,} of " in note
    assert len(table) == HERE[name][split] - sum(ALIKE.get(name, ()))


def test_recipe_paper_keeps_the_rows_that_stand_in_dev_too_and_says_so(shared_data):
    table, notes = find_data_set("cola").train_table(shared_data, keep_duplicates=True)
    assert len(table) == 8_551
    assert notes == [
        "cola:train: 20 of 8,551 rows also stand in dev (18 to the letter, 2 but for case, spaces and signs): kept."
    ]


def test_rows_say_where_they_stand(official):
    assert official("rte:dev").where(0).endswith("RTE/dev.tsv, line 2")
    assert official("cola:dev").where(527).endswith("CoLA/out_of_domain_dev.tsv, line 1")
    assert official("scitail:test").where(1).endswith("test/answers.jsonl, line 2")


def test_quotes_in_glues_files_are_text(official):
    assert any(row["text_a"].count('"') == 1 for row in official("mrpc:train").rows)
    assert any(row["text_b"].startswith('"') for row in official("stsb:train").rows)


@pytest.mark.slow
def test_races_levels_are_its_subsets(official, shared_data):
    assert Counter(row["subset"] for row in official("race:test").rows) == {"middle": 1_436, "high": 3_498}
    assert len(parse_data_set("race:dev-high").evaluation_table(shared_data)) == 3_451
    assert any("_" in row["question"] for row in official("race:test").rows)
    assert official("race:test").where(0).endswith("RACE.tar.xz: RACE/test/middle/1.txt, question 1")
