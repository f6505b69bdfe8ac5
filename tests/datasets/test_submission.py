"""Predictions for GLUE's test splits in the file format of gluebenchmark.com."""

from __future__ import annotations

import pytest

from gpt1.datasets import find_data_set, plan_submission, write_submission
from gpt1.errors import UserError


def test_predictions_are_written_in_the_format_of_glue(tmp_path):
    labels = ["entailment", "not_entailment"] * 1500
    (path,) = write_submission(find_data_set("rte"), labels, tmp_path)
    lines = path.read_text().splitlines()
    assert path.name == "RTE.tsv"
    assert lines[:3] == ["index\tprediction", "0\tentailment", "1\tnot_entailment"]
    assert len(lines) == 3001
    (path,) = write_submission(find_data_set("stsb"), [7.0, -1.0, 2.34567] + [0.0] * 1376, tmp_path / "scores.tsv")
    assert path.read_text().splitlines()[1:4] == ["0\t5.000", "1\t0.000", "2\t2.346"]


def test_predictions_for_mnli_are_split_into_its_two_halves(tmp_path):
    matched, mismatched = write_submission(
        find_data_set("mnli"), ["neutral"] * 9_796 + ["entailment"] * 9_847, tmp_path
    )
    assert (matched.name, mismatched.name) == ("MNLI-m.tsv", "MNLI-mm.tsv")
    assert matched.read_text().splitlines()[-1] == "9795\tneutral"
    assert mismatched.read_text().splitlines()[1] == "0\tentailment"


@pytest.mark.parametrize(
    ("name", "predictions", "problem"),
    [
        ("rte", ["entailment"], "1 predictions, but the test split of RTE has 3,000 rows"),
        ("rte", ["yes"] * 3000, "prediction 1 is 'yes'"),
        ("race", [], "RACE has no submission file"),
    ],
)
def test_predictions_that_glue_would_reject_are_an_error(tmp_path, name, predictions, problem):
    with pytest.raises(UserError, match=problem):
        write_submission(find_data_set(name), predictions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_impossible_submission_is_an_error_before_predicting(tmp_path):
    assert plan_submission(find_data_set("mnli"), 9_796 + 9_847, tmp_path) == {
        tmp_path / "MNLI-m.tsv": 9_796,
        tmp_path / "MNLI-mm.tsv": 9_847,
    }
    with pytest.raises(UserError, match=r"needs MNLI-m\.tsv and MNLI-mm\.tsv"):
        plan_submission(find_data_set("mnli"), 9_796 + 9_847, tmp_path / "mnli.tsv")
