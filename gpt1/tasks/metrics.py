"""Metrics of predictions, their confidence intervals, and calibration of probabilities.

Input are NumPy arrays or lists; output are numbers and dicts, ready for JSON. Scores are from 0 to 1 (0.871, not 87.1).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt1.errors import UserError
from gpt1.intervals import wilson_interval
from gpt1.tasks.labels import as_number
from gpt1.tasks.multilabel import MultiLabel, bootstrap_multilabel, multilabel_scores
from gpt1.tasks.targets import NO_PREDICTION, NUMBER_METRICS, Answers, Classes, Target

BOOTSTRAP_SAMPLES = 1000
"""Bootstrap samples of a confidence interval; its ends are then accurate to about a tenth of its width."""
MAX_BOOTSTRAP_ELEMENTS = 2_000_000
"""Maximum number of values that the bootstrap keeps in memory at once (16 MB)."""
LOWER_IS_BETTER = ("rmse", "mae", "loss")
CALIBRATION_FOLDS = 5
FEW_CALIBRATION_ROWS = 200
"""With fewer rows the expected calibration error is mostly chance: it gets an interval."""
MAX_LOG_TEMPERATURE = 3.0
"""Temperatures are searched from e⁻³ to e³ (1/20 to 20). One at the end of this range is not used."""
LOG_TEMPERATURE_PRIOR = 0.5, 0.5
"""Mean and standard deviation of the normal prior on log T: the best temperatures of models that were fine-tuned on 200
to 1,000 rows were 1.6 to 3.5 (docs/lab-log.md, 2026-11-30)."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def class_scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """`accuracy`, `f1`, `f1_of` and `matthews` of predicted classes.

    F1 is that of label 1 if the labels are 0 and 1, else the mean over the labels that occur (macro); `f1_of` names
    which. F1 and Matthews correlation are 0 where they are undefined (only one label predicted).

    Args:
        gold: Right label of each row.
        predicted: Predicted label of each row, or NO_PREDICTION.
        labels: All labels of the task.

    Raises:
        UserError: If there are no rows.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    require_rows(gold)
    gold, predicted = list(map(str, gold)), list(map(str, predicted))
    binary = is_binary(labels)
    names = ["1"] if binary else sorted({*gold, *predicted} - {NO_PREDICTION})
    several = len({*gold, *predicted}) > 1  # scikit-learn warns if there is one
    matthews = 0.0
    with warnings.catch_warnings():  # of scikit-learn, if there are almost as many labels as rows
        warnings.simplefilter("ignore", UserWarning)
        f1 = f1_score(gold, predicted, labels=names, average="macro", zero_division=0)
        if several:
            matthews = float(matthews_corrcoef(gold, predicted))
    return {
        "accuracy": accuracy(gold, predicted),
        "f1": float(f1),
        "f1_of": "label 1" if binary else "macro",
        "matthews": matthews,
    }


def choice_scores(gold: Sequence[int], predicted: Sequence[int]) -> dict[str, float]:
    """`accuracy` of predicted answers (indices from 0)."""
    require_rows(gold)
    return {"accuracy": accuracy(gold, predicted)}


