"""Rare positives: the plain loss and `--class-weight balanced` on rows of SST-2 of which 5 % are positive.

Each seed draws its own rows; both losses use the same ones. The epoch (by F1) and a threshold are chosen on the same
validation rows for both, so that the difference is not only one of thresholds: a balanced loss moves every probability
up, which a lower threshold does as well. The last rows of the table do not depend on a threshold.

The pre-trained model is GPT1_MODEL (a run, a model folder or a name), by default `starter`.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from benchmarks.measure import BenchmarkResult, ResultTable
from benchmarks.models_and_data import find_data_dir
from gpt1.errors import UserError
from gpt1.tables.table import Table, read_table

ROUNDS = 5  # seeds
POSITIVE_SHARE = 0.05
LOSSES = {"plain": "", "balanced": "balanced"}
SST2 = "data/tasks/SST-2/train.tsv"


class Sizes(NamedTuple):
    """Rows of each part."""

    train: int
    valid: int
    test: int


FULL, QUICK = Sizes(4000, 2000, 8000), Sizes(120, 60, 60)


def missing_requirement(quick: bool) -> str:
    from gpt1.runs.folder import find_model_folder

    if quick:
        return ""
    try:
        find_model_folder(pretrained_model())
    except UserError as error:
        return f"set GPT1_MODEL to a pre-trained model ({error.problem})"
    return "" if find_data_dir(SST2) else "it needs the public data: set GPT1_DATA"


def pretrained_model() -> str:
    return os.environ.get("GPT1_MODEL", "starter")


def run(rounds: int, quick: bool) -> BenchmarkResult:
    with tempfile.TemporaryDirectory(prefix="gpt1-") as name:
        rows, sizes = (quick_rows(), QUICK) if quick else (sst2_rows(), FULL)
        model = quick_model(Path(name) / "model", rows) if quick else pretrained_model()
        settings: dict[str, Any] = {"epochs": 1} if quick else {}
        found: dict[str, list[dict[str, float]]] = {loss: [] for loss in LOSSES}
        for seed in range(rounds):
            parts = draw_parts(rows, sizes, random.Random(seed))
            for loss, class_weight in LOSSES.items():
                out = Path(name) / f"{loss}-{seed}"
                found[loss].append(train_and_measure(parts, model, out, class_weight, seed, settings))
    title = f"{rounds} seeds; rows {'/'.join(map(str, sizes))} (train/validation/test), {POSITIVE_SHARE:.0%} positive"
    return BenchmarkResult([compare(title, found["plain"], found["balanced"])], {}, {"the same rows for both": True})


def draw_parts(rows: Sequence[dict[str, Any]], sizes: Sizes, draw: random.Random) -> list[Table]:
    """Tables for training, validation and test, without a common row, each with the share of positives."""
    by_label = {label: [row for row in rows if row["label"] == label] for label in ("0", "1")}
    for of_label in by_label.values():
        draw.shuffle(of_label)
    tables = []
    for name, size in sizes._asdict().items():
        positives = round(POSITIVE_SHARE * size)
        taken = []
        for label, count in (("1", positives), ("0", size - positives)):
            taken += by_label[label][:count]
            del by_label[label][:count]
        draw.shuffle(taken)
        tables.append(Table(name, ["sentence", "label"], taken))
    return tables


def train_and_measure(
    parts: Sequence[Table], model: str | Path, out: Path, class_weight: str, seed: int, settings: dict[str, Any]
) -> dict[str, float]:
    """Fine-tune with a loss, and measure on the test rows."""
    from gpt1 import finetune, load

    train, valid, test = parts
    finetune(
        train, valid=valid, from_=model, out=out, kind="classification", text="sentence", label="label", metric="f1",
        class_weight=class_weight, seed=seed, baselines=False, **settings,
    )  # fmt: skip
    task = load(out)
    column = task.labels.index("1")
    p_valid, p_test = (
        np.asarray(task.predict_proba([row["sentence"] for row in part.rows]))[:, column] for part in (valid, test)
    )
    gold_valid, gold_test = (np.array([row["label"] == "1" for row in part.rows]) for part in (valid, test))
    return measure(p_valid, gold_valid, p_test, gold_test)


def measure(
    p_valid: NDArray[Any], gold_valid: NDArray[Any], p_test: NDArray[Any], gold_test: NDArray[Any]
) -> dict[str, float]:
    """Metrics on the test rows, at 0.5 and at the threshold that is best on the validation rows."""
    found = {}
    scores = {"macro F1": partial(f1_score, average="macro"), "balanced accuracy": balanced_accuracy_score}
    for name, score in scores.items():
        found[f"{name}, at 0.5"] = score(gold_test, p_test >= 0.5)
        on_valid = {threshold: score(gold_valid, p_valid >= threshold) for threshold in np.unique(p_valid)}
        chosen = max(on_valid, key=on_valid.__getitem__)
        found[f"{name}, threshold from validation"] = score(gold_test, p_test >= chosen)
    found["average precision"] = average_precision_score(gold_test, p_test)
    found["area under the ROC curve"] = roc_auc_score(gold_test, p_test)
    return {name: float(value) for name, value in found.items()}


def compare(title: str, plain: Sequence[dict[str, float]], balanced: Sequence[dict[str, float]]) -> ResultTable:
    """Mean and standard deviation over the seeds of each loss, and of their difference seed by seed."""
    rows = []
    for name in plain[0]:
        a, b = [one[name] for one in plain], [one[name] for one in balanced]
        difference = [y - x for x, y in zip(a, b, strict=True)]
        wins = f"{sum(d > 0 for d in difference)} of {len(difference)}"
        rows.append([name, mean_and_spread(a), mean_and_spread(b), mean_and_spread(difference, "+"), wins])
    return ResultTable(title, ["test rows", "plain loss", "balanced", "difference", "balanced is better"], rows)


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.3f} ± {spread:.3f}"


def sst2_rows() -> list[dict[str, Any]]:
    folder = find_data_dir(SST2)
    assert folder is not None, "run() is only called when missing_requirement() is empty"
    rows = read_table(folder / SST2).rows
    return list({str(row["sentence"]).strip(): {**row, "label": str(row["label"])} for row in rows}.values())


# ---- --quick


def quick_rows() -> list[dict[str, Any]]:
    """Rows whose label is a word in them."""
    words = ("dull", "great")
    return [{"sentence": f"film number {i} is {words[i % 2]}", "label": str(i % 2)} for i in range(800)]


def quick_model(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    import torch

    from gpt1.config import GPTConfig
    from gpt1.inference.task import save_model
    from gpt1.model.gpt import GPT
    from gpt1.tokenization.tokenizer import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.train([str(row["sentence"]) for row in rows], vocab_size=300, pipeline="lossless")
    config = GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16, context=32)
    folder.mkdir()
    save_model(folder, GPT(config), tokenizer)
    return folder
