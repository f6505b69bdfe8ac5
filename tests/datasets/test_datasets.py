"""The registry of known data sets, and what their names mean."""

from __future__ import annotations

import pytest

from gpt1.datasets import data_set_names, find_data_set, parse_data_set, require_data_set
from gpt1.datasets.registry import DATA_SETS
from gpt1.errors import UserError
from gpt1.tasks.kinds import KINDS


@pytest.mark.parametrize("data", DATA_SETS, ids=data_set_names())
def test_every_registry_entry_is_complete(data):
    kind = KINDS[data.kind_name]
    needed = {role for role in kind.columns if role not in kind.optional} | {"label"}
    for files in data.files:
        assert needed - {"label"} <= set(files.columns) <= {*kind.columns, "label"}
        assert set(files.splits) <= set(data.splits)
    assert {data.evaluation_split, *data.unlabeled_splits} <= set(data.splits)
    assert data.train_split in data.splits or (data.train_split, data.name) == ("", "blimp")
    assert data.evaluation_split not in data.unlabeled_splits or data.name in (
        "mrpc",
        "storycloze",
    )
    assert all(data.official_count(split) for split in data.splits if split != "unlabeled")
    assert {name.partition("-")[2] for name in data.counts} - {""} == set(data.subsets)
    assert data.labels or data.score_range or data.label_map
    if data.hub:
        assert set(data.hub.columns) == set(data.columns)
    assert find_data_set(data.name) is find_data_set(data.title) is data


@pytest.mark.parametrize(
    ("name", "data", "split", "subset"),
    [
        ("rte", "rte", None, None),
        ("SST-2", "sst2", None, None),
        ("rte:dev", "rte", "dev", None),
        ("CoLA:validation", "cola", "dev", None),
        ("mnli:mm", "mnli", None, "mm"),
        ("mnli:test-m", "mnli", "test", "m"),
        ("race:test-high", "race", "test", "high"),
        ("blimp:wh_island", "blimp", None, "wh_island"),
        ("imdb:unlabelled", "imdb", "unlabeled", None),
    ],
)
def test_a_name_selects_a_data_set_a_split_and_a_subset(name, data, split, subset):
    found = parse_data_set(name)
    assert (found.data.name, found.split, found.subset) == (data, split, subset)


@pytest.mark.parametrize("name", ["rte.csv", "./rte", "data/rte", "reviews", "C:\\rte", "rte/", ""])
def test_a_path_is_not_a_known_name(name):
    assert parse_data_set(name) is None


@pytest.mark.parametrize("text", ["Race: two brothers on a bicycle", "rte:train (64 rows of 2,490)", "CoLA:\tfizzy"])
def test_a_text_that_begins_with_the_name_of_a_data_set_is_not_a_name(text):
    assert parse_data_set(text) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rte:devv", "rte has no split 'devv'. Did you mean dev?"),
        ("race:tset-high", "race has no split 'tset"),
        ("rte:dev-mm", "rte has no split 'dev-mm'"),
        ("mnli:train-mm", "the train split of mnli has no subset 'mm'"),
    ],
)
def test_the_error_for_an_unknown_split_suggests_the_closest(name, problem):
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        parse_data_set(name)


def test_the_error_for_an_unknown_name_suggests_the_closest():
    with pytest.raises(UserError, match="unknown data set 'scitial'") as error:
        require_data_set("scitial")
    assert "Did you mean scitail?" in error.value.problem
