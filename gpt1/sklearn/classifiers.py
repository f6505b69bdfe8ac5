"""Estimators for labels: of texts, and of pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from gpt1.errors import UserError
from gpt1.sklearn.base import FineTunedEstimator
from gpt1.sklearn.inputs import row_weights, text_rows
from gpt1.tasks.labels import as_label
from gpt1.tasks.multilabel import DEFAULT_THRESHOLD


@dataclass(eq=False, repr=False, kw_only=True)
class GPTClassifier(ClassifierMixin, FineTunedEstimator):
    """Classify texts with a fine-tuned GPT. X: texts; y: their labels, or an indicator matrix.

    An indicator matrix [rows, labels] of 0 and 1 says which of several labels each row has. Predictions are then such
    matrices as well, from a threshold for each label that the validation rows chose.

    >>> from gpt1.sklearn import GPTClassifier
    >>> GPTClassifier("runs/books", epochs=2).get_params()["epochs"]
    2

    Args:
        pretrained: The pre-trained model: a run or model folder, or another name that `gpt1 finetune --from` takes.
        class_weight: None, `balanced`, or class → weight, as elsewhere in scikit-learn; None for an indicator matrix.

    All others as in `FineTunedEstimator`.

    Attributes:
        classes_: The labels, sorted; the columns of `predict_proba`. For an indicator matrix the names of its columns,
            or their numbers.
        multilabel_: Whether y was an indicator matrix.
        model_: The fine-tuned model, as `gpt1.load` returns it.
    """

    kind: ClassVar[str] = "classification"
    takes_indicator: ClassVar[bool] = True

    class_weight: Any = None

    def _kind(self) -> str:
        return self.kind

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Fine-tune the model.

        Args:
            X: Texts: a list, an array, a Series, or a DataFrame with one column (pairs: two columns).
            y: Their labels, of at least two classes; or an indicator matrix [rows, labels], dense, sparse or a
                DataFrame.
            sample_weight: Weight of each row in the loss; rows of weight 0 are left out.
        """
        self.multilabel_ = type_of_target(y, input_name="y") == "multilabel-indicator"
        if self.multilabel_:
            return self._fit_indicator(X, y, sample_weight)
        labels: NDArray[Any] = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        texts = text_rows(X, len(self._roles()))
        check_consistent_length(texts, labels)
        weights = row_weights(sample_weight, len(texts))
        kept = weights > 0  # a row of weight 0 counts neither as a class nor in the frequency of its class
        texts, labels, weights = texts[kept], labels[kept], weights[kept]
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"the labels have {len(self.classes_)} class; a classifier needs at least two classes.")
        check_distinct(self.classes_.tolist())
        weights = weights * compute_sample_weight(self.class_weight, labels)
        self._finetune(self._training_table(X, y, texts, labels.tolist()), self._kind(), weights)
        return self

    def _fit_indicator(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Any:
        """Fine-tune on several labels a row. Labels that no row has are left out, and predicted as absent."""
        if not self.takes_indicator or self.class_weight is not None:
            what = "class_weight" if self.takes_indicator else type(self).__name__
            raise ValueError(f"{what} needs one label for each row; y is an indicator matrix of several.")
        indicator = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        texts = text_rows(X, len(self._roles()))
        check_consistent_length(texts, indicator)
        weights = row_weights(sample_weight, len(texts))
        self.classes_ = np.asarray(list(y.columns)) if hasattr(y, "columns") else np.arange(indicator.shape[1])
        names = self._label_names()
        if len({*names} - {""}) < len(names):
            raise ValueError("the column names of y must be unique.")
        if (present := int(indicator[weights > 0].any(0).sum())) < 2:
            raise ValueError(f"the rows of y have {present} of its labels; at least two are needed.")
        self._dtype = indicator.dtype
        labels = [[names[k] for k in np.flatnonzero(row)] for row in indicator]
        self._finetune(self._training_table(X, None, texts, labels), "multilabel", weights)
        return self

    def _label_names(self) -> list[str]:
        """The classes as labels of the model."""
        return [as_label(name).strip() for name in self.classes_.tolist()]

    def _label_columns(self) -> list[int]:
        """The column in `classes_` of each label of the model."""
        names = self._label_names()
        return [names.index(label) for label in self.model_.target.labels]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities [rows, classes], columns as in `classes_`; of several labels each row's own."""
        probabilities = np.asarray(self.model_.predict_proba(self._rows(X)))
        found = np.zeros((len(probabilities), len(self.classes_)))  # 0 for a class of which no row had a text
        found[:, self._label_columns()] = probabilities
        return found

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each row; of several labels an indicator matrix [rows, labels]."""
        probabilities = self.predict_proba(X)
        if not self.multilabel_:
            return np.asarray(self.classes_)[probabilities.argmax(1)]
        thresholds = np.full(len(self.classes_), np.inf)
        thresholds[self._label_columns()] = self.model_.target.thresholds or DEFAULT_THRESHOLD
        return (probabilities >= thresholds).astype(self._dtype)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.takes_indicator
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class GPTPairClassifier(GPTClassifier):
    """Classify pairs of texts. X has two columns: a DataFrame, an array [rows, 2], or a list of pairs.

    Args:
        pretrained: As in `GPTClassifier`.
        symmetric: Whether the order of the two texts does not matter (paraphrase): the model then reads both orders
            (kind `similarity`). Otherwise the first is a premise and the second a hypothesis (kind `entailment`).

    All others as in `GPTClassifier`.
    """

    takes_indicator = False

    symmetric: bool = False

    def _kind(self) -> str:
        return "similarity" if self.symmetric else "entailment"

    def _roles(self) -> tuple[str, ...]:
        return ("text_a", "text_b") if self.symmetric else ("premise", "hypothesis")


def check_distinct(classes: Sequence[Any]) -> None:
    """ValueError for classes that a table, from which a saved model may read labels, cannot tell apart."""
    seen: dict[str, Any] = {}
    for value in classes:
        try:
            label = as_label(value)
        except UserError as error:
            raise ValueError(f"y has the label {value!r}: {error.problem}") from None
        if label in seen:
            raise ValueError(
                f"y has the labels {seen[label]!r} and {value!r}, which are the same in a table: rename one."
            )
        seen[label] = value
