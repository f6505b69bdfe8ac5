"""An estimator that chooses one of several answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d

from gpt1.sklearn.base import LABEL, FineTuned
from gpt1.sklearn.inputs import frame_rows, row_weights
from gpt1.tables.frames import is_frame
from gpt1.tables.table import Table

CHOICE = ("context", "question", "choices")


class GPTChoice(ClassifierMixin, FineTuned):
    """Choose the right one of several answers. Parameters as in `FineTuned`.

    X: rows of (context, answers) or (context, question, answers), where the answers are a list of texts; or a DataFrame
    with these columns in this order. y: the number of the right answer, from 0. Rows may have different numbers of
    answers.

    Attributes:
        classes_: 0, 1, …, the numbers of the answers.
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model on questions X and the numbers y of the right answers."""
        rows, numbers = self._rows(X), column_or_1d(y, warn=True)
        check_consistent_length(rows, numbers)
        weights = row_weights(sample_weight, len(rows))
        for row, number in zip(rows, numbers.tolist(), strict=True):
            if number not in range(len(row["choices"])):
                raise ValueError(f"y has the answer {number}, but its row has {len(row['choices'])} answers (from 0).")
        table = Table("X", [*CHOICE, LABEL], [{**row, LABEL: n} for row, n in zip(rows, numbers.tolist(), strict=True)])
        self.classes_ = np.arange(max(len(row["choices"]) for row in rows))
        self._finetune(table, "choice", {name: name for name in CHOICE}, weights)
        return self

    def _rows(self, X: Any) -> list[dict[str, Any]]:
        rows = []
        for i, row in enumerate(frame_rows(X) if is_frame(X) else X):
            cells = [row[name] for name in CHOICE if name in row] if isinstance(row, Mapping) else list(row)
            if len(cells) not in (2, 3) or isinstance(cells[-1], str):
                raise ValueError(f"row {i} of X is not (context, answers) or (context, question, answers).")
            context, question, answers = cells if len(cells) == 3 else (cells[0], "", cells[1])
            rows.append({"context": context, "question": question, "choices": list(answers)})
        return rows

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities [rows, answers]; 0 for an answer that a row does not have."""
        return np.asarray(self.model_.predict_proba(self._rows(X)))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """The number of the most likely answer of each row."""
        return self.predict_proba(X).argmax(1)
