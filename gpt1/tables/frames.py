"""DataFrames in and out: pandas, polars, pyarrow and other libraries that narwhals reads. None of them is a dependency.

A result is a DataFrame of the same library as the input and, for pandas, with its index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.tables.table import Table

FRAME, ROWS = "the DataFrame", "the rows"
"""Names of a DataFrame and of a list of rows in messages."""


def is_frame(value: object) -> bool:
    """Whether this is a DataFrame or a Series of a library that narwhals knows."""
    from narwhals import dependencies

    return dependencies.is_into_dataframe(value) or dependencies.is_into_series(value)


def is_series(value: object) -> bool:
    from narwhals import dependencies

    return dependencies.is_into_series(value)


def series_values(series: Any) -> list[Any]:
    """The values of a Series as Python values; missing ones (None, NaN, NA, NaT) are None."""
    import narwhals as nw

    column = series if isinstance(series, nw.Series) else nw.from_native(series, series_only=True)
    return [None if missing else v for v, missing in zip(column.to_list(), column.is_null().to_list(), strict=True)]


def series_texts(series: Any) -> list[str]:
    """The texts of a Series; UserError if one is missing."""
    values = series_values(series)
    check_no_missing(values, "the Series", 'texts.dropna(), or texts.fillna("")')
    return list(map(str, values))


def frame_table(frame: Any, texts: Collection[str] = ()) -> Table:
    """A DataFrame as a table.

    Args:
        frame: The DataFrame. Names of columns become strings.
        texts: Columns that must have a value in every row.

    Raises:
        UserError: If two columns have the same name, or a value of `texts` is missing.
    """
    import narwhals as nw
    from narwhals.exceptions import DuplicateError

    try:
        data = nw.from_native(frame, eager_only=True)
    except DuplicateError:
        names = list(map(str, frame.columns))
        duplicate = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{FRAME} has two columns named '{duplicate}'.", "Rename or drop one of them.") from None
    columns = {str(column.name): series_values(column) for column in data.iter_columns()}
    for name in texts:
        if name in columns:
            fix = f'df.dropna(subset=["{name}"]), or df.fillna({{"{name}": ""}})'
            check_no_missing(columns[name], f"{FRAME}, column '{name}'", fix)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Table(FRAME, list(columns), rows, unit="position")


def check_no_missing(values: Sequence[Any], where: str, fix: str) -> None:
    missing = [i for i, value in enumerate(values) if value is None]
    if missing:
        rows = "the row" if len(missing) == 1 else f"{len(missing):,} rows, the first"
        raise UserError(
            f"{where}: the text is missing (None or NaN) in {rows} at position {missing[0]:,}.", f"Use {fix}."
        )


def to_table(source: Any, texts: Collection[str] = ()) -> Any:
    """A DataFrame or a list of rows (dicts by column) as a `Table`; any other source is returned unchanged."""
    if isinstance(source, str | Path | Table):
        return source
    if isinstance(source, Sequence):
        if not source or not all(isinstance(row, Mapping) for row in source):
            raise UserError("the rows must be dicts by column, at least one.", 'Use [{"text": …, "label": …}, …].')
        names = dict.fromkeys(str(name) for row in source for name in row)
        return Table(ROWS, list(names), [dict.fromkeys(names) | dict(row) for row in source], unit="position")
    if is_series(source):
        raise UserError("a Series has no columns.", "Use a DataFrame with a column of texts and a column of labels.")
    if is_frame(source):
        return frame_table(source, texts)
    problem = "the rows are None." if source is None else f"rows of type {type(source).__name__} cannot be read."
    raise UserError(problem, "Use a file, a Table, a list of dicts, or a DataFrame (pandas, polars, pyarrow).")


def frame_like(frame: Any, columns: Mapping[str, Sequence[Any]]) -> Any:
    """A new DataFrame of the kind of `frame`, with its index if it has one."""
    import narwhals as nw

    data = nw.from_native(frame, eager_only=True, allow_series=True)
    made = nw.from_dict({name: list(values) for name, values in columns.items()}, backend=data.implementation)
    native = made.to_native()
    if (index := nw.maybe_get_index(data)) is not None:
        native.index = index
    return native


def records_like(frame: Any, records: Sequence[Mapping[str, Any]]) -> Any:
    """As `frame_like`, from one dict per row; missing values are None."""
    names = dict.fromkeys(name for record in records for name in record)
    return frame_like(frame, {name: [record.get(name) for record in records] for name in names})
