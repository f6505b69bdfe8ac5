"""L1, L2, L3: micro-batches add up to the loss of the paper, computed plainly from all logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_gpt import random_gpt
from torch import Tensor, nn

from gpt1.config import GPTConfig
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import FeatureMicroBatch, Losses, PretrainMicroBatch, l1, l2, l3
from gpt1.tasks.collate import collate, micro_batches
from gpt1.tasks.kinds import KINDS, EncodedExample, Example, Kind, encode_examples
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target

VOCABULARY, CONTEXT = 30, 14
CPU = torch.device("cpu")


GPT_1, TASK_GPT = (random_gpt(GPTConfig(VOCABULARY, 2, 2, 16, CONTEXT, 0.0)) for _ in range(2))
TASK_GPT.add_special_tokens()


def loss_and_gradients(model: nn.Module, losses: Callable[[], Sequence[Tensor]]) -> tuple[float, dict[str, Tensor]]:
    """(sum of the losses, its gradient by name); each loss is differentiated separately."""
    model.zero_grad()
    total = 0.0
    for loss in losses():
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert set(found[1]) == set(expected[1])
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def token_losses(gpt: GPT, sequence: Tensor) -> Tensor:  # [time] → [time - 1]
    """−log P of every token after the first, from the full logits."""
    log_p = gpt(sequence[None])[0, :-1].log_softmax(-1)
    return -log_p[torch.arange(len(sequence) - 1), sequence[1:]]


# ---- L1


@given(rows=st.integers(1, 6), piece=st.integers(1, 6), time=st.integers(2, CONTEXT + 1), seed=st.integers(0, 99))
def test_l1_of_any_micro_batches_is_the_mean_over_the_tokens_of_the_step(rows, piece, time, seed):
    ids = torch.randint(0, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(seed))
    tokens = rows * (time - 1)

    def cut() -> list[Tensor]:
        return [l1(GPT_1, PretrainMicroBatch(part, tokens)).total for part in torch.split(ids, piece)]

    def plain() -> list[Tensor]:
        return [torch.cat([token_losses(GPT_1, row) for row in ids]).mean()]

    assert_same(loss_and_gradients(GPT_1, cut), loss_and_gradients(GPT_1, plain))


def test_the_loss_of_uniform_predictions_is_the_logarithm_of_the_vocabulary_size():
    model = random_gpt(GPT_1.config)
    nn.init.zeros_(model.tokens.weight)
    ids = torch.randint(0, VOCABULARY, (2, CONTEXT))
    assert l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total.item() == pytest.approx(
        torch.tensor(VOCABULARY).log()
    )


# ---- L3


def kind_target_and_labels(name: str) -> tuple[Kind, Target, st.SearchStrategy[Any]]:
    return {
        "classification": (KINDS["classification"], Classes(("a", "b", "c")), st.sampled_from("abc")),
        "entailment": (KINDS["entailment"], Classes(("a", "b")), st.sampled_from("ab")),
        "similarity": (KINDS["similarity"], Classes(("0", "1")), st.sampled_from("01")),
        "scored similarity": (KINDS["similarity"], OrdinalBins(0, 5), st.floats(0, 5)),
        "choice": (KINDS["choice"], Answers(4), st.integers(0, 1)),
        "regression": (KINDS["regression"], StandardizedNumber(1.0, 2.0), st.floats(-3, 3)),
    }[name]


TASKS = ["classification", "entailment", "similarity", "scored similarity", "choice", "regression"]
texts = st.lists(st.integers(0, VOCABULARY - 1), max_size=8)


@st.composite
def step_data(draw: st.DrawFn, name: str) -> tuple[TaskModel, Target, list[EncodedExample], Tensor]:
    kind, target, labels = kind_target_and_labels(name)
    examples, ids, targets = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        fields = [draw(texts) for role in kind.columns if role != "choices"]
        answers = [draw(texts) for _ in range(draw(st.integers(2, 4)))] if kind.multiple_choice else []
        examples.append(Example(("",) * len(fields), ("",) * len(answers)))
        ids += [*fields, *answers]
        targets.append(target.encode(draw(labels)))
    encoded = encode_examples(kind, examples, ids, VOCABULARY, CONTEXT, shared_prefix=draw(st.booleans()))
    torch.manual_seed(1)
    model = TaskModel(TASK_GPT, Head(16, target.outputs, kind.multiple_choice)).eval()
    nn.init.normal_(model.head.linear.weight, std=0.2)
    return model, target, encoded, torch.stack(targets)


def micro_batch_losses(
    model: TaskModel, target: Target, encoded: list[EncodedExample], targets: Tensor, lm_coef: float, tokens: int
) -> list[Losses]:
    sequences = sum(len(example.sequences) for example in encoded)
    return [
        l3(model, target.loss, lm_coef, collate(encoded, piece, targets, CPU, len(encoded), sequences))
        for piece in micro_batches(encoded, range(len(encoded)), tokens)
    ]


def plain_l3(
    model: TaskModel, target: Target, encoded: list[EncodedExample], targets: Tensor, lm_coef: float
) -> Tensor:
    """L2 + λ · L1, sequence by sequence: L2 is a mean over examples, L1 over tokens, then over sequences."""
    task, lm = [], []
    for example, own in zip(encoded, targets, strict=True):
        sequences = [torch.tensor(sequence) for sequence in example.sequences]
        states = torch.stack([model.gpt.hidden_states(sequence[None])[0, -1] for sequence in sequences])
        if model.head.each:
            logits = model.head.linear(states)[:, 0]
        else:
            logits = model.head.linear(states.sum(0))
        task.append(target.loss(logits[None], own[None])[0])
        lm += [token_losses(model.gpt, sequence).mean() for sequence in sequences]
    return torch.stack(task).mean() + lm_coef * torch.stack(lm).mean()


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=12)
@given(data=st.data(), tokens=st.integers(1, 200), lm_coef=st.sampled_from([0.0, 0.5, 2.0]))
def test_l3_of_any_micro_batches_is_the_plain_l3(name, data, tokens, lm_coef):
    model, target, encoded, targets = data.draw(step_data(name))
    found = loss_and_gradients(
        model, lambda: [losses.total for losses in micro_batch_losses(model, target, encoded, targets, lm_coef, tokens)]
    )
    expected = loss_and_gradients(model, lambda: [plain_l3(model, target, encoded, targets, lm_coef)])
    assert_same(found, expected)


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=12)
@given(data=st.data(), tokens=st.integers(1, 200))
def test_the_metrics_of_micro_batches_add_up_to_those_of_the_step(name, data, tokens):
    model, target, encoded, targets = data.draw(step_data(name))
    parts = [losses.metrics for losses in micro_batch_losses(model, target, encoded, targets, 0.5, tokens)]
    sums = {part: sum(own[part].item() for own in parts) for part in ("loss", "task_loss", "lm_loss")}
    assert sums["loss"] == pytest.approx(sums["task_loss"] + 0.5 * sums["lm_loss"], abs=1e-5)
    with torch.no_grad():
        assert sums["task_loss"] == pytest.approx(plain_l3(model, target, encoded, targets, 0.0).item(), abs=1e-5)


def test_without_an_auxiliary_loss_no_language_model_loss_is_computed():
    model = TaskModel(TASK_GPT, Head(16, 3, each=False)).eval()
    encoded = [EncodedExample([[VOCABULARY, 3, VOCABULARY + 2]])]
    losses = l3(model, Classes(("a", "b", "c")).loss, 0.0, collate(encoded, [0], torch.tensor([1]), CPU))
    assert set(losses.metrics) == {"loss", "task_loss"}
    assert losses.metrics["loss"] == losses.metrics["task_loss"]


# ---- L2 over cached features


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=12)
@given(data=st.data())
def test_l2_over_cached_features_is_l3_without_the_auxiliary_loss(name, data):
    model, target, encoded, targets = data.draw(step_data(name))
    batch = collate(encoded, range(len(encoded)), targets, CPU, len(encoded), 1)
    features = FeatureMicroBatch(
        model.features(batch.ids, batch.packing).detach(), batch.example_index, targets, len(encoded)
    )
    assert l2(model.head, target.loss, features).total.item() == pytest.approx(
        l3(model, target.loss, 0.0, batch).total.item(), abs=1e-6
    )


# ---- on a GPU, nothing waits for the device


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=6)
@given(data=st.data(), lm_coef=st.sampled_from([0.0, 0.5]))
def test_l3_and_its_gradient_never_wait_for_the_device(name, dtype, data, lm_coef):
    """The device "meta" has shapes and no data: reading a value, which would make the host wait on a GPU, fails."""
    model, target, encoded, targets = data.draw(step_data(name))
    with torch.device("meta"):
        there = TaskModel(GPT(replace(model.gpt.config, dropout=0.1)), Head(16, target.outputs, model.head.each))
    there.train().gpt.activation_dtype = dtype
    piece = collate(encoded, range(len(encoded)), targets, torch.device("meta"), len(encoded), 1)
    losses = l3(there, target.loss, lm_coef, piece)
    losses.total.backward()
    assert losses.total.shape == ()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in there.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_l1_and_its_gradient_never_wait_for_the_device(dtype):
    with torch.device("meta"):
        there = GPT(replace(GPT_1.config, dropout=0.1)).train()
        windows = torch.zeros(3, CONTEXT + 1, dtype=torch.int64)
    there.activation_dtype = dtype
    l1(there, PretrainMicroBatch(windows, 3 * CONTEXT)).total.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in there.parameters())
