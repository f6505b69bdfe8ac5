"""The registry of known data sets, and what their names mean."""

from __future__ import annotations

import pytest

from gpt1.datasets import find, known, names, parse
from gpt1.datasets.registry import DATA_SETS
from gpt1.errors import UserError
from gpt1.tasks.kinds import KINDS


@pytest.mark.parametrize("data", DATA_SETS, ids=names())
def test_every_entry_is_whole(data):
    kind = KINDS[data.kind]
    needed = {role for role in kind.columns if role not in kind.optional} | {"label"}
    for files in data.files:
        assert needed - {"label"} <= set(files.columns) <= {*kind.columns, "label"}
        assert set(files.splits) <= set(data.splits)
    assert {data.train_split, data.evaluation_split, *data.unlabelled} <= set(data.splits)
    assert data.evaluation_split not in data.unlabelled or data.name in ("mrpc", "storycloze")
    assert all(data.official_count(split) for split in data.splits if split != "unlabeled")
    assert {name.partition("-")[2] for name in data.counts} - {""} == set(data.subsets)
    assert data.labels or data.scale or data.renamed
    if data.hub:
        assert set(data.hub.columns) == set(data.columns)
    assert find(data.name) is find(data.title) is data


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
        ("imdb:unlabelled", "imdb", "unlabeled", None),
    ],
)
def test_a_name_means_a_data_set_a_split_and_a_part(name, data, split, subset):
    found = parse(name)
    assert (found.data.name, found.split, found.subset) == (data, split, subset)


@pytest.mark.parametrize("name", ["rte.csv", "./rte", "data/rte", "reviews", "C:\\rte", "rte/", ""])
def test_a_path_is_no_known_name(name):
    assert parse(name) is None


@pytest.mark.parametrize(
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
        parse(name)


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UserError, match="no known data set 'scitial'") as caught:
        known("scitial")
    assert "Did you mean scitail?" in caught.value.problem
