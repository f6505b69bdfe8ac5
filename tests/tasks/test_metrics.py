"""Metrics match scikit-learn and SciPy, intervals a plain bootstrap, calibration its definition."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_absolute_error,
    root_mean_squared_error,
)

from gpt1.errors import UserError
from gpt1.intervals import wilson_interval
from gpt1.tasks import metrics

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn, called by the tests


def label_pairs(labels: str):
    return st.lists(st.tuples(st.sampled_from(labels), st.sampled_from(labels)), min_size=1, max_size=40)


def sample_classes(n: int, labels: list[str], right: float, seed: int = 0):
    random = np.random.default_rng(seed)
    gold = random.choice(labels, n)
    return gold.tolist(), np.where(random.random(n) < right, gold, random.choice(labels, n)).tolist()


@given(pairs=label_pairs("01"))
def test_binary_scores_match_scikit_learn_with_label_1_positive(pairs):
    gold, predicted = zip(*pairs, strict=True)
    found = metrics.class_scores(gold, predicted, ["0", "1"])
    assert found["f1_of"] == "label 1"
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    assert found["f1"] == pytest.approx(f1_score(gold, predicted, pos_label="1", zero_division=0))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(gold, predicted))


@given(pairs=label_pairs("abc"))
def test_f1_of_named_labels_is_the_macro_average_over_labels_that_occur(pairs):
    gold, predicted = zip(*pairs, strict=True)
    found = metrics.class_scores(gold, predicted, ["a", "b", "c", "never seen"])
    assert found["f1_of"] == "macro"
    of_each = [
        2 * sum(p == (x, x) for p in pairs) / (gold.count(x) + predicted.count(x)) for x in set(gold) | set(predicted)
    ]
    assert found["f1"] == pytest.approx(np.mean(of_each))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(gold, predicted))


@pytest.mark.parametrize(
    ("gold", "predicted", "scores"),
    [
        (["1", "0"], ["1", "0"], (1.0, 1.0, 1.0)),
        (["1", "0"], ["0", "1"], (0.0, 0.0, -1.0)),
        (["1", "0", "1"], ["1", "1", "1"], (2 / 3, 0.8, 0.0)),  # only one label predicted
        (["0", "0"], ["0", "0"], (1.0, 0.0, 0.0)),  # label 1 never occurs
    ],
)
def test_perfect_reversed_and_constant_predictions_are_scored_without_a_warning(gold, predicted, scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.class_scores(gold, predicted, ["0", "1"])
    assert (found["accuracy"], found["f1"], found["matthews"]) == pytest.approx(scores)


numbers = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 3))


@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=40))
def test_correlations_match_scipy(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    found = metrics.number_scores(gold, predicted)
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
    else:
        assert found["pearson"] == pytest.approx(pearsonr(gold, predicted).statistic, abs=1e-6)
        assert found["spearman"] == pytest.approx(spearmanr(gold, predicted).statistic, abs=1e-9)


def test_constant_predictions_have_correlation_0_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found in (metrics.number_scores([1, 2, 3], [0.1, 0.1, 0.1]), metrics.number_scores([2.5], [0.1])):
            assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
        assert metrics.confidence_interval("pearson", [1, 2, 3], [7, 7, 7]) == (0.0, 0.0)


@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40))
def test_errors_match_scikit_learn(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    found = metrics.number_scores(gold, predicted)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(gold, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(gold, predicted))


def test_errors_of_huge_and_tiny_scores_neither_overflow_nor_vanish():
    for scale in (1e300, 1e-300):
        found = metrics.number_scores([0.0, 0.0], [3 * scale, 4 * scale])
        assert found["rmse"] == pytest.approx(math.sqrt(12.5) * scale)
        assert found["mae"] == pytest.approx(3.5 * scale)


def test_multiple_choice_is_scored_by_accuracy():
    assert metrics.choice_scores([0, 3, 2, 1], [0, 3, 1, 1]) == {"accuracy": 0.75}


def test_no_rows_are_an_error():
    for score in (
        lambda: metrics.class_scores([], [], ["0", "1"]),
        lambda: metrics.number_scores([], []),
        lambda: metrics.choice_scores([], []),
        lambda: metrics.confidence_interval("f1", [], [], ["0", "1"]),
    ):
        with pytest.raises(UserError, match="no labeled rows"):
            score()


@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_the_interval_of_accuracy_is_wilsons(n, share):
    right = round(share * n)
    low, high = metrics.confidence_interval("accuracy", ["a"] * n, ["a"] * right + ["b"] * (n - right))
    p, z = right / n, 1.959963984540054
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-9)


def plain_bootstrap(score, gold, predicted):
    random = np.random.default_rng(7)
    gold, predicted = np.asarray(gold), np.asarray(predicted)
    samples = [random.integers(len(gold), size=len(gold)) for _ in range(600)]
    return np.quantile([score(gold[rows], predicted[rows]) for rows in samples], (0.025, 0.975))


@pytest.mark.parametrize(
    ("metric", "labels", "score"),
    [
        ("f1", ["0", "1"], lambda g, p: f1_score(g, p, pos_label="1")),
        ("f1", ["a", "b", "c"], lambda g, p: f1_score(g, p, average="macro")),
        ("matthews", ["0", "1"], matthews_corrcoef),
        ("matthews", ["a", "b", "c"], matthews_corrcoef),
    ],
)
def test_intervals_of_class_scores_agree_with_a_plain_bootstrap_of_the_rows(metric, labels, score):
    gold, predicted = sample_classes(300, labels, right=0.6)
    expected = plain_bootstrap(score, gold, predicted)
    assert metrics.confidence_interval(metric, gold, predicted, labels) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("pearson", lambda g, p: pearsonr(g, p).statistic),
        ("spearman", lambda g, p: spearmanr(g, p).statistic),
        ("rmse", root_mean_squared_error),
        ("mae", mean_absolute_error),
    ],
)
def test_intervals_of_scores_agree_with_a_plain_bootstrap_of_the_rows(metric, score):
    random = np.random.default_rng(0)
    gold = random.integers(0, 6, 200).astype(float)  # with ties
    predicted = gold + random.normal(size=200) * 3
    assert metrics.confidence_interval(metric, gold, predicted) == pytest.approx(
        plain_bootstrap(score, gold, predicted), abs=0.02
    )


def test_intervals_are_deterministic_and_leave_the_global_generator_alone():
    gold, predicted = sample_classes(100, ["0", "1"], right=0.5)
    before = np.random.get_state()[1].tolist()
    assert metrics.confidence_interval("f1", gold, predicted, ["0", "1"]) == metrics.confidence_interval(
        "f1", gold, predicted, ["0", "1"]
    )
    assert np.random.get_state()[1].tolist() == before


def test_blocks_of_bounded_memory_do_not_change_intervals_of_correlations(monkeypatch):
    random = np.random.default_rng(0)
    x = random.normal(size=50)
    whole = metrics.confidence_interval("pearson", x, x + random.normal(size=50))
    monkeypatch.setattr(metrics, "MAX_BOOTSTRAP_ELEMENTS", 500)
    random = np.random.default_rng(0)
    x = random.normal(size=50)
    assert metrics.confidence_interval("pearson", x, x + random.normal(size=50)) == pytest.approx(whole)


def sample_logits(seed: int, n: int = 500, k: int = 3):
    """Logits z and labels sampled from softmax(z): perfectly calibrated."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, k)) * 2
    gold = np.array([random.choice(k, p=row) for row in softmax(z, axis=1)])
    return z, gold


