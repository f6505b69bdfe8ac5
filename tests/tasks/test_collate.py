"""Micro-batches hold every example once, without padding, in an order that does not depend on the input."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.collate import collate, epoch_examples, micro_batches
from gpt1.tasks.kinds import EncodedExample

sequences = st.lists(st.integers(0, 99), min_size=1, max_size=12)
examples = st.lists(st.lists(sequences, min_size=1, max_size=4).map(EncodedExample), min_size=1, max_size=30)


def count_tokens(encoded: list[EncodedExample], micro_batch: list[int]) -> int:
    return sum(encoded[i].tokens for i in micro_batch)


@given(encoded=examples, tokens=st.integers(1, 200), data=st.data())
def test_every_position_is_in_exactly_one_micro_batch(encoded, tokens, data):
    positions = data.draw(st.permutations(range(len(encoded)))) if data.draw(st.booleans()) else [0]
    found = [i for micro_batch in micro_batches(encoded, positions, tokens) for i in micro_batch]
    assert sorted(found) == sorted(positions)


@given(encoded=examples, tokens=st.integers(1, 200))
def test_a_micro_batch_exceeds_max_tokens_only_with_a_single_example(encoded, tokens):
    for micro_batch in micro_batches(encoded, range(len(encoded)), tokens):
        assert len(micro_batch) == 1 or count_tokens(encoded, micro_batch) <= tokens


@given(encoded=examples, tokens=st.integers(1, 200))
def test_a_micro_batch_ends_only_if_the_next_example_does_not_fit(encoded, tokens):
    found = list(micro_batches(encoded, range(len(encoded)), tokens))
    for micro_batch, following in pairwise(found):
        assert count_tokens(encoded, [*micro_batch, following[0]]) > tokens


@given(encoded=examples, tokens=st.integers(1, 200), data=st.data())
def test_micro_batches_do_not_depend_on_the_order_of_the_positions(encoded, tokens, data):
    positions = data.draw(st.permutations(range(len(encoded))))
    assert list(micro_batches(encoded, positions, tokens)) == list(micro_batches(encoded, range(len(encoded)), tokens))


@given(encoded=examples, tokens=st.integers(1, 200))
def test_the_longest_examples_come_first(encoded, tokens):
    lengths = [
        encoded[i].max_row_tokens
        for micro_batch in micro_batches(encoded, range(len(encoded)), tokens)
        for i in micro_batch
    ]
    assert lengths == sorted(lengths, reverse=True)


@given(encoded=examples, data=st.data())
def test_a_batch_concatenates_the_sequences_of_its_examples(encoded, data):
    micro_batch = data.draw(st.lists(st.sampled_from(range(len(encoded))), min_size=1, unique=True))
    targets = torch.arange(len(encoded)) * 10
    batch = collate(encoded, micro_batch, targets, torch.device("cpu"), 7, 8)
    sequences = [sequence for i in micro_batch for sequence in encoded[i].sequences]
    assert batch.ids.tolist() == [token for sequence in sequences for token in sequence]
    assert batch.packing.lengths.tolist() == list(map(len, sequences))
    assert batch.example_index.tolist() == [n for n, i in enumerate(micro_batch) for _ in encoded[i].sequences]
    assert batch.targets.tolist() == [i * 10 for i in micro_batch]
    assert (batch.step_examples, batch.step_sequences) == (7, 8)


windowed = st.tuples(st.integers(1, 5), st.integers(1, 3)).map(
    lambda shape: EncodedExample([[window, k] for window in range(shape[0]) for k in range(shape[1])], windows=shape[0])
)


@given(encoded=st.lists(windowed, min_size=1, max_size=8), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_an_epoch_sees_one_window_of_each_example_and_n_epochs_see_all_n_windows(encoded, seed, epoch):
    positions = range(len(encoded))
    for i, example in enumerate(encoded):
        turns = [epoch_examples(encoded, positions, seed, epoch + turn)[i] for turn in range(example.windows)]
        assert sorted(turn.sequences for turn in turns) == sorted(
            window.sequences for window in example.split_windows()
        )
        assert all(turn.windows == 1 for turn in turns)


@given(encoded=st.lists(windowed, min_size=2, max_size=8), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_the_window_of_an_example_does_not_depend_on_the_other_examples_of_its_step(encoded, seed, epoch):
    together = epoch_examples(encoded, range(len(encoded)), seed, epoch)
    assert together == [epoch_examples(encoded, [i], seed, epoch)[0] for i in range(len(encoded))]


def test_the_first_window_differs_between_examples_and_between_seeds():
    encoded = [EncodedExample([[window] for window in range(4)], windows=4)] * 40
    first = [[e.sequences[0][0] for e in epoch_examples(encoded, range(40), seed, 0)] for seed in (0, 1)]
    assert set(first[0]) == {0, 1, 2, 3}
    assert first[0] != first[1]
