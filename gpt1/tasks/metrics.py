"""Metrics of predictions, their confidence intervals, and calibration of probabilities.

Input are NumPy arrays or lists; output are numbers and dicts, ready for JSON. Scores are from 0 to 1 (0.871, not 87.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt1.errors import UserError

BOOTSTRAP_SAMPLES = 1000
"""Bootstrap samples of a confidence interval; its ends are then accurate to about a tenth of its width."""
MAX_BOOTSTRAP_ELEMENTS = 2_000_000
"""Most numbers that the bootstrap keeps in memory at once (16 MB)."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def class_scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """`accuracy`, `f1`, `f1_of` and `matthews` of predicted classes.

    F1 is that of label 1 if the labels are 0 and 1, else the mean over the labels that occur (macro); `f1_of` names
    which. F1 and Matthews correlation are 0 where they are undefined (only one label predicted).

    Args:
        gold: Right label of each row.
        predicted: Predicted label of each row.
        labels: All labels of the task.

    Raises:
        UserError: If there are no rows.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    require_rows(gold)
    gold, predicted = list(map(str, gold)), list(map(str, predicted))
    binary = is_binary(labels)
    f1 = f1_score(gold, predicted, **({"labels": ["1"]} if binary else {}), average="macro", zero_division=0)
    several = len({*gold, *predicted}) > 1  # scikit-learn warns if there is one
    return {
        "accuracy": accuracy(gold, predicted),
        "f1": float(f1),
        "f1_of": "label 1" if binary else "macro",
        "matthews": float(matthews_corrcoef(gold, predicted)) if several else 0.0,
    }


def choice_scores(gold: Sequence[int], predicted: Sequence[int]) -> dict[str, float]:
    """`accuracy` of predicted answers (indices from 0)."""
    require_rows(gold)
    return {"accuracy": accuracy(gold, predicted)}


