"""Predictions for GLUE's test splits, in the files that gluebenchmark.com takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1.data.files import replacing
from gpt1.errors import UserError
from gpt1.tasks.dataset import DataSet


def submission(data: DataSet, predictions: Sequence[Any], path: str | Path) -> list[Path]:
    """Writes `predictions`, one for each row of the test split in its order, and returns the files.

    path: a folder, where the files get the names that GLUE wants (RTE.tsv; MNLI-m.tsv and MNLI-mm.tsv), or a .tsv file.
    Labels are written as they are, scores (STS-B) with three decimals within 0 to 5.
    """
    sizes = [n for name, n in data.counts.items() if name.startswith("test")]
    if not data.glue:
        raise UserError(
            f"{data.title} has no submission file: it is not part of GLUE.", "See: gpt1 inspect " + data.name
        )
    if len(predictions) != sum(sizes):
        raise UserError(
            f"there are {len(predictions):,} predictions, but the test split of {data.title} has {sum(sizes):,} rows.",
            f"Predict {data.name}:test, all of it and in its order.",
        )
    lines = [line(data, prediction, i) for i, prediction in enumerate(predictions)]
    path = Path(path)
    single = path.suffix == ".tsv"
    if single and len(data.glue) > 1:
        raise UserError(f"{path} is one file; {data.title} needs {' and '.join(data.glue)}.", "Name a folder.")
    files = []
    for name, size in zip(data.glue, sizes, strict=True):
        files.append(path if single else path / name)
        text = "".join(f"{i}\t{shown}\n" for i, shown in enumerate(lines[:size]))
        with replacing(files[-1]) as file:
            file.write(f"index\tprediction\n{text}".encode())
        lines = lines[size:]
    return files


def line(data: DataSet, prediction: Any, i: int) -> str:
    if data.scale:
        low, high = data.scale
        return f"{min(max(float(prediction), low), high):.3f}"
    if str(prediction) not in data.labels:
        raise UserError(
            f"prediction {i + 1:,} is '{prediction}'.", f"The labels of {data.title} are: {', '.join(data.labels)}."
        )
    return str(prediction)
