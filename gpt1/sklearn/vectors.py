"""A transformer from texts to vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from gpt1.inference.predictor import find_verified_folder
from gpt1.sklearn.base import ModelHolder
from gpt1.sklearn.inputs import text_rows


@dataclass(eq=False, repr=False, kw_only=True)
class GPTFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ModelHolder):
    """Turn texts into vectors, for any other estimator: the mean state of a pre-trained model over the tokens.

    Of a fine-tuned model, it is the state that its output layer reads. `fit` trains nothing.

    Args:
        pretrained: A run or model folder, or another name that `gpt1.load` takes.
        device: `auto`, `cpu`, `cuda`, …
        precision: `auto`, `fp32` or `bf16`.
    """

    pretrained: Any = field(default="starter", kw_only=False)
    device: str = "auto"
    precision: str = "auto"

    def fit(self, X: Any, y: Any = None) -> Any:
        """Load the model; its files must match their SHA-256 hashes."""
        text_rows(X, 1)
        self._keep_model(find_verified_folder(self.pretrained))
        self._n_features_out = self.model_.gpt.config.n_embd
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Vectors [texts, n_embd]; zeros for texts without a word, as in TF-IDF."""
        return np.nan_to_num(np.asarray(self.model_.features(text_rows(X, 1)[:, 0].tolist())), copy=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        return tags
