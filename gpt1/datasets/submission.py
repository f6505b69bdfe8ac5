"""Predictions for GLUE's test splits, in the file format of gluebenchmark.com."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1.datasets.dataset import DataSet
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_write_text


def write_submission(data: DataSet, predictions: Sequence[Any], path: str | Path) -> list[Path]:
    """Write a submission file for GLUE and return the paths.

    Args:
        predictions: One per row of the test split, in order. Scores (STS-B) are clipped to 0 … 5 and written with three
            decimals.
        path: A folder, for files with GLUE's names (RTE.tsv; MNLI-m.tsv and MNLI-mm.tsv), or a .tsv file.

    Raises:
        UserError: If the number of predictions or a label is wrong, or the data set is not part of GLUE.
    """
    files = plan_submission(data, len(predictions), path)
    lines = [format_prediction(data, prediction, i) for i, prediction in enumerate(predictions)]
    for file, size in files.items():
        text = "".join(f"{i}\t{line}\n" for i, line in enumerate(lines[:size]))
        atomic_write_text(file, f"index\tprediction\n{text}")
        lines = lines[size:]
    return list(files)


def plan_submission(data: DataSet, rows: int, path: str | Path) -> dict[Path, int]:
    """The files of a submission and their numbers of rows; UserError if `rows` predictions are not a submission.

    Call it before computing the predictions.
    """
    sizes = [n for name, n in data.counts.items() if name.startswith("test")]
    if not data.glue:
        raise UserError(
            f"{data.title} has no submission file: it is not part of GLUE.", "See: gpt1 inspect " + data.name
        )
    if rows != sum(sizes):
        raise UserError(
            f"there are {rows:,} predictions, but the test split of {data.title} has {sum(sizes):,} rows.",
            f"Predict all rows of {data.name}:test, in order.",
        )
    path = Path(path)
    if path.suffix != ".tsv":
        return dict(zip([path / name for name in data.glue], sizes, strict=True))
    if len(data.glue) > 1:
        raise UserError(f"{path} is one file, but {data.title} needs {' and '.join(data.glue)}.", "Use a folder.")
    return {path: rows}


def format_prediction(data: DataSet, prediction: Any, i: int) -> str:
    if data.score_range:
        low, high = data.score_range
        return f"{min(max(float(prediction), low), high):.3f}"
    if str(prediction) not in data.labels:
        raise UserError(
            f"prediction {i + 1:,} is '{prediction}'.", f"Labels of {data.title}: {', '.join(data.labels)}."
        )
    return str(prediction)
