"""Packed sequences: what a layer gives for each of them is what it gives for that one alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.kernels import packing as module
from gpt1.kernels.packing import Packing, groups
from gpt1.model import GPT

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)
spare = st.sampled_from([0, 3, 10, 10**6])
share = st.sampled_from([0.0, 0.5, 10.0])


def models() -> list[GPT]:
    torch.manual_seed(0)
    found = []
    for architecture in ("transformer", "lstm"):
        model = GPT(GPTConfig(20, 2, 2, 8, 12, 0.0, architecture=architecture, lstm_units=6)).double()
        model.activations = torch.float64
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * 0.3)
        found.append(model)
    return found


MODELS = models()


def gradients(model: GPT, states: Tensor, weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((states * weights).sum(), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("model", MODELS, ids=["transformer", "lstm"])
@given(lengths=lengths, spare=spare, share=share, recompute=st.booleans())
def test_states_and_gradients_are_those_of_each_sequence_alone(model, lengths, spare, share, recompute):
    sequences = [torch.randint(0, 20, (length,)) for length in lengths]
    weights = torch.randn(sum(lengths), 8, dtype=torch.float64)
    model.recompute = recompute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPARE", spare)
        patch.setattr(module, "SHARE", share)
        packed = model.train().states(torch.cat(sequences), packing=Packing(lengths))
    alone = torch.cat([model.states(sequence[None])[0] for sequence in sequences])
    torch.testing.assert_close(packed, alone)
    torch.testing.assert_close(gradients(model, packed, weights), gradients(model, alone, weights))


@given(lengths=lengths, spare=spare, share=share)
def test_every_sequence_is_in_one_group_and_padding_stays_within_its_bounds(lengths, spare, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPARE", spare)
        patch.setattr(module, "SHARE", share)
        found = list(groups(lengths))
    assert found[0][0] == 0
    assert found[-1][1] == len(lengths)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    for first, stop in found:
        some = lengths[first:stop]
        assert len(some) == 1 or len(some) * max(some) - sum(some) <= spare + share * sum(some)


@given(lengths=lengths)
def test_a_packing_knows_where_each_token_stands(lengths):
    packing = Packing(lengths)
    assert packing.sequence.tolist() == [i for i, length in enumerate(lengths) for _ in range(length)]
    assert packing.position.tolist() == [t for length in lengths for t in range(length)]
    assert packing.last.tolist() == [sum(lengths[: i + 1]) - 1 for i in range(len(lengths))]
    assert packing.most == max(lengths)
