"""A zero-shot task: rows, and how a pre-trained model answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpt1.inference.predictor import LanguageModel
from gpt1.progress import Progress
from gpt1.tasks import metrics


@dataclass(frozen=True)
class ZeroShotTask:
    """Rows and a heuristic.

    Args:
        name: of the rows.
        how: the heuristic in a sentence.
        metric: main metric.
        gold: correct answers.
        predict: returns the answer of a model to each row.
        guess: the metric of a random guess.
        labels: of a classification; empty for a choice.
    """

    name: str
    how: str
    metric: str
    gold: list[Any]
    predict: Callable[[LanguageModel, Progress], list[Any]]
    guess: float
    labels: tuple[str, ...] = ()

    def evaluate(self, model: LanguageModel, progress: Progress | None = None) -> dict[str, Any]:
        """The result of `zeroshot`."""
        answers = self.predict(model, progress or Progress())
        result = {"task": self.name, "metric": self.metric, "guess": self.guess, "how": self.how}
        if self.labels:
            scores = metrics.class_scores(self.gold, answers, self.labels)
            result["f1_of"] = scores.pop("f1_of")
        else:
            scores = metrics.choice_scores(self.gold, answers)
        intervals = {name: list(metrics.confidence_interval(name, self.gold, answers, self.labels)) for name in scores}
        return {**result, "metrics": scores, "interval": intervals, "rows": len(self.gold)}
