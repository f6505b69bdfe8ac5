"""A setting that an experiment sets itself is refused, never overridden silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.experiments.label_efficiency import curve
from gpt1.experiments.reproduce.reproduce import reproduce
from gpt1.experiments.reserved import RESERVED
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.training.finetune import COLUMN_ROLES

CALLS: dict[str, Any] = {
    "curve": lambda out, **given: curve("rows.csv", from_="model", out=out, **given),
    "reproduce": lambda out, **given: reproduce("table4", from_="model", out=out, **given),
    "zeroshot": lambda out, **given: zeroshot("winograd", run="model", **given),
}


@pytest.mark.parametrize(("experiment", "name"), [(one, name) for one in RESERVED for name in RESERVED[one]])
def test_a_setting_that_the_experiment_sets_itself_is_refused(experiment: str, name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {name: getattr(FinetuneConfig(), name)}
    if experiment != "zeroshot":
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        given = {"config": tmp_path / "mine.yaml"}
    with pytest.raises(UserError, match=rf"^{name}=(True)? is (set by gpt1 {experiment} itself|a training setting)"):
        CALLS[experiment](tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("experiment", ["curve", "reproduce"])
def test_keyword_arguments_follow_the_same_rule_as_a_file(experiment: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"keep= is set by gpt1 {experiment} itself"):
        CALLS[experiment](tmp_path / "out", keep=5)


@pytest.mark.parametrize(("experiment", "missing"), [("curve", r"rows\.csv"), ("reproduce", "model")])
def test_an_experiment_takes_the_weights_of_classes_as_finetune_does(
    experiment: str, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{missing} does not exist"):
        CALLS[experiment](tmp_path / "out", class_weight={"yes": 2.0, "no": 1.0})


def test_no_column_is_a_setting() -> None:
    assert not {*COLUMN_ROLES} & {*RESERVED["zeroshot"]}
