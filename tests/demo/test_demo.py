"""Laws of the demo: it keeps all its files, no test row leaks, and it never changes a folder with other files."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from demo_documents import DOCUMENT_COUNTS, make_documents

from gpt1.demo import docstrings
from gpt1.demo import run as demo
from gpt1.demo.results import (
    DEMO_METHODS,
    FROM_STARTER,
    DemoResults,
    accuracy_rows,
    follow_up_commands,
    starter_verdict,
)
from gpt1.errors import UserError
from gpt1.progress import Progress
from gpt1.runs import folder as runs


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.20, 0.10, 0.30], "Pre-training adds 20.0 points of accuracy here (by seed: +20.0, +10.0, +30.0)."),
        (
            [0.04, -0.02, 0.01],
            "Pre-training makes no clear difference here: +1.0 points (by seed: +4.0, -2.0, +1.0).",
        ),
        ([-0.1], "Pre-training makes no clear difference here: -10.0 points (by seed: -10.0)."),
    ],
)
def test_the_verdict_states_the_median_gain_and_every_seed(gains: list[float], verdict: str) -> None:
    results = DemoResults(accuracy={demo.SCRATCH: [0.3] * len(gains), demo.ALL: [0.3 + gain for gain in gains]})
    assert demo.pretraining_verdict(results) == verdict


def test_the_sentence_on_starter_reports_losses_and_gains_alike() -> None:
    results = DemoResults(accuracy={demo.ALL: [0.5, 0.6, 0.5], FROM_STARTER: [0.45, 0.5, 0.52]})
    assert starter_verdict(results).endswith("rows: -5.0 points (by seed: -5.0, -10.0, +2.0).")


def test_without_the_weights_of_starter_the_demo_says_so_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "STARTER_FOLDER", tmp_path)
    assert list(demo.available_methods()) == [demo.SCRATCH, demo.HEAD, demo.ALL]
    results = DemoResults(accuracy={name: [0.5] for name in (demo.MAJORITY, demo.TF_IDF, *demo.available_methods())})
    assert starter_verdict(results) == "This installation does not include the model starter, so the demo skips it."
    assert FROM_STARTER not in [row[0] for row in accuracy_rows(results)]
    assert not any("starter" in command for command, _ in follow_up_commands(tmp_path))


def test_a_sparkline_rises_with_its_values() -> None:
    assert demo.sparkline([0.0, 0.25, 0.5, 1.0]) == "▁▃▅█"
    assert demo.sparkline([0.0, 0.0]) == "▁▁"


def test_the_follow_up_commands_are_quoted_for_the_shell() -> None:
    command, _ = follow_up_commands(Path("my demo"))[-1]
    assert shlex.split(command)[:3] == ["gpt1", "next", "my demo/pretrained"]


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_demo_in_the_current_folder_is_written_next_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "texts.jsonl").write_text("{}")
    monkeypatch.chdir(folder)
    assert demo.choose_output_folder(Path()) == tmp_path.resolve() / "demo-2"


def test_zero_seeds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds=0"):
        demo.run_demo(tmp_path / "demo", seeds=0)
    assert not (tmp_path / "demo").exists()


def test_a_python_without_docstrings_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "collect_documents", lambda progress: [])
    with pytest.raises(UserError, match="too few docstrings"):
        demo.run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


class RecordedProgress(Progress):
    """Records log lines and the titles of progress bars."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.lines.append(title)


@pytest.mark.slow
def test_the_whole_demo_runs_on_a_small_scale(
    pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "STARTER_FOLDER", pretrained_run / "model")
    documents = make_documents(dict(list(DOCUMENT_COUNTS.items())[:2]))
    monkeypatch.setattr(docstrings, "collect_documents", lambda progress: documents)
    monkeypatch.setattr(demo, "DEMO_VOCAB_SIZE", 200)
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 32, "batch_size": 4, "steps": 20, "eval_every": 10}
    monkeypatch.setattr(demo, "PRETRAIN_SETTINGS", {**demo.PRETRAIN_SETTINGS, **small})
    short = {"epochs": 2.0}
    monkeypatch.setattr(
        demo, "DEMO_METHODS", {name: {**settings, **short} for name, settings in demo.DEMO_METHODS.items()}
    )
    progress = RecordedProgress()

    out = demo.run_demo(tmp_path / "demo", seeds=2, progress=progress)

    output = capsys.readouterr().out
    for method in (demo.MAJORITY, demo.TF_IDF, *demo.DEMO_METHODS):
        assert method in output
    saved = json.loads((out / "demo.json").read_text())
    assert demo.pretraining_verdict(DemoResults(**saved)) in output
    assert starter_verdict(DemoResults(**saved)) in output
    assert {len(scores) for scores in saved["accuracy"].values()} == {2}
    assert saved["accuracy"][demo.MAJORITY] == [0.5, 0.5]
    assert [len(runs[0]) for runs in saved["curves"].values()] == [2] * len(DEMO_METHODS)
    for run in [
        "pretrained",
        *(f"finetuned/{kind}-{seed}" for kind in ("scratch", "head", "all", "starter") for seed in (0, 1)),
    ]:
        assert (out / run / "report.html").exists()
        assert (out / run / "model" / "model.safetensors").exists()
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert demo.TF_IDF in page
    assert (out / "curves.svg").read_text().startswith("<svg")
    assert f"fine-tuning, seed 1: {demo.HEAD}" in progress.lines
    assert_no_leak(out)
    assert demo.choose_output_folder(out) == tmp_path / "demo-2"


def assert_no_leak(out: Path) -> None:
    """No test or validation document is in the pre-training text or in the training rows."""
    tables = {path.stem: list(csv.DictReader(path.open(newline=""))) for path in (out / "labeled").iterdir()}
    held_out = {row["from"] for name in ("test", "validation") for row in tables[name]}
    assert len(held_out) == 2 * (docstrings.TEST_ROWS + docstrings.VALIDATION_ROWS)
    trained_on = {row["from"] for seed in (0, 1) for row in tables[f"train-{seed}"]}
    pretrained_on = {json.loads(line)["from"] for line in (out / "texts.jsonl").read_text().splitlines()}
    assert held_out.isdisjoint(trained_on)
    assert held_out.isdisjoint(pretrained_on)
    assert trained_on <= pretrained_on, "labeled training rows are also pre-training text"
