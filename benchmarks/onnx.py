"""Rows of SST-2 in ONNX Runtime: what 8-bit weights cost in accuracy, and the speed of each form of the model.

`starter` is fine-tuned on 4,000 rows and exported twice. Accuracy is on rows that it has not seen: GLUE's dev rows and
8,000 others of the training split. Times include tokenizing.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.imbalance import quick_model, quick_rows, sst2_rows
from benchmarks.measure import BenchmarkResult, ResultTable, comparison_table, interleave
from benchmarks.models_and_data import find_data_dir
from gpt1.tables.table import Table, read_table
from gpt1.tokenization.tokenizer import Tokenizer

ROUNDS = 5
TRAIN_ROWS, UNSEEN_ROWS, BATCH = 4000, 8000, 32
DEV = "data/tasks/SST-2/dev.tsv"
Texts = Sequence[str]


def missing_requirement(quick: bool) -> str:
    return "" if quick or find_data_dir(DEV) else "it needs the public data: set GPT1_DATA"


def run(rounds: int, quick: bool) -> BenchmarkResult:
    from gpt1 import finetune, load
    from gpt1.inference.onnx_model import export_onnx

    train, test = draw_rows(quick)
    with tempfile.TemporaryDirectory(prefix="gpt1-") as name:
        folder = Path(name)
        model = quick_model(folder / "model", train.rows) if quick else "starter"
        settings: dict[str, Any] = {"epochs": 1} if quick else {}
        finetune(
            train, from_=model, out=folder / "run", kind="classification", text="sentence", label="label",
            baselines=False, **settings,
        )  # fmt: skip
        for form, int8 in (("fp32", False), ("int8", True)):
            export_onnx(folder / "run", folder / form, int8)
        texts, gold = [row["sentence"] for row in test], np.array([row["label"] for row in test])
        fp32, bf16 = load(folder / "run"), load(folder / "run", precision="bf16")
        forms: dict[str, Callable[[Texts], NDArray[Any]]] = {
            "gpt1, fp32": lambda texts: np.asarray(fp32.predict_proba(texts)),
            "gpt1, bf16": lambda texts: np.asarray(bf16.predict_proba(texts)),
            "ONNX Runtime, fp32": onnx_predictor(folder / "fp32"),
            "ONNX Runtime, int8": onnx_predictor(folder / "int8"),
        }
        probabilities = {form: predict(texts) for form, predict in forms.items()}
        seconds = interleave({form: partial(predict, texts[:512]) for form, predict in forms.items()}, rounds)
    labels = fp32.labels  # type: ignore[union-attr]
    title = f"Accuracy on {len(texts):,} rows"
    speeds, ratios = comparison_table("Speed", seconds, list(forms)[:2], len(texts[:512]), "rows")
    close = np.abs(probabilities["ONNX Runtime, fp32"] - probabilities["gpt1, fp32"]).max() < 1e-4
    return BenchmarkResult(
        [accuracy_table(title, probabilities, gold, labels), speeds],
        ratios,
        {"probabilities in fp32": bool(close)},
    )


def draw_rows(quick: bool) -> tuple[Table, list[dict[str, Any]]]:
    """Rows for training, and rows for the test, without a common text."""
    if quick:
        rows = quick_rows()
        return Table("train", ["sentence", "label"], rows[:64]), rows[64:128]
    dev_file = find_data_dir(DEV)
    assert dev_file is not None, "run() is only called when missing_requirement() is empty"
    dev = [{**row, "label": str(row["label"])} for row in read_table(dev_file / DEV).rows]
    seen = {row["sentence"].strip() for row in dev}
    rows = [row for row in sst2_rows() if row["sentence"].strip() not in seen]
    random.Random(0).shuffle(rows)
    return Table("train", ["sentence", "label"], rows[:TRAIN_ROWS]), dev + rows[TRAIN_ROWS:][:UNSEEN_ROWS]


def onnx_predictor(folder: Path) -> Callable[[Texts], NDArray[Any]]:
    """Probabilities [rows, labels] from ONNX Runtime, in batches of rows of similar length, as gpt1 does it."""
    import onnxruntime

    session, tokenizer = onnxruntime.InferenceSession(folder / "model.onnx"), Tokenizer.load(folder)
    facts = session.get_modelmeta().custom_metadata_map
    room, start, extract = int(facts["context"]) - 2, int(facts["start_id"]), int(facts["extract_id"])
    labels = len(json.loads(facts["labels"]))

    def predict(texts: Texts) -> NDArray[Any]:
        rows = [[start, *ids[:room], extract] for ids in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = np.zeros((len(rows), labels), np.float32)
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            ids = np.zeros((len(chosen), 1, max(len(rows[i]) for i in chosen)), np.int64)
            for line, i in enumerate(chosen):
                ids[line, 0, : len(rows[i])] = rows[i]
            lengths = np.array([[len(rows[i])] for i in chosen])
            found[chosen] = session.run(None, {"input_ids": ids, "lengths": lengths})[0]
        return found

    return predict


def accuracy_table(
    title: str, probabilities: dict[str, NDArray[Any]], gold: NDArray[Any], labels: Sequence[str]
) -> ResultTable:
    """Accuracy of each form, and how far it is from the first."""
    names, first = np.array(labels), next(iter(probabilities.values()))
    rows = []
    for form, p in probabilities.items():
        accuracy = float(np.mean(names[p.argmax(1)] == gold))
        others = int((p.argmax(1) != first.argmax(1)).sum())
        distance = np.abs(p - first)
        rows.append([form, f"{accuracy:.4f}", others, f"{distance.mean():.4f}", f"{distance.max():.4f}"])
    columns = ["", "accuracy", "other predictions than fp32", "mean difference of probabilities", "largest difference"]
    return ResultTable(title, columns, rows)