def loss_at(temperature, z, gold):
    return -log_softmax(z / temperature, axis=1)[np.arange(len(gold)), gold].mean()


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.3, 1.0, 4.0]), n=st.sampled_from([1, 5, 400]))
def test_the_fitted_temperature_is_optimal_and_recovers_the_scale_of_the_logits(seed, scale, n):
    z, gold = sample_logits(seed)
    z, gold = z[:n] * scale, gold[:n]

    def objective(t):
        mean, deviation = metrics.LOG_TEMPERATURE_PRIOR
        return n * loss_at(t, z, gold) + ((math.log(t) - mean) / deviation) ** 2 / 2

    fitted = metrics.fit_temperature(z, gold)
    assert all(objective(fitted) <= objective(t) + 1e-4 for t in np.geomspace(0.05, 20, 50))
    if n == 400:
        assert fitted == pytest.approx(scale, rel=0.35)


def test_missing_answers_do_not_change_the_temperature():
    z, gold = sample_logits(0)
    padded = np.concatenate([z, np.full((len(z), 2), -np.inf)], axis=1)
    assert metrics.fit_temperature(padded, gold) == pytest.approx(metrics.fit_temperature(z, gold))


def test_the_prior_decides_the_temperature_on_few_rows_only():
    mode = math.exp(metrics.LOG_TEMPERATURE_PRIOR[0])
    logits = np.eye(3)[[0, 1, 2, 0]] * 5
    right, one_wrong, wrong = [0, 1, 2, 0], [0, 1, 2, 1], [1, 2, 0, 1]
    few = [metrics.fit_temperature(logits, gold) for gold in (right, one_wrong, wrong)]
    assert 1 < few[0] < mode < few[1] < few[2] < 10
    many = [metrics.fit_temperature(np.tile(logits, (250, 1)), gold * 250) for gold in (right, one_wrong, wrong)]
    assert many[0] < 1
    assert many[1] == pytest.approx(5 / math.log(2 * 3), rel=0.01)  # three of four are right: p = 3/4, the others 1/8
    assert many[2] > 2 * few[2]


