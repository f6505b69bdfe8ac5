"""Fixtures for tests of reproductions: small files in the official formats, models that take a second, readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gpt1.experiments.reproduce.paper_tasks import PaperTask

QUICK_SETTINGS: dict[str, Any] = {"epochs": 1.0, "precision": "fp32", "device": "cpu"}
RTE_LABELS = ("entailment", "not_entailment")
NOUNS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def make_sentence(i: int, good: int) -> str:
    return f"the {NOUNS[i % 8]} number {i} is {'valid' if good else 'broken'}"


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="session")
def official_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files in the official formats: CoLA, RTE and RACE complete; SNLI without train; only dev of QNLI."""
    folder = tmp_path_factory.mktemp("official")

    def write(name: str, lines: list[str]) -> None:
        write_lines(folder / name, lines)

    for name, rows in {"in_domain_train": range(24), "in_domain_dev": range(24, 36)}.items():
        write(f"CoLA/{name}.tsv", [f"src\t{i % 2}\t\t{make_sentence(i, i % 2)}" for i in rows])
    write("CoLA/out_of_domain_dev.tsv", [f"src\t{i % 2}\t\t{make_sentence(i, i % 2)}" for i in range(36, 42)])
    pairs = [f"{i}\t{make_sentence(i, i % 3)}\t{make_sentence(i + 1, i % 2)}\t{RTE_LABELS[i % 2]}" for i in range(50)]
    for name, lines in {"RTE/train": pairs[:20], "RTE/dev": pairs[20:30]}.items():
        write(f"{name}.tsv", ["index\tsentence1\tsentence2\tlabel", *lines])
    write("QNLI/dev.tsv", ["index\tquestion\tsentence\tlabel", *pairs[30:40]])
    three = ("entailment", "neutral", "contradiction")
    for name, rows in {"dev": range(18), "test": range(18, 27)}.items():
        texts = [
            {"premise": make_sentence(i, i % 2), "hypothesis": make_sentence(i, 1), "label": three[i % 3]} for i in rows
        ]
        write(f"SNLI-devtest/{name}.jsonl", [json.dumps(row) for row in texts])
    for split, first in {"train": 0, "dev": 20, "test": 40}.items():
        for level, number in (("middle", 3), ("high", 5)):
            for i in range(number):
                passage = {"article": make_sentence(first + i, 1) + level, "questions": ["what is it?", "is it so?"]}
                passage |= {"options": [list(NOUNS[:4]), list(NOUNS[4:])], "answers": ["A", "BCD"[i % 3]]}
                write(f"RACE/{split}/{level}/{i}.txt", [json.dumps(passage)])
    return folder


@pytest.fixture(scope="session")
def run_with_checkpoints(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pre-trained run of one block with all its checkpoints."""
    from gpt1.training.pretrain import pretrain

    few = {"steps": 5, "checkpoint_every": 2, "keep": 100, "n_layer": 1, "n_embd": 16}
    return pretrain(corpus, out=tmp_path_factory.mktemp("walked") / "run", **(tiny_pretrain_settings | few))


@pytest.fixture(scope="session")
def lstm_run(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpt1.training.pretrain import pretrain

    few = {"model": "lstm", "steps": 2, "n_layer": 1, "lstm_units": 8, "n_embd": 16}
    return pretrain(corpus, out=tmp_path_factory.mktemp("recurrent") / "run", **(tiny_pretrain_settings | few))


@pytest.fixture
def executed_jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the jobs by constant results; the keys of the executed jobs, in order."""
    from gpt1.experiments.reproduce.plan import ReproductionPlan

    done: list[str] = []

    def measure(plan: Any, task: PaperTask, method: str, seed: int, *_: Any) -> dict[str, Any]:
        done.append(plan.job_key(task, method, seed))
        metrics = dict.fromkeys(task.target.metrics, 0.5 + seed / 10)
        about = {"task": task.name.text, "method": method, "seed": seed, "made_from": plan.provenance(task, method)}
        subsets = dict.fromkeys(task.subsets, metrics)
        return about | {"score": 0.5, "metrics": metrics, "subsets": subsets, "cut": 0.0}

    monkeypatch.setattr(ReproductionPlan, "run_job", measure)
    return done


def read_results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def read_stored_results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["cells"]
    return found