def number_scores(gold: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """`pearson` and `spearman` correlation of scores, 0 if either side is constant; `rmse` and `mae`, their errors."""
    from scipy.stats import rankdata

    x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    require_rows(x)
    return {
        "pearson": float(correlation(x[None], y[None])[0]),
        "spearman": float(correlation(rankdata(x)[None], rankdata(y)[None])[0]),
        "rmse": float(mean_error("rmse", x[None], y[None])[0]),
        "mae": float(mean_error("mae", x[None], y[None])[0]),
    }


def mean_error(metric: str, x: Floats, y: Floats) -> Floats:  # [samples, n], [samples, n] → [samples]
    """Root mean squared error (`rmse`) or mean absolute error (`mae`) of each pair of rows."""
    error = np.abs(x - y)
    largest = error.max(1)  # scaled to 1: the squares of huge numbers would overflow
    scaled = divide(error, largest[:, None])
    return largest * (np.sqrt((scaled**2).mean(1)) if metric == "rmse" else scaled.mean(1))


def gold_answers(target: Target, labels: Sequence[Any]) -> list[Any]:
    """Labels as read from a table, in the form of predictions: label texts or lists, answer numbers, or scores."""
    if isinstance(target, MultiLabel):
        return [target.sort_labels(label) for label in labels]
    read = target.canonical_label if isinstance(target, Classes) else int if isinstance(target, Answers) else as_number
    return [read(label) for label in labels]


def target_scores(target: Target, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, Any]:
    """The metrics of a target (and `f1_of` for classes); `gold` as from `gold_answers`."""
    if isinstance(target, Classes):
        return class_scores(gold, predicted, target.labels)
    if isinstance(target, MultiLabel):
        require_rows(gold)
        return dict(multilabel_scores(gold, predicted, target.labels))
    if isinstance(target, Answers):
        return dict(choice_scores(gold, predicted))
    return dict(number_scores(gold, predicted))


def accuracy(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    return float(sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold))


def is_binary(labels: Sequence[str]) -> bool:
    return sorted(map(str, labels)) == ["0", "1"]


def require_rows(gold: Sequence[Any] | Floats) -> None:
    if not len(gold):
        raise UserError("there are no labeled rows to evaluate.", "Use a file with at least one labeled row.")


def confidence_interval(
    metric: str, gold: Sequence[Any], predicted: Sequence[Any], labels: Sequence[str] = ()
) -> tuple[float, float]:
    """95% confidence interval: Wilson's for accuracy, else percentiles of a bootstrap over rows (fixed seed).

    With few rows the bootstrap interval is too narrow: resampling rows without mistakes never produces one.

    Args:
        metric: `accuracy`, `f1`, `f1_micro`, `f1_macro`, `matthews`, `pearson`, `spearman`, `rmse` or `mae`.
        gold: Right label, list of labels, or score of each row.
        predicted: Predicted label, list of labels, or score of each row.
        labels: All labels of the task, for F1.

    Returns:
        (low, high).
    """
    require_rows(gold)
    if metric == "accuracy":
        return wilson_interval(float(np.mean([g == p for g, p in zip(gold, predicted, strict=True)])), len(gold))
    if metric in NUMBER_METRICS:
        resampled = bootstrap_numbers(metric, np.asarray(gold, float), np.asarray(predicted, float))
    elif isinstance(gold[0], list):
        resampled = bootstrap_multilabel(metric, gold, predicted, labels, BOOTSTRAP_SAMPLES)
    else:
        resampled = bootstrap_classification(metric, gold, predicted, is_binary(labels))
    low, high = np.quantile(resampled, (0.025, 0.975))
    return float(low), float(high)


def mean_accuracy(right: Sequence[int], rows: Sequence[int]) -> tuple[float, tuple[float, float]]:
    """The mean of the accuracies right / rows of several groups, and its 95% confidence interval.

    The squared distances of the mean's ends are the mean squared distances of the groups' Wilson intervals, divided by
    the number of groups (MOVER; Zou and Donner 2008). For one group it is Wilson's interval.
    """
    accuracies = np.asarray(right, dtype=np.float64) / np.asarray(rows)
    low, high = np.transpose([wilson_interval(r / n, n) for r, n in zip(right, rows, strict=True)])
    mean, groups = float(accuracies.mean()), len(accuracies)
    below, above = (float(np.sqrt(((accuracies - end) ** 2).sum())) / groups for end in (low, high))
    return mean, (mean - below, mean + above)


def bootstrap_classification(metric: str, gold: Sequence[Any], predicted: Sequence[Any], binary: bool) -> Floats:
    """`metric` of each bootstrap sample. Sampling the confusion table has the same distribution as sampling rows."""
    cells: dict[tuple[str, str], int] = {}
    for cell in zip(map(str, gold), map(str, predicted), strict=True):
        cells[cell] = cells.get(cell, 0) + 1
    counts = np.array(list(cells.values()), dtype=np.float64)
    names = sorted({name for cell in cells for name in cell})
    if metric == "f1":
        names = ["1"] if binary else [name for name in names if name != NO_PREDICTION]
    is_gold = one_hot([g for g, _ in cells], names)  # [cells, labels]
    is_predicted = one_hot([p for _, p in cells], names)
    random = np.random.default_rng(0)
    sampled = random.multinomial(len(gold), counts / counts.sum(), BOOTSTRAP_SAMPLES)  # [samples, cells]
    hits, golds, predictions = sampled @ is_gold.multiply(is_predicted), sampled @ is_gold, sampled @ is_predicted
    if metric == "f1":
        f1 = divide(2 * hits, golds + predictions)  # [samples, labels]
        return divide(f1.sum(1), (golds + predictions > 0).sum(1))
    n = float(len(gold))  # Matthews correlation for any number of labels (Gorodkin 2004)
    covariance = hits.sum(1) * n - (golds * predictions).sum(1)
    return divide(covariance, np.sqrt((n**2 - (golds**2).sum(1)) * (n**2 - (predictions**2).sum(1))))


def one_hot(values: Sequence[str], names: Sequence[str]) -> Any:  # → sparse [values, names]
    """1 where a value is a name. Sparse, because there can be thousands of labels."""
    from scipy.sparse import csr_array

    index = {name: i for i, name in enumerate(names)}
    places = [(i, index[value]) for i, value in enumerate(values) if value in index]
    rows, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(places)), (rows, columns)), shape=(len(values), len(names)))


