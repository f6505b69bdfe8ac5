"""The order of the samples: a permutation for every epoch that needs no saved state."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus.order import batch_indices, count_steps, derive_seed, shuffled_indices, steps_per_epoch

seeds = st.integers(0, 2**31 - 1)
epochs = st.integers(0, 10_000)


@given(n=st.integers(1, 3000), seed=seeds, epoch=epochs)
def test_the_order_is_a_permutation_of_all_samples(n: int, seed: int, epoch: int):
    assert sorted(shuffled_indices(np.arange(n), n, seed, epoch)) == list(range(n))


@given(n=st.integers(1, 3000), seed=seeds, epoch=epochs, data=st.data())
def test_the_sample_at_a_position_does_not_depend_on_the_other_positions(n: int, seed: int, epoch: int, data):
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = shuffled_indices(positions, n, seed, epoch)
    assert list(together) == [int(shuffled_indices(np.array([p]), n, seed, epoch)[0]) for p in positions]


@given(n=st.integers(1, 400), batch_size=st.integers(1, 64), seed=seeds, epoch=st.integers(0, 5))
def test_the_batches_of_an_epoch_contain_every_sample_once(n: int, batch_size: int, seed: int, epoch: int):
    per_epoch = steps_per_epoch(n, batch_size)
    batches = [batch_indices(epoch * per_epoch + i, n, batch_size, seed) for i in range(per_epoch)]
    assert all(batch_epoch == epoch for batch_epoch, _ in batches)
    assert all(len(samples) == batch_size for _, samples in batches[:-1])
    assert sorted(np.concatenate([samples for _, samples in batches])) == list(range(n))


@given(seed=seeds, epoch=epochs)
def test_the_order_depends_on_the_epoch_and_the_seed(seed: int, epoch: int):
    positions = np.arange(100)
    order = list(shuffled_indices(positions, 100, seed, epoch))
    assert order != list(shuffled_indices(positions, 100, seed, epoch + 1))
    assert order != list(shuffled_indices(positions, 100, seed + 1, epoch))


def test_a_trillion_samples_need_no_list_of_all_samples():
    n = 10**12 + 7
    samples = shuffled_indices(np.arange(5000), n, 1, 2)
    assert len(set(samples)) == 5000
    assert samples.min() >= 0
    assert samples.max() < n
    assert abs(samples.mean() / n - 0.5) < 0.02


def test_every_position_is_equally_likely_for_every_sample():
    n, tries = 11, 2200
    counts = np.zeros((n, n))
    for seed in range(tries):
        counts[np.arange(n), shuffled_indices(np.arange(n), n, seed, seed % 7)] += 1
    expected = tries / n
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 100 + 4 * np.sqrt(2 * 100)  # (n - 1)² degrees of freedom, four standard deviations


def test_neighbors_do_not_stay_neighbors():
    order = shuffled_indices(np.arange(5000), 5000, 3, 0)
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.003  # expected for a random permutation: 2 in 5000


@given(st.lists(st.integers(0, 2**63), min_size=2, max_size=4, unique=True))
def test_a_derived_seed_depends_on_every_number_and_their_order(numbers: list[int]):
    seed = derive_seed(*numbers)
    assert 0 <= seed < 2**63
    assert seed != derive_seed(*reversed(numbers))
    for i in range(len(numbers)):
        assert seed != derive_seed(*numbers[:i], numbers[i] + 1, *numbers[i + 1 :])


@given(tenths=st.integers(1, 1000), per_epoch=st.integers(1, 10**9))
def test_epochs_are_rounded_up_to_whole_steps(tenths: int, per_epoch: int):
    """In exact fractions: 1.1 epochs of 100 steps are 110."""
    assert count_steps(tenths / 10, per_epoch) == math.ceil(Fraction(tenths, 10) * per_epoch)
    assert count_steps(tenths / per_epoch, per_epoch) == tenths
