"""The official files, if available: all rows are read, and no row of an evaluation split is in train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from known_datasets import no_data_dir_variable  # noqa: F401 (a fixture for every test)

from gpt1.datasets import KnownTable, find_data_set, parse_data_set

AVAILABLE = {  # rows of the splits in ../shared, from its README
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
    "blimp": {"test": 67_000},
}
REMOVED = {  # training rows that are also in an evaluation split, for each split
    "sst2": (5, 10),
    "cola": (20,),
    "mrpc": (14,),
    "stsb": (12, 13),
    "race": (35, 23),
    "imdb": (123,),
    "nsmc": (1_670,),
}


@pytest.fixture(scope="session")
def read_official_split(shared_data):
    """Reads a split of ../shared; the smaller ones only once."""
    cache: dict[str, KnownTable] = {}

    def table(name: str) -> KnownTable:
        result = cache.get(name) or parse_data_set(name).evaluation_table(shared_data)
        if len(result) < 30_000:
            cache[name] = result
        return result

    return table


def mark_slow(names: Iterable[str]) -> list[Any]:
    """`names` as parameters; those of large data sets are marked slow."""
    slow = ("race", "imdb", "nsmc")
    return [pytest.param(name, marks=pytest.mark.slow) if name.startswith(slow) else name for name in names]


@pytest.mark.parametrize("name", mark_slow(f"{name}:{split}" for name, splits in AVAILABLE.items() for split in splits))
def test_official_files_have_the_official_rows_or_a_note_and_only_known_labels(read_official_split, name):
    table = read_official_split(name)
    data, split = find_data_set(name.split(":")[0]), name.split(":")[1]
    rows, expected = AVAILABLE[data.name][split], data.official_count(split)
    assert len(table) == rows
    if rows == expected or name in ("mrpc:train", "nsmc:unlabeled"):  # before GLUE split it; no official count
        assert table.notes == []
    else:
        assert table.notes == [f"{name} has {rows:,} rows; the official split has {expected:,}."]
    labels = Counter(row.get("label") for row in table.rows)
    if "label" not in table.columns:
        assert split in data.unlabeled_splits
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


@pytest.mark.parametrize("name", mark_slow(name for name, splits in AVAILABLE.items() if len(splits) > 1))
def test_no_text_of_an_evaluation_split_is_in_train(read_official_split, shared_data, name):
    data = find_data_set(name)
    split = data.train_split if data.train_split in AVAILABLE[name] else "dev"
    table, notes = data.train_table(shared_data, split=split)
    others = [other for other in AVAILABLE[name] if other in ("dev", "test") and other != split]
    evaluation_texts = {
        data.comparison_texts(row) for other in others for row in read_official_split(f"{name}:{other}").rows
    }
    assert not any(data.comparison_texts(row) in evaluation_texts for row in table.rows)
    removed = [note for note in notes if note.endswith("removed.")]
    assert len(removed) == len(REMOVED.get(name, ()))
    for note, n in zip(removed, REMOVED.get(name, ()), strict=True):
        assert f" {n:,} of " in note
    assert len(table) == AVAILABLE[name][split] - sum(REMOVED.get(name, ()))


def test_recipe_paper_keeps_and_reports_training_rows_in_dev(shared_data):
    table, notes = find_data_set("cola").train_table(shared_data, keep_duplicates=True)
    assert len(table) == 8_551
    assert notes == [
        "cola:train: 20 of 8,551 rows are also in dev (18 identical, 2 ignoring case and punctuation): kept."
    ]


def test_rows_have_a_location(read_official_split):
    assert read_official_split("rte:dev").locate_row(0).endswith("RTE/dev.tsv, line 2")
    assert read_official_split("cola:dev").locate_row(527).endswith("CoLA/out_of_domain_dev.tsv, line 1")
    assert read_official_split("scitail:test").locate_row(1).endswith("test/answers.jsonl, line 2")


def test_quotes_in_glue_files_are_text(read_official_split):
    assert any(row["text_a"].count('"') == 1 for row in read_official_split("mrpc:train").rows)
    assert any(row["text_b"].startswith('"') for row in read_official_split("stsb:train").rows)


@pytest.mark.slow
def test_the_levels_of_race_are_subsets(read_official_split, shared_data):
    assert Counter(row["subset"] for row in read_official_split("race:test").rows) == {"middle": 1_436, "high": 3_498}
    assert len(parse_data_set("race:dev-high").evaluation_table(shared_data)) == 3_451
    assert any("_" in row["question"] for row in read_official_split("race:test").rows)
    assert read_official_split("race:test").locate_row(0).endswith("RACE.tar.xz: RACE/test/middle/1.txt, question 1")