def bootstrap_numbers(metric: str, x: Floats, y: Floats) -> Floats:
    """`metric` of each bootstrap sample of the rows."""
    from scipy.stats import rankdata

    random = np.random.default_rng(0)
    found: list[Floats] = []
    block = max(1, min(BOOTSTRAP_SAMPLES, MAX_BOOTSTRAP_ELEMENTS // len(x)))
    for first in range(0, BOOTSTRAP_SAMPLES, block):
        rows = random.integers(len(x), size=(min(block, BOOTSTRAP_SAMPLES - first), len(x)))  # [samples, n]
        if metric in LOWER_IS_BETTER:
            found.append(mean_error(metric, x[rows], y[rows]))
            continue
        ranks = metric == "spearman"
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
    """Fit the temperature T of softmax(logits / T) (Guo et al. 2017), with a normal prior on log T.

    The prior (see LOG_TEMPERATURE_PRIOR) counts once, so its weight decreases with the number of rows: it decides on a
    handful of rows, where T would otherwise be 0 or infinite if all were right or wrong, and is lost among hundreds.

    Args:
        logits: [n, k]; -inf for an answer that a row does not have.
        gold: [n], right column of each row.

    Returns:
        T, between e^-MAX_LOG_TEMPERATURE and e^MAX_LOG_TEMPERATURE.
    """
    from scipy.optimize import minimize_scalar

    z, right = np.asarray(logits, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    mean, deviation = LOG_TEMPERATURE_PRIOR

    def loss(log_t: float) -> float:
        return len(z) * negative_log_likelihood(z / np.exp(log_t), right) + ((log_t - mean) / deviation) ** 2 / 2

    # several local minima are possible: search next to the best point of a grid
    steps = np.linspace(-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE, 31)
    lowest = steps[np.argmin([loss(log_t) for log_t in steps])]
    bounds = max(-MAX_LOG_TEMPERATURE, lowest - 0.2), min(MAX_LOG_TEMPERATURE, lowest + 0.2)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def cross_fit_temperature(logits: ArrayLike, gold: ArrayLike) -> dict[str, Any]:
    """Whether a temperature helps on rows that it was not fitted on.

    The rows are split into CALIBRATION_FOLDS folds (fixed seed); each fold is measured with the temperature of the
    other rows. A temperature helps if it lowers the mean loss. The expected calibration error does not decide: on a few
    dozen rows its error is as large as what it measures.

    Args:
        logits: [n, k]; -inf for an answer that a row does not have.
        gold: [n], right column of each row.

    Returns:
        `fitted`: the temperature of all rows. `temperature`: the same if it helps, else 1. `reason`: why it is 1, else
        empty. `loss_before`, `ece_before`, `bins_before`, `loss_after`, `ece_after`, `bins`: mean loss and calibration
        (see `calibration`) at temperature 1, and with the temperatures of the folds if it helps. `ece_interval` of
        `ece_after`, if there are few rows.
    """
    z, right = np.asarray(logits, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    fitted, n = fit_temperature(z, right), len(z)
    scaled = z.copy()
    if n > 1:
        order = np.random.default_rng(0).permutation(n)
        for fold in np.array_split(order, min(CALIBRATION_FOLDS, n)):
            others = np.setdiff1d(order, fold)
            scaled[fold] = z[fold] / fit_temperature(z[others], right[others])
    reason = ""
    if not (z.argmax(1) == right).any():
        reason = "no prediction is correct"
    elif abs(np.log(fitted)) > MAX_LOG_TEMPERATURE - 0.01:
        reason = f"the temperature is at the limit of its range ({fitted:.3g})"
    elif negative_log_likelihood(scaled, right) >= negative_log_likelihood(z, right):
        reason = "no temperature lowers the loss in cross-validation"
    used = z if reason else scaled
    before, after = (calibration(softmax(x), right) for x in (z, used))
    return {
        "temperature": 1.0 if reason else fitted,
        "fitted": fitted,
        "reason": reason,
        "loss_before": negative_log_likelihood(z, right),
        "loss_after": negative_log_likelihood(used, right),
        "ece_before": before["ece"],
        "ece_after": after["ece"],
        **calibration_interval(softmax(used), right),
        "bins_before": before["bins"],
        "bins": after["bins"],
    }


def softmax(logits: Floats) -> Floats:  # [n, k]
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def negative_log_likelihood(logits: Floats, gold: Integers) -> float:  # [n, k], [n]
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(gold)), gold]).mean())