def number_scores(gold: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """`pearson` and `spearman` correlation of scores; 0 if either side is constant."""
    from scipy.stats import rankdata

    x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    require_rows(x)
    return {
        "pearson": float(correlation(x[None], y[None])[0]),
        "spearman": float(correlation(rankdata(x)[None], rankdata(y)[None])[0]),
    }


def accuracy(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    return float(sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold))


def is_binary(labels: Sequence[str]) -> bool:
    return sorted(map(str, labels)) == ["0", "1"]


def require_rows(gold: Sequence[Any] | Floats) -> None:
    if not len(gold):
        raise UserError("there are no labelled rows to evaluate.", "Use a file with at least one labelled row.")


def confidence_interval(
    metric: str, gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[str] = ()
) -> tuple[float, float]:
    """95% confidence interval: Wilson's for accuracy, else percentiles of a bootstrap over rows (fixed seed).

    With few rows the bootstrap interval is too narrow: resampling rows without mistakes never produces one.

    Args:
        metric: `accuracy`, `f1`, `matthews`, `pearson` or `spearman`.
        gold: Right label or score of each row.
        predicted: Predicted label or score of each row.
        labels: All labels of the task, for `f1`.

    Returns:
        (low, high).
    """
    require_rows(gold)
    if metric == "accuracy":
        from scipy.stats import binomtest

        right = sum(g == p for g, p in zip(gold, predicted, strict=True))
        wilson = binomtest(right, len(gold)).proportion_ci(0.95, method="wilson")
        return float(wilson.low), float(wilson.high)
    if metric in ("pearson", "spearman"):
        resampled = bootstrap_correlations(np.asarray(gold, float), np.asarray(predicted, float), metric == "spearman")
    else:
        resampled = bootstrap_classification(metric, gold, predicted, is_binary(labels))
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_classification(metric: str, gold: Sequence[Any], predicted: Sequence[Any], binary: bool) -> Floats:
    """`metric` of each bootstrap sample. Sampling the confusion table has the same distribution as sampling rows."""
    cells: dict[tuple[str, str], int] = {}
    for cell in zip(map(str, gold), map(str, predicted), strict=True):
        cells[cell] = cells.get(cell, 0) + 1
    counts = np.array(list(cells.values()), dtype=np.float64)
    names = ["1"] if binary and metric == "f1" else sorted({name for cell in cells for name in cell})
    is_gold = np.array([[g == name for name in names] for g, _ in cells], dtype=np.float64)  # [cells, labels]
    is_predicted = np.array([[p == name for name in names] for _, p in cells], dtype=np.float64)
    random = np.random.default_rng(0)
    sampled = random.multinomial(len(gold), counts / counts.sum(), BOOTSTRAP_SAMPLES)  # [samples, cells]
    hits, golds, predictions = sampled @ (is_gold * is_predicted), sampled @ is_gold, sampled @ is_predicted
    if metric == "f1":
        f1 = divide(2 * hits, golds + predictions)  # [samples, labels]
        return divide(f1.sum(1), (golds + predictions > 0).sum(1))
    n = float(len(gold))  # Matthews correlation for any number of labels (Gorodkin 2004)
    covariance = hits.sum(1) * n - (golds * predictions).sum(1)
    return divide(covariance, np.sqrt((n**2 - (golds**2).sum(1)) * (n**2 - (predictions**2).sum(1))))


def bootstrap_correlations(x: Floats, y: Floats, ranks: bool) -> Floats:
    from scipy.stats import rankdata

    random = np.random.default_rng(0)
    found: list[Floats] = []
    block = max(1, min(BOOTSTRAP_SAMPLES, MAX_BOOTSTRAP_ELEMENTS // len(x)))
    for first in range(0, BOOTSTRAP_SAMPLES, block):
        rows = random.integers(len(x), size=(min(block, BOOTSTRAP_SAMPLES - first), len(x)))  # [samples, n]
        pair = (rankdata(x[rows], axis=1), rankdata(y[rows], axis=1)) if ranks else (x[rows], y[rows])
        found.append(correlation(*pair))
    return np.concatenate(found)


def correlation(x: Floats, y: Floats) -> Floats:  # [samples, n], [samples, n] → [samples]
    """Pearson correlation of each pair of rows, 0 if either is constant."""
    varies = (np.ptp(x, axis=1) > 0) & (np.ptp(y, axis=1) > 0)
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    # Scale to a maximum of 1 first: squares of tiny or huge numbers would underflow or overflow.
    x, y = divide(x, np.abs(x).max(1, keepdims=True)), divide(y, np.abs(y).max(1, keepdims=True))
    found = divide((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1)))
    return np.where(varies, np.clip(found, -1, 1), 0.0)


def divide(a: Floats, b: Floats | NDArray[Any]) -> Floats:
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def fit_temperature(logits: ArrayLike, gold: ArrayLike) -> float:
    """Fit the temperature T of softmax(logits / T) (Guo et al. 2017), with a standard normal prior on log T.

    The prior keeps T finite on few rows: if all were right or wrong, the most likely T would be 0 or infinity. Its
    weight decreases with the number of rows.

    Args:
        logits: [n, k]; -inf for an answer that a row does not have.
        gold: [n], right column of each row.
    """
    from scipy.optimize import minimize_scalar

    z, right = np.asarray(logits, dtype=np.float64), np.asarray(gold, dtype=np.int64)

    def loss(log_t: float) -> float:
        return len(z) * negative_log_likelihood(z / np.exp(log_t), right) + log_t**2 / 2

    steps = np.linspace(-4, 4, 41)  # several local minima are possible: search next to the best point of a grid
    lowest = steps[np.argmin([loss(log_t) for log_t in steps])]
    return float(np.exp(minimize_scalar(loss, bounds=(lowest - 0.2, lowest + 0.2), method="bounded").x))


def negative_log_likelihood(logits: Floats, gold: Integers) -> float:  # [n, k], [n]
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(gold)), gold]).mean())


def calibration(probabilities: ArrayLike, gold: ArrayLike, bins: int = 15) -> dict[str, Any]:
    """Expected calibration error and reliability diagram (Guo et al. 2017).

    Args:
        probabilities: [n, k].
        gold: [n], right column of each row.
        bins: Bins (low, high] of equal width; a row is in the bin of its highest probability.

    Returns:
        `ece`: mean of |confidence - accuracy| over the bins, weighted by count. `bins`: low, high, confidence (mean
        probability), accuracy and count of the bins with rows.
    """
    p, right = np.asarray(probabilities, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    confidence = np.clip(p.max(1), 0, 1)
    hit = p.argmax(1) == right
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found: list[dict[str, float]] = []
    for b in np.unique(index):
        rows = index == b
        found.append(
            {
                "low": float(edges[b]),
                "high": float(edges[b + 1]),
                "confidence": float(confidence[rows].mean()),
                "accuracy": float(hit[rows].mean()),
                "count": int(rows.sum()),
            }
        )
    ece = sum(abs(bin["confidence"] - bin["accuracy"]) * bin["count"] for bin in found) / max(len(p), 1)
    return {"ece": float(ece), "bins": found}


def glue_score(scores: Mapping[str, Sequence[float]]) -> float:
    """The GLUE score: mean over tasks; a task with several scores (MRPC: F1 and accuracy) counts with their mean."""
    return float(np.mean([np.mean(of_task) for of_task in scores.values()]))
