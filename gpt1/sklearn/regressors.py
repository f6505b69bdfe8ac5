"""Estimators for numbers: of texts, and of pairs of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_consistent_length, column_or_1d

from gpt1.inference.task import rescale_scores
from gpt1.sklearn.base import FineTunedEstimator
from gpt1.sklearn.inputs import row_weights, text_rows

SCORE_STEPS = 5
"""`GPTPairRegressor` spreads the numbers over scores from 0 to this, the range of STS-B."""


class GPTRegressor(RegressorMixin, FineTunedEstimator):
    """Predict a number for each text. Parameters as in `FineTunedEstimator`."""

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model on texts X and numbers y; rows of weight 0 are left out."""
        texts, numbers, weights = regression_rows(X, y, sample_weight, len(self._roles()))
        self._finetune(self._training_table(X, y, texts, numbers.tolist()), "regression", weights)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """A number for each text, or for each pair."""
        return np.array([row["score"] for row in self.model_.predict(self._rows(X))], dtype=np.float64)


class GPTPairRegressor(GPTRegressor):
    """Predict a number for each pair of texts, such as their similarity; their order does not matter.

    The numbers are spread over scores from 0 to 5 and predicted as the mean of a distribution over these, as the
    release did for STS-B: a prediction lies in the range of the training numbers. Parameters as in
    `FineTunedEstimator`.
    """

    def _roles(self) -> tuple[str, ...]:
        return ("text_a", "text_b")

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model on pairs X and numbers y; rows of weight 0 are left out."""
        texts, numbers, weights = regression_rows(X, y, sample_weight, len(self._roles()))
        self.low_, self.high_ = float(numbers.min()), float(numbers.max())
        scores = (numbers - self.low_) / (self.high_ - self.low_) * SCORE_STEPS
        self._finetune(self._training_table(X, y, texts, scores.tolist()), "similarity", weights, score=True)
        return self

    def _keep_model(self, folder: Path) -> None:
        """As in the base class; the kept model predicts numbers of y, not scores from 0 to 5."""
        rescale_scores(folder, self.low_, (self.high_ - self.low_) / SCORE_STEPS)
        super()._keep_model(folder)


def regression_rows(
    X: Any, y: ArrayLike, sample_weight: ArrayLike | None, columns: int
) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64]]:
    """(texts [rows, columns], numbers [rows], weights [rows]), checked, without the rows of weight 0."""
    texts, numbers = text_rows(X, columns), np.asarray(column_or_1d(y, warn=True), dtype=np.float64)
    check_consistent_length(texts, numbers)
    if not np.isfinite(numbers).all():
        raise ValueError("y contains NaN or infinity.")
    if len(numbers) < 2:
        raise ValueError(f"X has n_samples = {len(numbers)}; a regressor needs at least two rows.")
    weights = row_weights(sample_weight, len(texts))
    if weights.any():  # else fine-tuning refuses them
        kept = weights > 0
        texts, numbers, weights = texts[kept], numbers[kept], weights[kept]
    if numbers.min() == numbers.max():
        raise ValueError(f"all numbers are {numbers[0]:g}: there is nothing to learn.")
    return texts, numbers, weights