CALIBRATION_BINS = 15


def calibration(probabilities: ArrayLike, gold: ArrayLike) -> dict[str, Any]:
    """Expected calibration error and reliability diagram (Guo et al. 2017).

    Args:
        probabilities: [n, k].
        gold: [n], right column of each row.

    Returns:
        `ece`: mean of |confidence - accuracy| over the bins, weighted by count. `bins`: low, high, confidence (mean
        probability), accuracy and count of the bins with rows.
    """
    confidence, hit, index, edges = bin_by_confidence(probabilities, gold)
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
    ece = sum(abs(bin["confidence"] - bin["accuracy"]) * bin["count"] for bin in found) / max(len(index), 1)
    return {"ece": float(ece), "bins": found}


def bin_by_confidence(probabilities: ArrayLike, gold: ArrayLike) -> tuple[Floats, NDArray[np.bool_], Integers, Floats]:
    """(highest probability [n], whether it is the right one [n], its bin [n], edges of the bins [bins + 1]).

    The bins (low, high] have equal width.
    """
    p, right = np.asarray(probabilities, dtype=np.float64), np.asarray(gold, dtype=np.int64)
    confidence = np.clip(p.max(1), 0, 1)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    return confidence, p.argmax(1) == right, index, edges


def calibration_interval(probabilities: ArrayLike, gold: ArrayLike) -> dict[str, list[float]]:
    """`ece_interval`, the 95% bootstrap interval of the expected calibration error; nothing if the rows are many."""
    n = len(np.asarray(gold))
    if not 0 < n < FEW_CALIBRATION_ROWS:
        return {}
    confidence, hit, index, _ = bin_by_confidence(probabilities, gold)
    gaps = np.where(index[:, None] == np.arange(CALIBRATION_BINS), (confidence - hit)[:, None], 0.0)  # [n, bins]
    samples = np.random.default_rng(0).integers(n, size=(BOOTSTRAP_SAMPLES, n))
    counts = np.stack([np.bincount(rows, minlength=n) for rows in samples])  # [samples, n]
    errors = np.abs(counts @ gaps).sum(1) / n  # as in `calibration`: count · (mean confidence - mean accuracy) by bin
    return {"ece_interval": [float(end) for end in np.quantile(errors, (0.025, 0.975))]}


def glue_score(scores: Mapping[str, Sequence[float]]) -> float:
    """The GLUE score: mean over tasks; a task with several scores (MRPC: F1 and accuracy) counts with their mean."""
    return float(np.mean([np.mean(of_task) for of_task in scores.values()]))
