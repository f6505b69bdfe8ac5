"""The linear probe equals scikit-learn's; training starts from it, and resumes to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import (
    FAST_SETTINGS,
    KIND_OPTIONS,
    TEXT_OPTIONS,
    changed_tensors,
    load_head,
    load_weights,
    read_metrics,
    read_results,
)
from sklearn.linear_model import LogisticRegression, Ridge

from gpt1.errors import Interrupted, UserError
from gpt1.model.head import Head
from gpt1.model.losses import TaskLoss
from gpt1.tables.table import Table
from gpt1.tasks.targets import Classes, StandardizedNumber
from gpt1.training import finetune_setup, linear_probe
from gpt1.training.finetune import finetune
from gpt1.training.linear_probe import fit_linear_probe

pytestmark = pytest.mark.usefixtures("no_reports")

N = 60


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(N, 8, generator=torch.Generator().manual_seed(0))


def test_the_probe_is_a_penalized_logistic_regression(states: torch.Tensor):
    labels = (states[:, 0] + 0.5 * states[:, 1] > 0.3).long() + (states[:, 2] > 1).long()
    target, head = Classes(("a", "b", "c")), Head(8, 3, each=False)
    penalty = fit_linear_probe(head, torch.split(states, 1), labels, target.loss)
    peer = LogisticRegression(C=1 / (2 * N * penalty), tol=1e-8, max_iter=1000).fit(states.numpy(), labels.numpy())
    expected = peer.predict_proba(states.numpy())
    ours = head.eval()(states, torch.arange(N)).softmax(-1).detach()
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_the_probe_of_a_number_is_a_ridge_regression(states: torch.Tensor):
    y = (states @ torch.arange(8.0) / 10 + 1).float()
    target, head = StandardizedNumber(0.0, 1.0), Head(8, 1, each=False)
    penalty = fit_linear_probe(head, torch.split(states, 1), y, target.loss)
    peer = Ridge(alpha=N * penalty).fit(states.numpy(), y.numpy())
    np.testing.assert_allclose(head.linear.weight.detach()[0], peer.coef_, atol=1e-3)
    assert float(head.linear.bias.detach()) == pytest.approx(float(peer.intercept_), abs=1e-3)


def test_noise_gets_a_larger_penalty_than_a_clear_rule(states: torch.Tensor):
    target = Classes(("a", "b"))
    clear, noise = (states[:, 0] > 0).long(), torch.randint(2, (N,), generator=torch.Generator().manual_seed(1))
    penalties = [
        fit_linear_probe(Head(8, 2, each=False), torch.split(states, 1), labels, target.loss)
        for labels in (clear, noise)
    ]
    assert penalties[0] < penalties[1]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_rows_is_enough(n: int, states: torch.Tensor):
    head = Head(8, 2, each=False)
    fit_linear_probe(head, torch.split(states[:n], 1), torch.arange(n) % 2, Classes(("a", "b")).loss)
    assert all(torch.isfinite(p).all() for p in head.parameters())


def test_the_weighted_probe_is_a_weighted_logistic_regression(states: torch.Tensor):
    labels = (states[:, 0] + states[:, 3] > 0.3).long()
    weights = 3 * torch.rand(N, generator=torch.Generator().manual_seed(1))
    target, head = Classes(("a", "b")), Head(8, 2, each=False)
    penalty = fit_linear_probe(head, torch.split(states, 1), labels, target.loss, weights)
    # Two columns of weights, ±w/2, have half the penalty of the single column of scikit-learn.
    peer = LogisticRegression(C=1 / (float(weights.sum()) * penalty), tol=1e-8, max_iter=1000)
    peer.fit(states.numpy(), labels.numpy(), sample_weight=weights.numpy())
    ours = head.eval()(states, torch.arange(N)).softmax(-1).detach()
    np.testing.assert_allclose(ours, peer.predict_proba(states.numpy()), atol=2e-3)


def test_examples_of_weight_0_change_neither_the_probe_nor_its_penalty(states: torch.Tensor):
    labels, weights = (states[:, 0] > 0).long(), (torch.arange(N) % 3 > 0).float()
    flipped = torch.where(weights > 0, labels, 1 - labels)
    heads = [Head(8, 2, each=False) for _ in range(2)]
    target = Classes(("a", "b"))
    penalties = [
        fit_linear_probe(head, torch.split(states, 1), own, target.loss, weights)
        for head, own in zip(heads, (labels, flipped), strict=True)
    ]
    assert penalties[0] == penalties[1]
    assert torch.equal(heads[0].linear.weight, heads[1].linear.weight)


@pytest.mark.parametrize("heavy", [0, 7, N - 1])
def test_a_single_example_may_have_all_the_weight(heavy: int, states: torch.Tensor):
    head, weights = Head(8, 2, each=False), torch.zeros(N)
    weights[heavy] = N
    fit_linear_probe(head, torch.split(states, 1), (states[:, 0] > 0).long(), Classes(("a", "b")).loss, weights)
    assert all(torch.isfinite(p).all() for p in head.parameters())
    assert head.linear.weight.any()


# ---- runs


@pytest.mark.parametrize("name", KIND_OPTIONS)
def test_training_starts_at_the_probe(name: str, table: Table, pretrained_run: Path, tmp_path: Path):
    """With learning rate 0 a run ends with its initial weights."""
    options = {**KIND_OPTIONS[name], **FAST_SETTINGS, "peak_lr": 0, "dropout": 0, "head_dropout": 0}
    run = finetune(table, from_=pretrained_run, out=tmp_path / "run", **options)
    random = finetune(table, from_=pretrained_run, out=tmp_path / "random", head_first=False, **options)
    assert changed_tensors(load_weights(run), load_weights(pretrained_run)) == set()
    assert not torch.equal(load_head(run)["linear.weight"], load_head(random)["linear.weight"])
    train_loss = [next(x["task_loss"] for x in read_metrics(one) if x["split"] == "train") for one in (run, random)]
    assert train_loss[0] < train_loss[1]


def test_rows_of_weight_0_do_not_change_the_probe_and_class_weights_do(
    table: Table, pretrained_run: Path, tmp_path: Path
):
    """With learning rate 0, the head of a run is its probe."""
    options: dict[str, Any] = {**TEXT_OPTIONS, **FAST_SETTINGS, "peak_lr": 0, "head_dropout": 0, "valid_fraction": 0}
    labels = [row["label"] for row in table.rows]
    ignored = [i % 4 == 0 for i in range(len(labels))]
    swap = dict(zip(sorted(set(labels)), sorted(set(labels), reverse=True), strict=True))
    heads = []
    for name, given in (
        ("a", labels),
        ("b", [swap[y] if skip else y for y, skip in zip(labels, ignored, strict=True)]),
    ):
        rows = [
            {**row, "label": label, "w": int(not skip)}
            for row, label, skip in zip(table.rows, given, ignored, strict=True)
        ]
        weighted = Table("t.csv", [*table.columns, "w"], rows)
        run = finetune(weighted, from_=pretrained_run, out=tmp_path / name, weight="w", **options)
        heads.append(load_head(run)["linear.weight"])
    assert torch.equal(*heads)
    plain, weighted_run = (
        finetune(table, from_=pretrained_run, out=tmp_path / f"w{i}", class_weight=setting, **options)
        for i, setting in enumerate(("", f"{labels[0]}=50"))
    )
    assert not torch.equal(load_head(plain)["linear.weight"], load_head(weighted_run)["linear.weight"])


def test_the_rows_of_the_probe_are_drawn_from_all_of_a_sorted_table(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Tables are often sorted by label: the first rows alone would show the probe one label only."""
    monkeypatch.setattr(finetune_setup, "MAX_PROBE_ROWS", 24)
    probed: list[torch.Tensor] = []

    def fit(
        head: Head, features: Sequence[torch.Tensor], targets: torch.Tensor, task_loss: TaskLoss, weights: Any
    ) -> float:
        probed.append(targets)
        return fit_linear_probe(head, features, targets, task_loss, weights)

    monkeypatch.setattr(finetune_setup, "fit_linear_probe", fit)
    by_label = table.select(sorted(range(len(table)), key=lambda i: str(table.rows[i]["label"])))
    options: dict[str, Any] = {**TEXT_OPTIONS, **FAST_SETTINGS, "peak_lr": 0, "valid_fraction": 0}
    finetune(by_label, from_=pretrained_run, out=tmp_path / "run", **options)
    counts = torch.bincount(probed[0].long(), minlength=2)
    assert counts.sum() == 24
    assert counts.min() > 24 / 4


