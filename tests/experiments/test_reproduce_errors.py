"""Skipped tasks, and requests that are refused before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.experiments.reproduce.reproduce import reproduce


def test_a_task_without_files_has_a_row_with_the_reason_and_stops_no_other(
    pretrained_run: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str]
) -> None:
    tasks = ["mnli", "snli", "snli:dev>test", "qnli", "rte"]
    out = reproduce("table2", from_=pretrained_run, out=tmp_path / "out", data_dir=official_data, tasks=tasks, seeds=1)
    methods = ("full", "tfidf", "overlap")
    assert executed_jobs == [f"{task}, {method}, seed 0" for task in ("snli:dev>test", "rte") for method in methods]
    lines = (out / "results.md").read_text(encoding="utf-8").splitlines()
    assert f"| SNLI | accuracy | 89.3 | 89.9 | no training split in {official_data} | – | – | – | – |" in lines
    assert f"| QNLI | accuracy | 82.3 | 88.1 | no training split in {official_data} | – | – | – | – |" in lines
    assert any(
        line.startswith("| SNLI (trained on dev, tested on test) | accuracy | 89.3 | 89.9 | 50.0") for line in lines
    )


def test_a_folder_resumes_only_with_the_same_rows_models_and_settings(
    pretrained_run: Path, run_with_checkpoints: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str]
) -> None:
    mine = Path(shutil.copytree(official_data, tmp_path / "data"))
    options: dict[str, Any] = {"out": tmp_path / "out", "data_dir": mine, "tasks": ["cola"], "seeds": 1}
    reproduce("table4", from_=pretrained_run, rows={"": 8}, **options)
    with pytest.raises(UserError, match="started with 8 train rows of cola, not 12"):
        reproduce("table4", from_=pretrained_run, rows={"cola": 12}, **options)
    with pytest.raises(UserError, match=r"started with other settings: the defaults instead of peak_lr=0\.001"):
        reproduce("table4", from_=pretrained_run, rows={"": 8}, peak_lr=1e-3, **options)
    with pytest.raises(UserError, match="started with another model"):
        reproduce("table4", from_=run_with_checkpoints, rows={"": 8}, **options)
    dev = mine / "CoLA" / "in_domain_dev.tsv"
    dev.write_text(dev.read_text(encoding="utf-8").replace("valid", "sound"), encoding="utf-8")
    with pytest.raises(UserError, match="a file has changed"):
        reproduce("table4", from_=pretrained_run, rows={"": 8}, **options)
    assert executed_jobs == ["cola, full, seed 0", "cola, tfidf, seed 0"]


def test_a_folder_does_not_resume_with_other_defaults(
    pretrained_run: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"out": tmp_path / "out", "data_dir": official_data, "tasks": ["cola"], "rows": {"": 8}}
    reproduce("table4", from_=pretrained_run, seeds=1, **options)
    reproduce("table4", from_=pretrained_run, seeds=1, **options)
    monkeypatch.setattr("gpt1.training.finetune.EMBEDDING_LR", 1e-6)  # as in another version of gpt1
    with pytest.raises(UserError, match=r"with peak_lr=0\.000375; this gpt1 would use 1e-06"):
        reproduce("table4", from_=pretrained_run, seeds=2, **options)
    assert executed_jobs == ["cola, full, seed 0", "cola, tfidf, seed 0"]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("table6", {}, "Did you mean table5"),
    ("table4", {"tasks": ["colla"]}, "Did you mean cola"),
    ("table4", {"tasks": ["snli:dev"]}, "does not name two splits"),
    ("table4", {"tasks": ["snli:dev>dev"]}, "would be tested on its training rows"),
    ("table4", {"tasks": ["snli:dev>validation"]}, "would be tested on its training rows"),
    ("table3", {"tasks": ["race:test>test-high"]}, "would be tested on its training rows"),
    ("table3", {"tasks": ["race:test-high>high"]}, "would be tested on its training rows"),
    ("table4", {"tasks": ["snli:dve>test"]}, "Did you mean dev"),
    ("table4", {"methods": ["heads"]}, "Did you mean head"),
    ("table4", {"rows": {"rte": 5}}, 'rows="rte=5": this task is not requested'),
    ("table4", {"tasks": ["cola"], "rows": {"cola": 1}}, "all rows have the same label"),
    ("table2", {"tasks": ["snli:dev>test"], "rows": {"": 2}}, "unknown label"),
    ("table4", {"rows": 5}, r"rows=5 is not a mapping"),
    ("table4", {"rows": 0}, r"rows=0 is not a mapping"),
    ("table4", {"tasks": ["cola"], "rows": {"cola": "8"}}, r"rows='8' is not a whole number of at least 1"),
    ("table4", {"tasks": ["cola"], "test_rows": {"": -5}}, r"test_rows=-5 is not a whole number of at least 1"),
    ("figure2", {"right": True, "rows": {"": 5}}, r"rows= does not apply to the right half"),
    ("figure2", {"left": True, "tasks": ["cola"], "lstm": "starter"}, r"lstm= does not apply to the left half"),
    ("table4", {"peak_rl": 1.0}, "Did you mean peak_lr"),
    ("table4", {"valid_fraction": 0.1}, "set by gpt1 reproduce itself"),
    ("table4", {"left": True}, "no left and right half"),
    ("table2", {"tasks": ["mnli"]}, "none of the tasks can be measured"),
    ("figure2", {"methods": ["full"]}, "figure2 has no methods"),
    ("figure2", {"right": True, "tasks": ["rte"]}, "no zero-shot heuristic"),
]


@pytest.mark.parametrize(("what", "wrong", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_an_invalid_request_is_refused_before_anything_is_written(
    what: str, wrong: dict[str, Any], message: str, run_with_checkpoints: Path, official_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        reproduce(what, out=tmp_path / "out", **({"from_": run_with_checkpoints, "data_dir": official_data} | wrong))
    assert not (tmp_path / "out").exists()


def test_a_model_of_the_wrong_kind_is_refused(
    pretrained_run: Path, lstm_run: Path, official_data: Path, tmp_path: Path
) -> None:
    tuned = shutil.copytree(pretrained_run / "model", tmp_path / "tuned")
    (tuned / "task.json").write_text("{}", encoding="utf-8")
    options: dict[str, Any] = {"out": tmp_path / "out", "data_dir": official_data}
    with pytest.raises(UserError, match="is already fine-tuned"):
        reproduce("table4", from_=tuned, **options)
    with pytest.raises(UserError, match=r"lstm=.* is not an LSTM"):
        reproduce("table5", from_=pretrained_run, lstm=pretrained_run, **options)
    with pytest.raises(UserError, match=r"from_=.* is an LSTM"):
        reproduce("table5", from_=lstm_run, **options)
    with pytest.raises(UserError, match="has no checkpoints") as error:
        reproduce("figure2", from_=pretrained_run / "model", **options)
    assert "--keep 100" in error.value.fix
