"""X and sample weights of the estimators, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from gpt1.formatting import count_noun
from gpt1.tables.cells import decode_bytes, is_missing
from gpt1.tables.frames import is_frame, is_series, series_values


def text_rows(X: Any, columns: int) -> NDArray[np.object_]:
    """X as an array [rows, columns] of strings.

    Raises:
        ValueError: For another number of columns, or a text that is missing.
        TypeError: For something that has no rows.
    """
    if isinstance(X, str | Mapping):
        raise ValueError(f"X must be a list of texts, not a single {type(X).__name__}.")
    if hasattr(X, "toarray"):
        raise TypeError("X is a sparse matrix, but must contain texts.")
    rows = frame_rows(X) if is_frame(X) else list(X)
    found = np.empty((len(rows), columns), dtype=object)
    for i, row in enumerate(rows):
        cells = [row] if isinstance(row, str | bytes) or not isinstance(row, Sequence | np.ndarray) else list(row)
        if len(cells) != columns:
            raise ValueError(f"X has {count_noun(len(cells), 'column')} in row {i}, but needs {columns} with texts.")
        for k, cell in enumerate(cells):
            if is_missing(cell):
                raise ValueError(f"the text is missing (None or NaN) in row {i} of X.")
            found[i, k] = decode_bytes(cell) if isinstance(cell, bytes) else str(cell)
    return found


def frame_rows(frame: Any) -> list[list[Any]]:
    """The rows of a DataFrame or a Series, values in the order of its columns; missing ones are None."""
    import narwhals as nw

    if is_series(frame):
        return [[value] for value in series_values(frame)]
    columns = [series_values(column) for column in nw.from_native(frame, eager_only=True).iter_columns()]
    return [list(row) for row in zip(*columns, strict=True)]


def training_column_names(X: Any, y: Any, roles: Sequence[str]) -> list[str]:
    """Names of the columns of X, then of y, by which a saved model reads tables.

    They are those of the DataFrames or Series; `roles` and `label` for what has no names, or names that a command could
    not be given: of another type, repeated, or with commas.
    """
    names, label = usable_column_names(X), usable_column_names(y)
    if len(names) != len(roles) or len(set(names)) < len(names):
        names = list(roles)
    spare = [*(name for name in label if len(label) == 1), "label", "gpt1 label"]
    return [*names, next(name for name in spare if name not in names)]


def check_column_order(X: Any, names: Sequence[str]) -> None:
    """ValueError for a DataFrame with the columns `names` of `fit` in another order: each would be read as another."""
    found = usable_column_names(X)
    if found != list(names) and sorted(found) == sorted(names):
        raise ValueError(f"X has the columns {', '.join(found)}, but must have the order of fit: {', '.join(names)}.")


def usable_column_names(data: Any) -> list[str]:
    """The names of the columns of a DataFrame or a Series; none if one cannot be used."""
    import narwhals as nw

    if not is_frame(data):
        return []
    frame = nw.from_native(data, eager_only=True, allow_series=True)
    names = [frame.name] if isinstance(frame, nw.Series) else frame.columns
    usable = all(isinstance(name, str) and name and name == name.strip() and "," not in name for name in names)
    return list(names) if usable else []


def row_weights(sample_weight: ArrayLike | None, rows: int) -> NDArray[np.float64]:
    """The weight of each row, 1 by default; ValueError for another number of them, or a negative one."""
    checked = _check_sample_weight(sample_weight, np.empty((rows, 1)), dtype=np.float64, ensure_non_negative=True)
    return np.asarray(checked)
