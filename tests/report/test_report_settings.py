"""The report of a run shows changed settings and how to resume."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_runs import PageParser, write_finetuning_run, write_pretraining_run, write_regression_run

from gpt1.config import FinetuneConfig, PretrainConfig
from gpt1.report.sections import write_report
from gpt1.runs import folder as runs


def test_only_settings_that_differ_from_the_defaults_are_expanded(tmp_path: Path) -> None:
    write_report(write_finetuning_run(tmp_path))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    expanded, collapsed = html.split('<details class="folded">')
    assert ">seed<" in expanded
    assert ">peak_lr<" not in expanded
    assert ">peak_lr<" in collapsed
    assert "Random seed of the initial weights" in expanded  # its description


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (PretrainConfig, {"seed": 7}),
        (PretrainConfig, {"model": "tiny", "seed": 7}),
        (PretrainConfig, {"recipe": "paper", "seed": 7}),
        (FinetuneConfig, {"seed": 7}),
        (FinetuneConfig, {"recipe": "paper", "train": "head", "seed": 7}),
    ],
)
def test_settings_of_a_recipe_or_size_are_defaults(config: Any, changed: dict[str, Any], tmp_path: Path):
    stage = "pretrain" if config is PretrainConfig else "finetune"
    settings = asdict(runs.resolve_settings(config, changed))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage": stage, "command": {}, **settings}))
    expanded, collapsed = write_report(tmp_path).read_text().split('<details class="folded">')
    assert {name for name in settings if f">{name}<" in expanded} == {*changed}
    assert {name for name in settings if f">{name}<" in collapsed} == {*settings} - {*changed}


@pytest.mark.parametrize(
    ("fixed", "default"),
    [({}, "by the number of rows, at least 3"), ({"recipe": "paper"}, "3"), ({"train": "head"}, "30")],
)
def test_a_default_that_depends_on_the_table_is_shown_in_words(fixed: dict[str, Any], default: str, tmp_path: Path):
    """Epochs that gpt1 has chosen by the table are not shown as if the user had changed a default of 3."""
    settings = asdict(runs.resolve_settings(FinetuneConfig, {**fixed, "epochs": 8.0}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage": "finetune", "command": {}, **settings}))
    assert re.search(rf"\sepochs\s+8\s+default {default}\s", PageParser(write_report(tmp_path)).text)


def test_the_report_of_an_unfinished_run_shows_the_resume_command(tmp_path: Path) -> None:
    write_pretraining_run(tmp_path)
    (tmp_path / "results.json").unlink()
    page = PageParser(write_report(tmp_path))
    assert page.headings[0] == "Validation perplexity 20.0 so far, after 40 steps"
    assert f"gpt1 pretrain 'corpus/my books' --out {tmp_path} --resume" in page.text


def test_the_resume_command_has_every_option_of_the_start(tmp_path: Path) -> None:
    write_regression_run(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["command"] = {
        "train": "my pairs.tsv", "from": "runs/books", "valid": None, "kind": "similarity", "score": True,
        "columns": {"text_a": "a", "text_b": "b"}, "data_dir": "tasks", "given": ["epochs"],
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (tmp_path / "results.json").unlink()
    assert (
        f"gpt1 finetune 'my pairs.tsv' --out {tmp_path} --from runs/books --kind similarity --score --data-dir tasks "
        "--text-a a --text-b b --resume"
    ) in PageParser(write_report(tmp_path)).text