def test_equal_logits_say_nothing_about_the_temperature():
    expected = math.exp(metrics.LOG_TEMPERATURE_PRIOR[0])
    assert metrics.fit_temperature(np.zeros((4, 2)), [0, 1, 0, 1]) == pytest.approx(expected, rel=0.01)
    assert metrics.cross_fit_temperature(np.zeros((4, 2)), [0, 1, 0, 1])["temperature"] == 1


@given(seed=st.integers(0, 1000))
def test_the_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy(seed):
    random = np.random.default_rng(seed)
    p = random.dirichlet([1, 1, 1], size=200)
    gold = random.integers(0, 3, 200)
    found, gap, bins = metrics.calibration(p, gold), 0.0, metrics.CALIBRATION_BINS
    for b in range(bins):
        rows = (p.max(1) > b / bins) & (p.max(1) <= (b + 1) / bins)
        if rows.any():
            gap += abs(p.max(1)[rows].sum() - (p.argmax(1) == gold)[rows].sum()) / 200
    assert found["ece"] == pytest.approx(gap)
    assert sum(b["count"] for b in found["bins"]) == 200
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in found["bins"])


def test_the_calibration_error_is_0_if_sure_and_right_and_1_if_sure_and_wrong():
    sure = np.eye(2)[[0, 1, 0]]
    assert metrics.calibration(sure, [0, 1, 0])["ece"] == 0.0
    assert metrics.calibration(sure, [1, 0, 1])["ece"] == 1.0


def test_the_fitted_temperature_improves_calibration():
    z, gold = sample_logits(0, n=3000)
    before = metrics.calibration(softmax(z * 4, axis=1), gold)["ece"]
    fitted = metrics.fit_temperature(z * 4, gold)
    assert metrics.calibration(softmax(z * 4 / fitted, axis=1), gold)["ece"] < 0.25 * before


def test_a_temperature_is_used_only_if_it_helps_on_other_rows():
    z, gold = sample_logits(0, n=3000)
    overconfident = metrics.cross_fit_temperature(z * 4, gold)
    assert overconfident["temperature"] == overconfident["fitted"] == metrics.fit_temperature(z * 4, gold)
    assert overconfident["ece_after"] < 0.25 * overconfident["ece_before"]
    right = metrics.cross_fit_temperature(z, gold)  # calibrated already: the labels are drawn from these logits
    assert abs(math.log(right["temperature"])) < 0.1
    few = [
        metrics.cross_fit_temperature(*(part[first : first + 20] for part in (z, gold))) for first in range(0, 600, 20)
    ]
    unused = [found for found in few if found["temperature"] == 1]
    assert 0 < len(unused) < len(few)
    for found in unused:
        assert "no temperature lowers the loss" in found["reason"]
        assert found["ece_after"] == found["ece_before"]
        assert found["loss_after"] == found["loss_before"]
        assert found["bins"] == found["bins_before"]
    for found in few:
        assert (found["loss_after"] < found["loss_before"]) == (found["temperature"] != 1)


def test_thirty_validation_rows_calibrate_an_overconfident_model():
    # Labels drawn from p, logits three times too large: as a model of a few hundred rows after many epochs.
    z, gold = sample_logits(5, n=3000)
    overconfident, test = 3 * z, slice(1500, 3000)
    test_loss = metrics.negative_log_likelihood(overconfident[test], gold[test])
    lowest_loss = metrics.negative_log_likelihood(z[test], gold[test])
    gaps = []
    for first in range(0, 1500, 30):
        rows = slice(first, first + 30)
        temperature = metrics.cross_fit_temperature(overconfident[rows], gold[rows])["temperature"]
        gaps.append(metrics.negative_log_likelihood(overconfident[test] / temperature, gold[test]) - lowest_loss)
    assert np.mean(gaps) < 0.15 * (test_loss - lowest_loss)


