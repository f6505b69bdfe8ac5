"""An estimator that chooses one of several answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d

from gpt1.sklearn.base import FineTunedEstimator
from gpt1.sklearn.inputs import check_column_order, frame_rows, row_weights, training_column_names
from gpt1.tables.frames import is_frame
from gpt1.tables.table import Table

CHOICE = ("context", "question", "choices")
WITHOUT_QUESTION = ("context", "choices")


class GPTChoice(ClassifierMixin, FineTunedEstimator):
    """Choose the right one of several answers. Parameters as in `FineTunedEstimator`.

    X: rows of (context, answers) or (context, question, answers), where the answers are a list of texts; or a DataFrame
    with these columns in this order. y: the number of the right answer, from 0. Rows may have different numbers of
    answers.

    Attributes:
        classes_: 0, 1, …, the numbers of the answers.
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model on questions X and the numbers y of the right answers."""
        questions, numbers = read_questions(X), column_or_1d(y, warn=True)
        check_consistent_length(questions, numbers)
        weights = row_weights(sample_weight, len(questions))
        for (*_, answers), number in zip(questions, numbers.tolist(), strict=True):
            if number not in range(len(answers)):
                raise ValueError(f"y has the answer {number}, but its row has {len(answers)} answers (from 0).")
        self.roles_ = CHOICE if any(question is not None for _, question, _ in questions) else WITHOUT_QUESTION
        names = training_column_names(X, y, self.roles_)
        cells = [role_cells(question, self.roles_) for question in questions]
        rows = [dict(zip(names, (*row, n), strict=True)) for row, n in zip(cells, numbers.tolist(), strict=True)]
        self.classes_ = np.arange(max(len(answers) for *_, answers in questions))
        self._finetune(Table("X", names, rows, unit="position"), "choice", weights)
        return self

    def _roles(self) -> tuple[str, ...]:
        return self.roles_

    def _rows(self, X: Any) -> list[dict[str, Any]]:
        names = [self.model_.task["columns"][role] for role in self.roles_]
        check_column_order(X, names)
        return [dict(zip(names, role_cells(row, self.roles_), strict=True)) for row in read_questions(X)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities [rows, answers]; 0 for an answer that a row does not have."""
        return np.asarray(self.model_.predict_proba(self._rows(X)))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """The number of the most likely answer of each row."""
        return self.predict_proba(X).argmax(1)


def as_list(value: Any) -> list[Any]:
    """The items of a list or another collection; [] for a text, a number and None."""
    return [] if isinstance(value, str | bytes) or not isinstance(value, Iterable) else list(value)


def read_questions(X: Any) -> list[tuple[Any, Any, list[Any]]]:
    """(context, question, answers) of each row; the question is None in rows that have none."""
    found = []
    for i, row in enumerate(frame_rows(X) if is_frame(X) else X):
        cells = [row[name] for name in CHOICE if name in row] if isinstance(row, Mapping) else as_list(row)
        if len(cells) not in (2, 3) or not as_list(cells[-1]):
            raise ValueError(f"row {i} of X is not (context, answers) or (context, question, answers).")
        context, question, answers = cells if len(cells) == 3 else (cells[0], None, cells[1])
        found.append((context, question, list(answers)))
    return found


def role_cells(row: tuple[Any, Any, list[Any]], roles: tuple[str, ...]) -> list[Any]:
    """The cells of `roles`; ValueError for a question where those of `fit` had none."""
    context, question, answers = row
    if roles == WITHOUT_QUESTION and question:
        raise ValueError("X has a question, but X in fit had none: it had rows of (context, answers).")
    return [context, answers] if roles == WITHOUT_QUESTION else [context, question or "", answers]