def test_a_run_that_was_killed_before_its_first_checkpoint_resumes_to_the_same_bits(
    table: Table, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options: dict[str, Any] = {"from_": pretrained_run, **TEXT_OPTIONS, **FAST_SETTINGS}
    whole = finetune(table, out=tmp_path / "whole", **options)

    def stop(*_: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(linear_probe, "minimize", stop)
        with pytest.raises(Interrupted):
            finetune(table, out=tmp_path / "run", **options)
    for cached in (True, False):
        shutil.copytree(tmp_path / "run", again := tmp_path / f"cached {cached}")
        finetune(table, out=again, resume=True, cache_features=cached, **options)
        assert changed_tensors(load_weights(again), load_weights(whole)) == set()
        assert torch.equal(load_head(again)["linear.weight"], load_head(whole)["linear.weight"])
        assert read_results(again) == read_results(whole)


def test_the_recipe_paper_and_new_weights_have_no_probe(table: Table, pretrained_run: Path, tmp_path: Path):
    for i, settings in enumerate(({"recipe": "paper"}, {"from_scratch": True}, {"transfer_layers": 1})):
        run = finetune(table, from_=pretrained_run, out=tmp_path / str(i), **settings, **TEXT_OPTIONS, **FAST_SETTINGS)
        assert "head_first: false" in (run / "config.yaml").read_text()
    with pytest.raises(UserError, match='head_first=True has no effect with train="head"'):
        finetune(table, from_=pretrained_run, out=tmp_path / "x", head_first=True, train="head", **TEXT_OPTIONS)
