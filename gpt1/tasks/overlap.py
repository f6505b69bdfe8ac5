"""Overlap baseline: the share of common words of two texts, without knowing any word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpt1.tasks.kinds import Example, Kind
from gpt1.tasks.targets import OrdinalBins, StandardizedNumber, Target
from gpt1.tasks.tfidf import FittedLinearModel, TfidfFeatures, build_problem, label_scorer

OVERLAP_WORD = re.compile(r"\w+")


def has_pairs(kind: Kind) -> bool:
    """Whether examples have two texts: a pair, or a context (with its question) and each answer."""
    return len(kind.columns) > 1


def fit_overlap(
    kind: Kind, target: Target, training: Sequence[Example], seed: int = 0, metric: str = ""
) -> FittedLinearModel:
    """Train a linear model on the overlap of the two texts of each example.

    Labels and answers: logistic regression on the shared words, as a share of the first text, of the second, and of
    both. Scores: the cosine of the TF-IDF vectors (a linear model of one feature does not change the correlation).
    `metric`: see `label_scorer`.
    """
    is_score = isinstance(target, OrdinalBins | StandardizedNumber)
    scorer = label_scorer(target, metric)
    return build_problem(target, training).fit(OverlapFeatures(kind, is_score), training, seed, scorer=scorer)


class OverlapFeatures(TfidfFeatures):
    """Three shares of common words, or the cosine, of each pair of texts."""

    def __init__(self, kind: Kind, cosine: bool) -> None:
        super().__init__(kind, {"token_pattern": r"(?u)\w+"})
        self.cosine = cosine

    def transform(self, examples: Sequence[Example]) -> Any:  # → [examples (all their answers), features]
        pairs = [pair for example in examples for pair in text_pairs(self.kind, example)]
        if self.cosine:
            a, b = (self.vectors.transform(texts) for texts in zip(*pairs, strict=True))
            return np.asarray(a.multiply(b).sum(axis=1))
        return np.array([shared_words(*pair) for pair in pairs])


def text_pairs(kind: Kind, example: Example) -> list[tuple[str, str]]:
    if kind.multiple_choice:
        return [(" ".join(example.fields), answer) for answer in example.answers]
    return [(example.fields[0], example.fields[1])]


def shared_words(first: str, second: str) -> tuple[float, float, float]:
    """The different words of both texts, as a share of those of the first, of the second, and of either."""
    a, b = (set(OVERLAP_WORD.findall(text.lower())) for text in (first, second))
    both = len(a & b)
    return both / max(1, len(a)), both / max(1, len(b)), both / max(1, len(a | b))
