"""How many labels pre-training is worth: the arithmetic between two curves of score against labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ScoreCurve = Mapping[int, float]
"""Labels → score (a median over seeds)."""


def labels_to_reach(score: float, curve: ScoreCurve) -> float | None:
    """The labels at which `curve` first reaches `score`, between two sizes by a straight line over log(labels).

    The first crossing favours the curve: noise that lifts it once makes pre-training look worth less, not more.
    Below the smallest size nothing was measured: the smallest size is the answer. None where it never gets there.
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
    """At `labels`, the better curve has `score`; the other needs `labels_needed` labels for it (None: more than `max_labels`)."""

    labels: int
    score: float
    labels_needed: float | None
    max_labels: int
    gap: float

    @property
    def labels_saved(self) -> int | None:
        """Labels that need not be made, in two digits; None where the other curve never gets there."""
        return None if self.labels_needed is None else round_to_two_digits(self.labels_needed - self.labels)


def compare_curves(pretrained: ScoreCurve, scratch: ScoreCurve) -> list[LabelSaving]:
    """At each size that both curves have."""
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
    """What the curves say, first what pre-training is worth, then how the best pre-trained score stands to TF-IDF's."""
    said = []
    if scratch and set(pretrained) & set(scratch):
        said.append(compare_with_scratch(pretrained, scratch, metric))
    if tfidf and set(pretrained) & set(tfidf):
        said.append(compare_with_tfidf(pretrained, tfidf))
    return said


def compare_with_scratch(pretrained: ScoreCurve, scratch: ScoreCurve, metric: str) -> str:
    """One sentence, told where the gap is widest; every size stands in the table."""
    points = compare_curves(pretrained, scratch)
    ahead = [point for point in points if point.gap > 0]
    below = [point.labels for point in points if point.gap <= 0]
    if not ahead:
        return "Pre-training is worth nothing here: from scratch is as good at every number of labels."
    saving = [point for point in ahead if point.labels_saved is None or point.labels_saved > 0]
    if not saving:  # from scratch was as good with fewer labels, and lost it again: noise
        return (
            f"Pre-training saves no labels here: it is ahead at {join_numbers([point.labels for point in ahead])} labels, "
            "but training from scratch was as good with no more."
        )
    widest = max(saving, key=lambda point: point.gap)
    here = f"with {widest.labels:,} labels the pre-trained model has {metric} {widest.score:.3f}"
    if widest.labels_needed is None:
        sentence = f"Pre-training is worth more than {widest.max_labels - widest.labels:,} labels here: {here}, which "
        sentence += f"training from scratch does not reach with {widest.max_labels:,}."
        if widest.max_labels == widest.labels:
            sentence = f"Pre-training is worth more labels than were tried: {here}, from scratch "
            sentence += f"{widest.score - widest.gap:.3f}."
    else:
        sentence = (
            f"Pre-training is worth about {widest.labels_saved:,} labels here: {here}, for which training from scratch "
        )
        sentence += f"needs about {round_to_two_digits(widest.labels_needed):,}."
    if below:
        sentence += f" It does not help at {join_numbers(below)} labels."
    return sentence


def compare_with_tfidf(pretrained: ScoreCurve, tfidf: ScoreCurve) -> str:
    sizes = sorted(set(pretrained) & set(tfidf))
    wins = [n for n in sizes if tfidf[n] > pretrained[n]]
    name = "TF-IDF with a linear model"
    if not wins:
        ahead = "ahead of" if all(tfidf[n] < pretrained[n] for n in sizes) else "as good as"
        return f"The pre-trained model is {ahead} {name} at every number of labels."
    if len(wins) == len(sizes):
        return f"{name} is better than the pre-trained model at every number of labels."
    return f"{name} is better than the pre-trained model at {join_numbers(wins)} labels."


def join_numbers(numbers: Sequence[int]) -> str:
    said = [f"{n:,}" for n in numbers]
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
