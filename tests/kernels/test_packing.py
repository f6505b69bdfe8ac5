"""Packed sequences give the same results as each sequence alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_gpt import add_noise
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.kernels import packing as module
from gpt1.kernels.packing import PackedRow, Packing, split_groups
from gpt1.model.gpt import GPT

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=9)
spare = st.sampled_from([0, 3, 10, 10**6])
share = st.sampled_from([0.0, 0.5, 10.0])


def models() -> list[GPT]:
    torch.manual_seed(0)
    found = []
    for architecture in ("transformer", "lstm"):
        model = GPT(GPTConfig(20, 2, 2, 8, 12, 0.0, architecture=architecture, lstm_units=6)).double()
        model.activation_dtype = torch.float64
        found.append(add_noise(model, 0.3))
    return found


MODELS = models()


def make_unpacked_rows(lengths: list[int]) -> list[PackedRow]:
    return [PackedRow(0, (length,)) for length in lengths]


rows = st.lists(
    st.one_of(
        st.builds(PackedRow, st.just(0), st.tuples(st.integers(1, 12))),
        st.builds(PackedRow, st.integers(0, 8), st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)),
    ),
    min_size=1,
    max_size=5,
)


def split_sequences(rows: list[PackedRow], x: Tensor) -> list[Tensor]:
    """x [tokens, …] of packed rows, sequence by sequence."""
    found = []
    for row, own in zip(rows, torch.split(x, [row.tokens for row in rows]), strict=True):
        prefix, *suffixes = torch.split(own, [row.prefix, *row.suffixes])
        found += [torch.cat([prefix, suffix]) for suffix in suffixes]
    return found


def compute_gradients(model: GPT, states: Tensor, weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((states * weights).sum(), list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("model", MODELS, ids=["transformer", "lstm"])
@given(lengths=lengths, spare=spare, share=share, checkpointing=st.booleans())
def test_states_and_gradients_equal_those_of_each_sequence_alone(model, lengths, spare, share, checkpointing):
    sequences = [torch.randint(0, 20, (length,)) for length in lengths]
    weights = torch.randn(sum(lengths), 8, dtype=torch.float64)
    model.activation_checkpointing = checkpointing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PADDING", spare)
        patch.setattr(module, "MAX_PADDING_SHARE", share)
        packed = model.train().hidden_states(torch.cat(sequences), packing=Packing(make_unpacked_rows(lengths)))
    each = torch.cat([model.hidden_states(sequence[None])[0] for sequence in sequences])
    torch.testing.assert_close(packed, each)
    torch.testing.assert_close(compute_gradients(model, packed, weights), compute_gradients(model, each, weights))


@given(lengths=lengths, spare=spare, share=share)
def test_every_sequence_is_in_one_group_and_padding_is_bounded(lengths, spare, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PADDING", spare)
        patch.setattr(module, "MAX_PADDING_SHARE", share)
        found = list(split_groups(lengths))
    assert found[0][0] == 0
    assert found[-1][1] == len(lengths)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    for first, stop in found:
        some = lengths[first:stop]
        assert len(some) == 1 or len(some) * max(some) - sum(some) <= spare + share * sum(some)


@given(rows=rows, spare=spare, share=share, checkpointing=st.booleans(), train=st.booleans())
def test_sequences_with_a_shared_prefix_give_the_same_as_alone(rows, spare, share, checkpointing, train):
    model = MODELS[0].train(train)
    ids = torch.randint(0, 20, (sum(row.tokens for row in rows),))
    model.activation_checkpointing = checkpointing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PADDING", spare)
        patch.setattr(module, "MAX_PADDING_SHARE", share)
        packed = torch.cat(split_sequences(rows, model.hidden_states(ids, packing=Packing(rows))))
    each = torch.cat([model.hidden_states(sequence[None])[0] for sequence in split_sequences(rows, ids)])
    torch.testing.assert_close(packed, each)
    weights = torch.randn_like(each)
    torch.testing.assert_close(compute_gradients(model, packed, weights), compute_gradients(model, each, weights))
    with torch.no_grad():  # attention has another path without gradients
        torch.testing.assert_close(
            torch.cat(split_sequences(rows, model.hidden_states(ids, packing=Packing(rows)))), each
        )


@given(rows=rows)
def test_a_packing_knows_the_position_of_each_token(rows):
    packing = Packing(rows)
    number = torch.arange(packing.tokens)
    sequences = split_sequences(rows, number)
    assert [packing.positions[own].tolist() for own in sequences] == [list(range(len(own))) for own in sequences]
    assert packing.last_index.tolist() == [own[-1].item() for own in sequences]
    assert packing.lengths.tolist() == list(map(len, sequences))
    assert packing.max_length == max(map(len, sequences))
    each = torch.rand(len(sequences), dtype=torch.float64)
    sums = sum(torch.zeros(packing.tokens, dtype=torch.float64).index_add(0, own, w.expand(len(own)))
               for own, w in zip(sequences, each, strict=True))  # fmt: skip
    torch.testing.assert_close(packing.to_tokens(each), sums)
