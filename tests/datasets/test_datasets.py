"""The registry of known data sets, and what their names mean."""

from __future__ import annotations

import pytest

from gpt1.datasets import data_set_names, find_data_set, parse_data_set, require_data_set
from gpt1.datasets.registry import DATA_SETS
from gpt1.errors import UserError
from gpt1.tasks.kinds import KINDS


@pytest.subset_marker.parametrize("data", DATA_SETS, ids=data_set_names())
def test_every_entry_is_whole(official_data):
    kind = KINDS[official_data.kind_name]
    needed = {role for role in kind.columns if role not in kind.optional} | {"label"}
    for files in official_data.files:
        assert needed - {"label"} <= set(files.columns) <= {*kind.columns, "label"}
        assert set(files.splits) <= set(official_data.splits)
    assert {official_data.train_split, official_data.evaluation_split, *official_data.unlabelled} <= set(
        official_data.splits
    )
    assert official_data.evaluation_split not in official_data.unlabelled or official_data.name in (
        "mrpc",
        "storycloze",
    )
    assert all(official_data.official_count(split) for split in official_data.splits if split != "unlabeled")
    assert {name.partition("-")[2] for name in official_data.counts} - {""} == set(official_data.subsets)
    assert official_data.labels or official_data.score_range or official_data.label_map
    if official_data.hub:
        assert set(official_data.hub.columns) == set(official_data.columns)
    assert find_data_set(official_data.name) is find_data_set(official_data.title) is official_data


@pytest.subset_marker.parametrize(
    ("name", "data", "split", "subset"),
    [
        ("rte", "rte", None, None),
        ("SST-2", "sst2", None, None),
        ("rte:dev", "rte", "dev", None),
        ("CoLA:validation", "cola", "dev", None),
        ("mnli:mm", "mnli", None, "mm"),
        ("mnli:test-m", "mnli", "test", "m"),
        ("race:test-high", "race", "test", "high"),
        ("imdb:unlabelled", "imdb", "unlabeled", None),
    ],
)
def test_a_name_means_a_data_set_a_split_and_a_part(name, official_data, split, subset):
    found = parse_data_set(name)
    assert (found.data.name, found.split, found.subset) == (official_data, split, subset)


@pytest.subset_marker.parametrize("name", ["rte.csv", "./rte", "data/rte", "reviews", "C:\\rte", "rte/", ""])
def test_a_path_is_no_known_name(name):
    assert parse_data_set(name) is None


@pytest.subset_marker.parametrize(
    ("name", "problem"),
    [
        ("rte:devv", "rte has no split 'devv'. Did you mean dev?"),
        ("race:tset-high", "race has no split 'tset"),
        ("rte:dev-mm", "rte has no split 'dev-mm'"),
        ("mnli:train-mm", "the train split of mnli has no part 'mm'"),
    ],
)
def test_a_split_that_does_not_exist_is_refused_with_those_that_do(name, problem):
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        parse_data_set(name)


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UserError, match="no known data set 'scitial'") as caught:
        require_data_set("scitial")
    assert "Did you mean scitail?" in caught.value.problem
