"""How many labels pre-training saves, from two curves of score against labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ScoreCurve = Mapping[int, float]
"""Labels → score (a median over seeds)."""


def labels_to_reach(score: float, curve: ScoreCurve) -> float | None:
    """The number of labels at which `curve` first reaches `score`, interpolated linearly over log(labels).

    The first crossing favors the curve: a score that is high by chance makes pre-training look worth less, not more.

    Returns:
        At least the smallest size (nothing was measured below it); None if the curve never reaches the score.
    """
    sizes = sorted(curve)
    if curve[sizes[0]] >= score:
        return float(sizes[0])
    for few, many in pairwise(sizes):
        if curve[many] >= score:
            share = (score - curve[few]) / (curve[many] - curve[few])
            return math.exp(math.log(few) + share * (math.log(many) - math.log(few)))
    return None


@dataclass(frozen=True)
class LabelSaving:
    """The labels that pre-training saves, at one number of labels.

    Args:
        labels: number of labels.
        score: of the pre-trained model.
        labels_needed: labels that training from scratch needs for this score; None for more than `max_labels`.
        max_labels: the most labels that training from scratch was measured with.
        gap: score of the pre-trained model minus that of training from scratch.
    """

    labels: int
    score: float
    labels_needed: float | None
    max_labels: int
    gap: float

    @property
    def labels_saved(self) -> int | None:
        """Labels saved, rounded to two digits; None if training from scratch never reaches the score."""
        return None if self.labels_needed is None else round_to_two_digits(self.labels_needed - self.labels)


def compare_curves(pretrained: ScoreCurve, scratch: ScoreCurve) -> list[LabelSaving]:
    """The saving at each size that both curves have."""
    most = max(scratch)
    return [
        LabelSaving(n, pretrained[n], labels_to_reach(pretrained[n], scratch), most, pretrained[n] - scratch[n])
        for n in sorted(set(pretrained) & set(scratch))
    ]


def round_to_two_digits(value: float) -> int:
    if abs(value) < 1:
        return 0
    digits = math.floor(math.log10(abs(value))) - 1
    return int(round(value, -digits)) if digits > 0 else round(value)


def curve_verdict(
    pretrained: ScoreCurve, scratch: ScoreCurve | None, tfidf: ScoreCurve | None, metric: str
) -> list[str]:
    """The verdict in sentences: what pre-training is worth, then the pre-trained model against TF-IDF."""
    verdict = []
    if scratch and set(pretrained) & set(scratch):
        verdict.append(compare_with_scratch(pretrained, scratch, metric))
    if tfidf and set(pretrained) & set(tfidf):
        verdict.append(compare_with_tfidf(pretrained, tfidf))
    return verdict


def compare_with_scratch(pretrained: ScoreCurve, scratch: ScoreCurve, metric: str) -> str:
    """One sentence about the size with the widest gap; the table has every size."""
    points = compare_curves(pretrained, scratch)
    ahead = [point for point in points if point.gap > 0]
    below = [point.labels for point in points if point.gap <= 0]
    if not ahead:
        return "Pre-training brings no gain here: training from scratch is as good at every number of labels."
    saving = [point for point in ahead if point.labels_saved is None or point.labels_saved > 0]
    if not saving:  # training from scratch was as good with fewer labels, then worse with more: noise
        sizes = join_numbers([point.labels for point in ahead])
        return (
            f"Pre-training saves no labels here: it scores higher at {sizes} labels, but training from scratch reaches "
            "the same score with as few."
        )
    widest = max(saving, key=lambda point: point.gap)
    here = f"with {widest.labels:,} labels the pre-trained model has {metric} {widest.score:.3f}"
    if widest.labels_needed is None:
        sentence = (
            f"Pre-training is worth more than {widest.max_labels - widest.labels:,} labels here: {here}, which "
            f"training from scratch does not reach with {widest.max_labels:,}."
        )
        if widest.max_labels == widest.labels:
            sentence = (
                f"Pre-training is worth more labels than were tried: {here}, training from scratch "
                f"{widest.score - widest.gap:.3f}."
            )
    else:
        sentence = (
            f"Pre-training is worth about {widest.labels_saved:,} labels here: {here}; training from scratch needs "
            f"about {round_to_two_digits(widest.labels_needed):,} labels for this score."
        )
    if below:
        sentence += f" It does not help at {join_numbers(below)} labels."
    return sentence


def compare_with_tfidf(pretrained: ScoreCurve, tfidf: ScoreCurve) -> str:
    sizes = sorted(set(pretrained) & set(tfidf))
    better = [n for n in sizes if tfidf[n] > pretrained[n]]
    name = "TF-IDF with a linear model"
    if not better:
        ahead = "ahead of" if all(tfidf[n] < pretrained[n] for n in sizes) else "as good as"
        return f"The pre-trained model is {ahead} {name} at every number of labels."
    if len(better) == len(sizes):
        return f"{name} is better than the pre-trained model at every number of labels."
    return f"{name} is better than the pre-trained model at {join_numbers(better)} labels."


def join_numbers(numbers: Sequence[int]) -> str:
    *first, last = [f"{n:,}" for n in numbers]
    return f"{', '.join(first)} and {last}" if first else last
