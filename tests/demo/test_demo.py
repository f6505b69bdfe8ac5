"""Laws of the demo: the whole story is told from files that it leaves behind, and it never harms a folder."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from demo_documents import DOCUMENT_COUNTS, make_documents

from gpt1.demo import docstrings as demo_material
from gpt1.demo import results as demo_story
from gpt1.demo import run as demo
from gpt1.demo.run import DemoResults
from gpt1.errors import UserError
from gpt1.progress import NullProgress


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([0.20, 0.10, 0.30], "Pre-training is worth 20.0 points of accuracy here (each seed: +20.0, +10.0, +30.0)."),
        (
            [0.04, -0.02, 0.01],
            "Pre-training makes no clear difference here: +1.0 points (each seed: +4.0, -2.0, +1.0).",
        ),
        ([-0.1], "Pre-training makes no clear difference here: -10.0 points (each seed: -10.0)."),
    ],
)
def test_the_verdict_is_what_the_figures_say(gains: list[float], said: str) -> None:
    story = DemoResults(accuracy={demo.SCRATCH: [0.3] * len(gains), demo.ALL: [0.3 + gain for gain in gains]})
    assert demo.pretraining_verdict(story) == said


def test_a_curve_in_one_line_rises_with_its_values() -> None:
    assert demo.sparkline([0.0, 0.25, 0.5, 1.0]) == "▁▃▅█"
    assert demo.sparkline([0.0, 0.0]) == "▁▁"


def test_what_comes_after_the_demo_can_be_typed_as_it_stands() -> None:
    command, _ = demo_story.follow_up_commands(Path("my demo"))[-1]
    assert shlex.split(command)[:3] == ["gpt1", "next", "my demo/pretrained"]


def test_a_folder_with_other_things_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        demo.run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_seed_at_all_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seeds 0"):
        demo.run_demo(tmp_path / "demo", seeds=0)
    assert not (tmp_path / "demo").exists()


def test_a_python_without_docstrings_gets_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_material, "collect_documents", lambda progress: [])
    with pytest.raises(UserError, match="too few docstrings"):
        demo.run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


class Titles(NullProgress):
    """Keeps what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.lines.append(title)


@pytest.mark.slow
def test_the_whole_story_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = make_documents(dict(list(DOCUMENT_COUNTS.items())[:2]))
    monkeypatch.setattr(demo_material, "collect_documents", lambda progress: documents)
    monkeypatch.setattr(demo, "DEMO_VOCAB_SIZE", 200)
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 32, "batch_size": 4, "steps": 20, "eval_every": 10}
    monkeypatch.setattr(demo, "PRETRAIN_SETTINGS", {**demo.PRETRAIN_SETTINGS, **small})
    short = {"epochs": 2.0}
    monkeypatch.setattr(
        demo, "DEMO_METHODS", {name: {**settings, **short} for name, settings in demo.DEMO_METHODS.items()}
    )
    progress = Titles()

    out = demo.run_demo(tmp_path / "demo", seeds=2, progress=progress)

    told = capsys.readouterr().out
    for method in (demo.MAJORITY, demo.TF_IDF, *demo.DEMO_METHODS):
        assert method in told
    story = json.loads((out / "demo.json").read_text())
    assert demo.pretraining_verdict(DemoResults(**story)) in told
    assert {len(scores) for scores in story["accuracy"].values()} == {2}
    assert story["accuracy"][demo.MAJORITY] == [0.5, 0.5]
    assert [len(runs[0]) for runs in story["curves"].values()] == [2, 2, 2]
    for run in ["pretrained", *(f"finetuned/{kind}-{seed}" for kind in ("scratch", "head", "all") for seed in (0, 1))]:
        assert (out / run / "report.html").exists()
        assert (out / run / "model" / "model.safetensors").exists()
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert demo.TF_IDF in page
    assert (out / "curves.svg").read_text().startswith("<svg")
    assert f"fine-tuning, seed 1: {demo.HEAD}" in progress.lines
    nothing_leaks(out)
    assert demo.choose_output_folder(out) == tmp_path / "demo-2"


def nothing_leaks(out: Path) -> None:
    """On disk as in memory: no test or validation document in the texts, no row in two tables."""
    tables = {path.stem: list(csv.DictReader(path.open(newline=""))) for path in (out / "labelled").iterdir()}
    held_out = {row["from"] for name in ("test", "validation") for row in tables[name]}
    assert len(held_out) == 2 * (demo_material.TEST_ROWS + demo_material.VALIDATION_ROWS)
    trained = {row["from"] for seed in (0, 1) for row in tables[f"train-{seed}"]}
    read = {json.loads(line)["from"] for line in (out / "texts.jsonl").read_text().splitlines()}
    assert held_out.isdisjoint(trained)
    assert held_out.isdisjoint(read)
    assert trained <= read, "labelled training rows are unlabelled text too"
