"""Both stages learn, on tasks so simple that a model of 30,000 parameters solves them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gpt1.inference.evaluate import evaluate
from gpt1.tables.table import Table
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("no_reports")

SETTINGS = {"peak_lr": 2e-3, "epochs": 12, "batch_size": 16, "precision": "fp32", "device": "cpu", "dropout": 0.0}
THINGS = ("file", "list", "number", "logger", "option", "string", "path", "name")
PLACES = ("module", "class", "method", "function", "argument", "value", "key", "line")


def make_rows(seed: int, rows: int = 240) -> list[dict[str, Any]]:
    """Sentences in which one word determines the label; everything else is random."""
    draw = random.Random(seed)
    found = []
    for _ in range(rows):
        good, thing, place = draw.random() < 0.5, draw.choice(THINGS), draw.choice(PLACES)
        word = "valid" if good else "broken"
        text = f"the {thing} is {word} in {draw.choice(THINGS)}"  # two of them fit the 32 positions
        answers = [word, "valid" if word == "broken" else "broken"]
        right = draw.randrange(2)
        found.append(
            {
                "text": text,
                "other": f"a {place}",
                "label": "yes" if good else "no",
                "stars": 4.0 if good else 1.0,
                "answers": answers if right == 0 else answers[::-1],
                "right": right,
            }
        )
    return found


def table(name: str, seed: int) -> Table:
    rows = make_rows(seed)
    return Table(name, list(rows[0]), rows)


KINDS = {
    "classification": ({"text": "text", "label": "label"}, "accuracy", 0.95),
    "regression": ({"text": "text", "label": "stars"}, "pearson", 0.95),
    "similarity": ({"text_a": "other", "text_b": "text", "label": "label"}, "accuracy", 0.95),
    "entailment": ({"premise": "other", "hypothesis": "text", "label": "label"}, "accuracy", 0.95),
    "choice": ({"context": "text", "choices": "answers", "label": "right"}, "accuracy", 0.95),
}


@pytest.fixture(scope="module")
def trained_run(corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned more than word frequencies; without a slow warm-up, a post-LN model stalls."""
    settings = {**tiny_pretrain_settings, "steps": 600, "batch_size": 16, "peak_lr": 5e-3, "warmup": 0.15}
    return pretrain(corpus, out=tmp_path_factory.mktemp("runs") / "taught", **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_learns_a_label_that_depends_on_one_word(kind: str, trained_run: Path, tmp_path: Path):
    columns, metric, enough = KINDS[kind]
    run = finetune(table("train", 0), from_=trained_run, out=tmp_path / "run", kind=kind, **columns, **SETTINGS)
    found = evaluate(run, table("test", 1))
    assert found["metrics"][metric] > enough, found


def test_a_head_alone_learns_more_than_the_majority(trained_run: Path, tmp_path: Path):
    columns = KINDS["classification"][0]
    settings = {"train": "head", "precision": "fp32", "device": "cpu"}
    run = finetune(
        table("train", 0), from_=trained_run, out=tmp_path / "run", kind="classification", **columns, **settings
    )
    assert evaluate(run, table("test", 1))["metrics"]["accuracy"] > 0.6


def test_random_labels_cannot_be_learned(trained_run: Path, tmp_path: Path):
    """The accuracy is that of chance: nothing leaks from the labels of the test rows."""
    draw = random.Random(2)
    tables = [table("train", 0), table("test", 1)]
    for one in tables:
        for row in one.rows:
            row["label"] = draw.choice(["yes", "no"])
    columns = KINDS["classification"][0]
    run = finetune(
        tables[0], from_=trained_run, out=tmp_path / "run", kind="classification", **columns, **SETTINGS | {"epochs": 3}
    )
    assert 0.35 < evaluate(run, tables[1])["metrics"]["accuracy"] < 0.65


def test_pre_training_learns_more_than_word_frequencies(trained_run: Path):
    results = json.loads((trained_run / "results.json").read_text())
    assert results["validation"]["loss"] < results["unigram"]["loss"] - 0.5


def test_a_model_trained_on_one_sentence_repeats_it(
    tokenizer: Any, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    from gpt1.corpus.corpus import write_corpus
    from gpt1.inference.predictor import load

    sentence = "a corpus of one sentence teaches this sentence and no other "
    (tmp_path / "one.txt").write_text(sentence * 100, encoding="utf-8")
    write_corpus([str(tmp_path / "one.txt")], tmp_path / "corpus", tokenizer)
    run = pretrain(
        tmp_path / "corpus",
        out=tmp_path / "run",
        **{**tiny_pretrain_settings, "steps": 300, "peak_lr": 5e-3, "warmup": 0.15},
    )
    assert load(run).generate("a corpus of one", max_tokens=24, temperature=0).startswith(sentence[:40])
