"""Predictions for GLUE's test splits, in the files that gluebenchmark.com takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1.datasets.dataset import DataSet
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_file


def write_submission(data: DataSet, predictions: Sequence[Any], path: str | Path) -> list[Path]:
    """Writes `predictions`, one for each row of the test split in its order, and returns the files.

    path: a folder, where the files get the names that GLUE wants (RTE.tsv; MNLI-m.tsv and MNLI-mm.tsv), or a .tsv file.
    Labels are written as they are, scores (STS-B) with three decimals within 0 to 5.
    """
    files = plan_submission(data, len(predictions), path)
    lines = [format_prediction(data, prediction, i) for i, prediction in enumerate(predictions)]
    for file, size in files.items():
        text = "".join(f"{i}\t{shown}\n" for i, shown in enumerate(lines[:size]))
        with atomic_file(file) as stream:
            stream.write(f"index\tprediction\n{text}".encode())
        lines = lines[size:]
    return list(files)


def plan_submission(data: DataSet, rows: int, path: str | Path) -> dict[Path, int]:
    """The files of a submission with their rows; UserError where `rows` predictions do not make one. To be asked before
    the work whose result it takes."""
    sizes = [n for name, n in data.counts.items() if name.startswith("test")]
    if not data.glue:
        raise UserError(
            f"{data.title} has no submission file: it is not part of GLUE.", "See: gpt1 inspect " + data.name
        )
    if rows != sum(sizes):
        raise UserError(
            f"there are {rows:,} predictions, but the test split of {data.title} has {sum(sizes):,} rows.",
            f"Predict {data.name}:test, all of it and in its order.",
        )
    path = Path(path)
    if path.suffix != ".tsv":
        return dict(zip([path / name for name in data.glue], sizes, strict=True))
    if len(data.glue) > 1:
        raise UserError(f"{path} is one file; {data.title} needs {' and '.join(data.glue)}.", "Name a folder.")
    return {path: rows}


def format_prediction(data: DataSet, prediction: Any, i: int) -> str:
    if data.score_range:
        low, high = data.score_range
        return f"{min(max(float(prediction), low), high):.3f}"
    if str(prediction) not in data.labels:
        raise UserError(
            f"prediction {i + 1:,} is '{prediction}'.", f"The labels of {data.title} are: {', '.join(data.labels)}."
        )
    return str(prediction)
