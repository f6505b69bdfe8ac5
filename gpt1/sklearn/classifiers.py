"""Estimators for labels: of texts, and of pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from gpt1.sklearn.base import FineTuned
from gpt1.sklearn.inputs import row_weights, text_rows


class GPTClassifier(ClassifierMixin, FineTuned):
    """Classify texts with a fine-tuned GPT. X: texts; y: their labels.

    >>> from gpt1.sklearn import GPTClassifier
    >>> GPTClassifier("runs/books", epochs=2).get_params()["epochs"]
    2

    Args:
        pretrained: The pre-trained model: a run or model folder, or another name that `gpt1 finetune --from` takes.
        class_weight: None, `balanced`, or class → weight, as elsewhere in scikit-learn.

    All others as in `FineTuned`.

    Attributes:
        classes_: The labels, sorted; the columns of `predict_proba`.
        model_: The fine-tuned model, as `gpt1.load` returns it.
    """

    kind: ClassVar[str] = "classification"

    def __init__(
        self,
        pretrained: Any = "starter",
        *,
        epochs: float | None = None,
        train: str = "all",
        peak_lr: float | None = None,
        batch_size: int | None = None,
        long: str = "cut",
        valid_fraction: float = 0.1,
        class_weight: Any = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            pretrained,
            epochs=epochs,
            train=train,
            peak_lr=peak_lr,
            batch_size=batch_size,
            long=long,
            valid_fraction=valid_fraction,
            device=device,
            precision=precision,
            random_state=random_state,
            settings=settings,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def _kind(self) -> str:
        return self.kind

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model.

        Args:
            X: Texts: a list, an array, a Series, or a DataFrame with one column (pairs: two columns).
            y: Their labels, of at least two classes.
            sample_weight: Weight of each row in the loss; rows of weight 0 are left out.
        """
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        texts = text_rows(X, len(self.columns))
        check_consistent_length(texts, y)
        weights = row_weights(sample_weight, len(texts))
        self.classes_, codes = np.unique(y, return_inverse=True)
        present = np.unique(codes[weights > 0])
        if len(present) < 2:
            raise ValueError(f"the labels have {len(present)} class; a classifier needs at least two classes.")
        if len(present) < len(self.classes_):  # of some classes all rows have weight 0
            self.classes_, codes = self.classes_[present], np.searchsorted(present, codes)
        weights = weights * compute_sample_weight(self.class_weight, y)
        table = self._training_table(texts, codes.tolist())  # labels 0, 1, … sort as classes_ do
        self._finetune(table, self._kind(), self._roles(), weights)
        return self

    def _roles(self) -> dict[str, str]:
        return {name: name for name in self.columns}

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities [rows, classes], columns as in `classes_`."""
        return np.asarray(self.model_.predict_proba(self._rows(X)))

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each row."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_)[probabilities.argmax(1)]


class GPTPairClassifier(GPTClassifier):
    """Classify pairs of texts. X has two columns: a DataFrame, an array [rows, 2], or a list of pairs.

    Args:
        pretrained: As in `GPTClassifier`.
        symmetric: Whether the order of the two texts does not matter (paraphrase): the model then reads both orders
            (kind `similarity`). Otherwise the first is a premise and the second a hypothesis (kind `entailment`).

    All others as in `GPTClassifier`.
    """

    columns = ("text_a", "text_b")

    def __init__(
        self,
        pretrained: Any = "starter",
        *,
        symmetric: bool = False,
        epochs: float | None = None,
        train: str = "all",
        peak_lr: float | None = None,
        batch_size: int | None = None,
        long: str = "cut",
        valid_fraction: float = 0.1,
        class_weight: Any = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            pretrained,
            epochs=epochs,
            train=train,
            peak_lr=peak_lr,
            batch_size=batch_size,
            long=long,
            valid_fraction=valid_fraction,
            class_weight=class_weight,
            device=device,
            precision=precision,
            random_state=random_state,
            settings=settings,
            verbose=verbose,
        )
        self.symmetric = symmetric

    def _kind(self) -> str:
        return "similarity" if self.symmetric else "entailment"

    def _roles(self) -> dict[str, str]:
        roles = ("text_a", "text_b") if self.symmetric else ("premise", "hypothesis")
        return dict(zip(roles, self.columns, strict=True))