def test_the_reported_calibration_is_that_of_temperatures_fitted_on_other_rows():
    z, gold = sample_logits(3, n=200)
    found = metrics.cross_fit_temperature(z * 4, gold)
    order, scaled = np.random.default_rng(0).permutation(200), np.empty_like(z)
    for fold in np.array_split(order, 5):
        others = [i for i in range(200) if i not in fold]
        scaled[fold] = z[fold] * 4 / metrics.fit_temperature(z[others] * 4, gold[others])
    assert found["reason"] == ""
    assert found["ece_after"] == pytest.approx(metrics.calibration(softmax(scaled, axis=1), gold)["ece"])
    assert found["loss_after"] == pytest.approx(-np.log(softmax(scaled, axis=1))[range(200), gold].mean())
    assert found["loss_before"] == pytest.approx(-np.log(softmax(z * 4, axis=1))[range(200), gold].mean())


def test_a_temperature_at_the_end_of_its_range_is_not_used():
    sure = np.eye(3)[[0, 1, 2] * 300] * 1e-2
    found = metrics.cross_fit_temperature(sure, [0, 1, 2] * 300)
    assert found["fitted"] == pytest.approx(math.exp(-metrics.MAX_LOG_TEMPERATURE), rel=0.01)
    assert found["temperature"] == 1
    assert "at the limit of its range" in found["reason"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_rows_can_be_cross_fitted(n):
    z, gold = sample_logits(1)
    assert metrics.cross_fit_temperature(z[:n], gold[:n])["temperature"] > 0


def test_the_glue_score_of_the_paper_is_the_mean_over_tasks_of_each_mean():
    # The paper's own row on the leaderboard, with the second metric of the pairs and WNLI.
    scores = {
        "cola": [45.4], "sst2": [91.3], "mrpc": [82.3, 75.7], "stsb": [82.0, 80.0], "qqp": [70.3, 88.5],
        "mnli": [82.1, 81.4], "qnli": [88.1], "rte": [56.0], "wnli": [53.4],
    }  # fmt: skip
    assert metrics.glue_score(scores) == pytest.approx(72.8, abs=0.05)


def test_the_interval_of_a_mean_accuracy_is_that_of_resampled_groups():
    right, rows = [600, 950, 300, 700], [1000, 1000, 400, 2000]
    mean, (low, high) = metrics.mean_accuracy(right, rows)
    assert mean == pytest.approx(np.mean(np.divide(right, rows)))
    random = np.random.default_rng(0)
    resampled = [random.binomial(n, r / n, 20_000) / n for r, n in zip(right, rows, strict=True)]
    assert (low, high) == pytest.approx(tuple(np.quantile(np.mean(resampled, axis=0), (0.025, 0.975))), abs=0.001)
    assert metrics.mean_accuracy([3], [7])[1] == pytest.approx(wilson_interval(3 / 7, 7))
    assert 0 < metrics.mean_accuracy([5, 5], [5, 5])[1][0] < 1


def test_few_rows_have_an_interval_of_their_calibration_error():
    z, gold = np.random.default_rng(0).normal(size=(100, 3)), np.array([0, 1] * 50)
    low, high = metrics.calibration_interval(softmax(z, axis=1), gold)["ece_interval"]
    samples = np.random.default_rng(0).integers(100, size=(metrics.BOOTSTRAP_SAMPLES, 100))
    errors = [metrics.calibration(softmax(z[rows], axis=1), gold[rows])["ece"] for rows in samples]
    assert [low, high] == pytest.approx(np.quantile(errors, (0.025, 0.975)))
    assert low <= metrics.calibration(softmax(z, axis=1), gold)["ece"] <= high
    assert low < high
    many = np.random.default_rng(0).normal(size=(metrics.FEW_CALIBRATION_ROWS, 3))
    assert metrics.calibration_interval(softmax(many, axis=1), [0] * len(many)) == {}
    assert metrics.cross_fit_temperature(z, gold)["ece_interval"][0] >= 0


def test_without_a_right_prediction_nothing_is_calibrated():
    found = metrics.cross_fit_temperature(np.array([[5.0, 0.0]] * 30), [1] * 30)
    assert (found["temperature"], found["reason"]) == (1.0, "no prediction is correct")


def test_as_many_labels_as_rows_print_no_warning_of_scikit_learn():
    labels = [f"u{i}" for i in range(30)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.class_scores(labels, labels[::-1], labels)["accuracy"] == 0.0
