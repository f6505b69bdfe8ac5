"""Windows of a corpus: each once per epoch, and no validation token in training."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus.corpus import Corpus
from gpt1.corpus.windows import CorpusWindows, split_corpus, unigram_loss
from gpt1.errors import UserError


class Numbered:
    """A corpus whose tokens equal their positions; reading out of range fails."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def read(self, start: int, stop: int) -> Any:
        assert 0 <= start <= stop <= self.tokens
        return np.arange(start, stop)


def numbered(tokens: int) -> Corpus:
    return cast(Corpus, Numbered(tokens))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """(tokens, context) with at least one window, often with no or one token left over."""
    context = draw(st.integers(2, 20))
    spare = draw(st.sampled_from([0, 1, context - 1]))
    return draw(st.integers(1, 30)) * context + 1 + spare, context


fractions = st.floats(0, 0.5) | st.just(0.5)


@given(size=sizes(), fraction=fractions, epoch=st.integers(0, 3))
def test_the_windows_of_an_epoch_are_adjacent_and_each_is_read_once(size, fraction, epoch):
    tokens, context = size
    train, _ = split_corpus(numbered(tokens), context, fraction)
    per_epoch = train.count_steps(1, 3)
    batches = [train.training_batch(epoch * per_epoch + i, 3, seed=5) for i in range(per_epoch)]
    windows = np.concatenate([ids for _, ids in batches])
    assert {batch_epoch for batch_epoch, _ in batches} == {epoch}
    assert windows.shape == (train.n, context + 1)
    assert (np.diff(windows) == 1).all()  # contiguous text
    predicted = np.sort(windows[:, 1:].ravel())
    assert (np.diff(predicted) == 1).all()  # adjacent: no token is predicted twice or skipped


@given(size=sizes(), fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_training_never_reads_a_validation_token(size, fraction, seed):
    tokens, context = size
    train, validation = split_corpus(numbered(tokens), context, fraction)
    seen = {
        int(i) for step in range(3 * train.count_steps(1, 4)) for i in train.training_batch(step, 4, seed)[1].ravel()
    }
    if validation is None:
        return
    valid_tokens = {int(i) for i in validation.read(np.arange(validation.n)).ravel()}
    assert not seen & valid_tokens
    assert max(seen) < min(valid_tokens)


@given(size=sizes(), fraction=st.floats(0.001, 0.5))
def test_a_positive_fraction_gives_validation_windows_if_two_windows_fit(size, fraction):
    tokens, context = size
    _, validation = split_corpus(numbered(tokens), context, fraction)
    assert (validation is not None) == (tokens >= 2 * context + 2)


@given(tokens=st.integers(100, 600), context=st.integers(2, 8))
def test_a_fraction_of_zero_gives_no_validation_windows(tokens, context):
    train, validation = split_corpus(numbered(tokens), context, 0.0)
    assert validation is None
    assert train.stop == tokens


@given(tokens=st.integers(400, 2000), context=st.integers(2, 8), fraction=st.floats(0.01, 0.5))
def test_the_validation_share_is_the_requested_fraction(tokens, context, fraction):
    _, validation = split_corpus(numbered(tokens), context, fraction)
    assert validation is not None
    assert abs((validation.stop - validation.start) / tokens - fraction) <= (context + 2) / tokens + 1e-9


def test_the_window_boundaries_differ_between_epochs():
    train, _ = split_corpus(numbered(1000), 16, 0.1)
    per_epoch = train.count_steps(1, 8)
    starts = {int(train.training_batch(epoch * per_epoch, 8, seed=0)[1][0, 0]) % 16 for epoch in range(20)}
    assert len(starts) > 5


def test_a_batch_is_a_pure_function_of_its_step():
    train, _ = split_corpus(numbered(1000), 16, 0.1)
    again, _ = split_corpus(numbered(1000), 16, 0.1)
    forward = [train.training_batch(step, 8, seed=3)[1].tolist() for step in range(20)]
    backward = [again.training_batch(step, 8, seed=3)[1].tolist() for step in reversed(range(20))]
    assert forward == backward[::-1]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (2, 10), (0.5, 3), (0.01, 1)])
def test_epochs_are_converted_to_steps(epochs: float, steps: int):
    windows = CorpusWindows(numbered(8 * 20 + 1), 0, 8 * 20 + 1, 8)  # 19 windows; the length of a 20th is slack
    assert windows.n == 19
    assert windows.count_steps(epochs, 4) == steps


@given(n=st.integers(1, 200), count=st.integers(1, 300))
def test_validation_windows_are_evenly_spaced(n, count):
    windows = CorpusWindows(numbered((n + 1) * 4 + 1), 0, (n + 1) * 4 + 1, 4)
    chosen = windows.evenly_spaced(count)
    assert len(chosen) == min(n, count) == len(set(chosen))
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == n - 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_corpus_shorter_than_one_window_is_an_error():
    with pytest.raises(UserError) as error:
        split_corpus(numbered(64), 64, 0.1)
    assert "64 tokens" in error.value.problem
    assert "--context 63" in error.value.fix
    assert split_corpus(numbered(64), 63, 0.1)[0].n == 1


@given(st.integers(0, 9))
def test_the_context_suggested_for_a_short_corpus_works(tokens):
    with pytest.raises(UserError) as error:
        split_corpus(numbered(tokens), 64, 0.1)
    suggestion = re.search(r"--context (\d+) or less", error.value.fix)
    assert bool(suggestion) == (tokens > 2)  # the minimum context is 2
    if suggestion:
        assert split_corpus(numbered(tokens), int(suggestion[1]), 0.1)[0].n == 1


def test_the_unigram_loss_equals_the_loss_of_counted_frequencies():
    tokens = np.random.default_rng(0).zipf(1.5, 500) % 30

    class Words(Numbered):
        def read(self, start: int, stop: int) -> Any:
            return tokens[start:stop]

    train, validation = split_corpus(cast(Corpus, Words(500)), 10, 0.2)
    assert validation is not None
    counts = Counter(tokens[: train.stop].tolist())
    predicted = [int(i) for w in range(validation.n) for i in tokens[validation.start + w * 10 :][1:11]]
    expected = -sum(math.log((counts[i] + 1) / (train.stop + 30)) for i in predicted) / len(predicted)
    assert unigram_loss(train, validation, 100, vocab_size=30) == pytest.approx(expected, rel=1e-12)
