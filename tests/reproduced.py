"""What the tests of reproductions share: official files in small, models that take a second, what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gpt1.experiments.reproduce.tasks import PaperTask

QUICK: dict[str, Any] = {"epochs": 1.0, "precision": "fp32", "device": "cpu"}
NAMED = ("entailment", "not_entailment")
THINGS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def sentence(i: int, good: int) -> str:
    return f"the {THINGS[i % 8]} number {i} is {'valid' if good else 'broken'}"


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files in small: CoLA, RTE and RACE whole; SNLI without train; QNLI's dev alone."""
    folder = tmp_path_factory.mktemp("official")

    def write(name: str, lines: list[str]) -> None:
        write_lines(folder / name, lines)

    for name, rows in {"in_domain_train": range(24), "in_domain_dev": range(24, 36)}.items():
        write(f"CoLA/{name}.tsv", [f"src\t{i % 2}\t\t{sentence(i, i % 2)}" for i in rows])
    write("CoLA/out_of_domain_dev.tsv", [f"src\t{i % 2}\t\t{sentence(i, i % 2)}" for i in range(36, 42)])
    pairs = [f"{i}\t{sentence(i, i % 3)}\t{sentence(i + 1, i % 2)}\t{NAMED[i % 2]}" for i in range(50)]
    for name, lines in {"RTE/train": pairs[:20], "RTE/dev": pairs[20:30]}.items():
        write(f"{name}.tsv", ["index\tsentence1\tsentence2\tlabel", *lines])
    write("QNLI/dev.tsv", ["index\tquestion\tsentence\tlabel", *pairs[30:40]])
    three = ("entailment", "neutral", "contradiction")
    for name, rows in {"dev": range(18), "test": range(18, 27)}.items():
        texts = [{"premise": sentence(i, i % 2), "hypothesis": sentence(i, 1), "label": three[i % 3]} for i in rows]
        write(f"SNLI-devtest/{name}.jsonl", [json.dumps(row) for row in texts])
    for split, first in {"train": 0, "dev": 20, "test": 40}.items():
        for level, number in (("middle", 3), ("high", 5)):
            for i in range(number):
                passage = {"article": sentence(first + i, 1) + level, "questions": ["what is it?", "is it so?"]}
                passage |= {"options": [list(THINGS[:4]), list(THINGS[4:])], "answers": ["A", "BCD"[i % 3]]}
                write(f"RACE/{split}/{level}/{i}.txt", [json.dumps(passage)])
    return folder


@pytest.fixture(scope="session")
def walked(corpus: Path, shape: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained run of one block that kept its checkpoints."""
    from gpt1.training.pretrain import pretrain

    few = {"steps": 5, "checkpoint_every": 2, "keep": 100, "n_layer": 1, "n_embd": 16}
    return pretrain(corpus, out=tmp_path_factory.mktemp("walked") / "run", **(shape | few))


@pytest.fixture(scope="session")
def recurrent(corpus: Path, shape: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpt1.training.pretrain import pretrain

    few = {"model": "lstm", "steps": 2, "n_layer": 1, "lstm_units": 8, "n_embd": 16}
    return pretrain(corpus, out=tmp_path_factory.mktemp("recurrent") / "run", **(shape | few))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells without their work: the keys of what would have been run, in order."""
    from gpt1.experiments.reproduce.plan import Plan

    done: list[str] = []

    def measure(plan: Any, task: PaperTask, method: str, seed: int, *_: Any) -> dict[str, Any]:
        done.append(plan.key(task, method, seed))
        metrics = dict.fromkeys(task.target.metrics, 0.5 + seed / 10)
        about = {"task": task.name.text, "method": method, "seed": seed, "made_from": plan.made_from(task, method)}
        subsets = dict.fromkeys(task.subsets if method != "tfidf" else (), metrics)
        return about | {"score": 0.5, "metrics": metrics, "subsets": subsets, "cut": 0.0}

    monkeypatch.setattr(Plan, "measure", measure)
    return done


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def cells_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["cells"]
    return found
