"""scikit-learn estimators: fine-tune a GPT in `fit`, and use it in pipelines, cross-validation and grid searches.

An estimator holds its fine-tuned model by value, so that it can be pickled, copied and sent to other processes.
"""

from __future__ import annotations

from gpt1.sklearn.classifiers import GPTClassifier, GPTPairClassifier
from gpt1.sklearn.multiple_choice import GPTChoice
from gpt1.sklearn.regressors import GPTPairRegressor, GPTRegressor
from gpt1.sklearn.vectors import GPTFeatures

__all__ = ["GPTChoice", "GPTClassifier", "GPTFeatures", "GPTPairClassifier", "GPTPairRegressor", "GPTRegressor"]
