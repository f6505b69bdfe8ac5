"""Pieces of an update: every example once, nothing padded, nothing changed by it."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.collate import collate, epoch_examples, micro_batches
from gpt1.tasks.kinds import EncodedExample

sequences = st.lists(st.integers(0, 99), min_size=1, max_size=12)
examples = st.lists(st.lists(sequences, min_size=1, max_size=4).map(EncodedExample), min_size=1, max_size=30)


def held(encoded: list[EncodedExample], piece: list[int]) -> int:
    return sum(encoded[i].tokens for i in piece)


@given(encoded=examples, tokens=st.integers(1, 200), data=st.data())
def test_every_position_is_in_exactly_one_piece(encoded, tokens, official_data):
    positions = official_data.draw(st.permutations(range(len(encoded)))) if official_data.draw(st.booleans()) else [0]
    found = [i for piece in micro_batches(encoded, positions, tokens) for i in piece]
    assert sorted(found) == sorted(positions)


@given(encoded=examples, tokens=st.integers(1, 200))
def test_a_piece_holds_no_more_than_asked_unless_one_example_does(encoded, tokens):
    for piece in micro_batches(encoded, range(len(encoded)), tokens):
        assert len(piece) == 1 or held(encoded, piece) <= tokens


@given(encoded=examples, tokens=st.integers(1, 200))
def test_a_piece_ends_only_where_the_next_example_would_not_fit(encoded, tokens):
    found = list(micro_batches(encoded, range(len(encoded)), tokens))
    for piece, following in pairwise(found):
        assert held(encoded, [*piece, following[0]]) > tokens


@given(encoded=examples, tokens=st.integers(1, 200), data=st.data())
def test_pieces_do_not_depend_on_the_order_of_the_positions(encoded, tokens, official_data):
    positions = official_data.draw(st.permutations(range(len(encoded))))
    assert list(micro_batches(encoded, positions, tokens)) == list(micro_batches(encoded, range(len(encoded)), tokens))


@given(encoded=examples, tokens=st.integers(1, 200))
def test_the_longest_example_goes_first(encoded, tokens):
    lengths = [encoded[i].longest for piece in micro_batches(encoded, range(len(encoded)), tokens) for i in piece]
    assert lengths == sorted(lengths, reverse=True)


@given(encoded=examples, data=st.data())
def test_a_batch_holds_the_sequences_of_its_examples_side_by_side(encoded, official_data):
    piece = official_data.draw(st.lists(st.sampled_from(range(len(encoded))), min_size=1, unique=True))
    targets = torch.arange(len(encoded)) * 10
    batch = collate(encoded, piece, targets, torch.device("cpu"), 7, 8)
    wanted = [sequence for i in piece for sequence in encoded[i].sequences]
    assert batch.ids.tolist() == [token for sequence in wanted for token in sequence]
    assert batch.packing.lengths.tolist() == list(map(len, wanted))
    assert batch.example_index.tolist() == [n for n, i in enumerate(piece) for _ in encoded[i].sequences]
    assert batch.targets.tolist() == [i * 10 for i in piece]
    assert (batch.step_examples, batch.step_sequences) == (7, 8)


windowed = st.tuples(st.integers(1, 5), st.integers(1, 3)).map(
    lambda shape: EncodedExample([[window, k] for window in range(shape[0]) for k in range(shape[1])], windows=shape[0])
)


@given(encoded=st.lists(windowed, min_size=1, max_size=8), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_an_epoch_sees_one_window_of_each_example_and_as_many_epochs_as_windows_see_all(encoded, seed, epoch):
    positions = range(len(encoded))
    for i, example in enumerate(encoded):
        turns = [epoch_examples(encoded, positions, seed, epoch + turn)[i] for turn in range(example.windows)]
        assert sorted(turn.sequences for turn in turns) == sorted(window.sequences for window in example.apart())
        assert all(turn.windows == 1 for turn in turns)


@given(encoded=st.lists(windowed, min_size=2, max_size=8), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_the_window_of_an_example_does_not_depend_on_the_others_of_its_update(encoded, seed, epoch):
    together = epoch_examples(encoded, range(len(encoded)), seed, epoch)
    assert together == [epoch_examples(encoded, [i], seed, epoch)[0] for i in range(len(encoded))]


def test_examples_begin_with_different_windows_and_seeds_with_others():
    encoded = [EncodedExample([[window] for window in range(4)], windows=4)] * 40
    first = [[e.sequences[0][0] for e in epoch_examples(encoded, range(40), seed, 0)] for seed in (0, 1)]
    assert set(first[0]) == {0, 1, 2, 3}
    assert first[0] != first[1]
