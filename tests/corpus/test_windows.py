"""Windows of a corpus: every one once an epoch, and never a held-out token in training."""

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
    """A corpus whose tokens are their positions, and which refuses to read what it does not hold."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def read(self, start: int, stop: int) -> Any:
        assert 0 <= start <= stop <= self.tokens
        return np.arange(start, stop)


def numbered(tokens: int) -> Corpus:
    return cast(Corpus, Numbered(tokens))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """(tokens, context) that hold one window at least, often with no token or one to spare."""
    context = draw(st.integers(2, 20))
    spare = draw(st.sampled_from([0, 1, context - 1]))
    return draw(st.integers(1, 30)) * context + 1 + spare, context


fractions = st.floats(0, 0.5) | st.just(0.5)


@given(size=sizes(), fraction=fractions, epoch=st.integers(0, 3))
def test_every_window_of_an_epoch_is_read_once_and_none_overlap(size, fraction, epoch):
    tokens, context = size
    train, _ = split_corpus(numbered(tokens), context, fraction)
    per_epoch = train.count_steps(1, 3)
    updates = [train.training_batch(epoch * per_epoch + i, 3, seed=5) for i in range(per_epoch)]
    windows = np.concatenate([ids for _, ids in updates])
    assert {of for of, _ in updates} == {epoch}
    assert windows.shape == (train.n, context + 1)
    assert (np.diff(windows) == 1).all()  # contiguous text
    predicted = np.sort(windows[:, 1:].ravel())
    assert (np.diff(predicted) == 1).all()  # side by side: no token is predicted twice, none between them is left out


@given(size=sizes(), fraction=fractions, seed=st.integers(0, 2**31 - 1))
def test_training_never_sees_a_held_out_token(size, fraction, seed):
    tokens, context = size
    train, held_out = split_corpus(numbered(tokens), context, fraction)
    seen = {
        int(i) for step in range(3 * train.count_steps(1, 4)) for i in train.training_batch(step, 4, seed)[1].ravel()
    }
    if held_out is None:
        return
    asked = {int(i) for i in held_out.read(np.arange(held_out.n)).ravel()}
    assert not seen & asked
    assert max(seen) < min(asked)


@given(size=sizes(), fraction=st.floats(0.001, 0.5))
def test_text_is_held_out_wherever_two_windows_fit(size, fraction):
    tokens, context = size
    _, held_out = split_corpus(numbered(tokens), context, fraction)
    assert (held_out is not None) == (tokens >= 2 * context + 2)


@given(tokens=st.integers(100, 600), context=st.integers(2, 8))
def test_nothing_is_held_out_of_a_fraction_of_nothing(tokens, context):
    train, held_out = split_corpus(numbered(tokens), context, 0.0)
    assert held_out is None
    assert train.stop == tokens


@given(tokens=st.integers(400, 2000), context=st.integers(2, 8), fraction=st.floats(0.01, 0.5))
def test_the_held_out_share_is_the_one_asked_for(tokens, context, fraction):
    _, held_out = split_corpus(numbered(tokens), context, fraction)
    assert held_out is not None
    assert abs((held_out.stop - held_out.start) / tokens - fraction) <= (context + 2) / tokens + 1e-9


def test_the_windows_of_another_epoch_are_cut_at_other_places():
    train, _ = split_corpus(numbered(1000), 16, 0.1)
    per_epoch = train.count_steps(1, 8)
    starts = {int(train.training_batch(epoch * per_epoch, 8, seed=0)[1][0, 0]) % 16 for epoch in range(20)}
    assert len(starts) > 5


def test_an_update_is_a_pure_function_of_its_step():
    train, _ = split_corpus(numbered(1000), 16, 0.1)
    again, _ = split_corpus(numbered(1000), 16, 0.1)
    forward = [train.training_batch(step, 8, seed=3)[1].tolist() for step in range(20)]
    backward = [again.training_batch(step, 8, seed=3)[1].tolist() for step in reversed(range(20))]
    assert forward == backward[::-1]


@pytest.mark.parametrize(("epochs", "updates"), [(1, 5), (2, 10), (0.5, 3), (0.01, 1)])
def test_epochs_are_counted_in_updates(epochs: float, updates: int):
    windows = CorpusWindows(numbered(8 * 20 + 1), 0, 8 * 20 + 1, 8)  # 19 windows, the 20th is what the grid moves in
    assert windows.n == 19
    assert windows.count_steps(epochs, 4) == updates


@given(n=st.integers(1, 200), count=st.integers(1, 300))
def test_measured_windows_are_spread_evenly_over_all(n, count):
    windows = CorpusWindows(numbered((n + 1) * 4 + 1), 0, (n + 1) * 4 + 1, 4)
    chosen = windows.evenly_spaced(count)
    assert len(chosen) == min(n, count) == len(set(chosen))
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == n - 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_corpus_shorter_than_one_window_is_refused():
    with pytest.raises(UserError) as refused:
        split_corpus(numbered(64), 64, 0.1)
    assert "64 tokens" in refused.value.problem
    assert "--context 63" in refused.value.fix
    assert split_corpus(numbered(64), 63, 0.1)[0].n == 1


@given(st.integers(0, 9))
def test_what_a_refused_corpus_is_advised_to_do_works(tokens):
    with pytest.raises(UserError) as refused:
        split_corpus(numbered(tokens), 64, 0.1)
    advised = re.search(r"--context (\d+) or less", refused.value.fix)
    assert bool(advised) == (tokens > 2)  # a context has two tokens at least
    if advised:
        assert split_corpus(numbered(tokens), int(advised[1]), 0.1)[0].n == 1


def test_the_unigram_loss_is_the_one_of_counted_words():
    tokens = np.random.default_rng(0).zipf(1.5, 500) % 30

    class Words(Numbered):
        def read(self, start: int, stop: int) -> Any:
            return tokens[start:stop]

    train, held_out = split_corpus(cast(Corpus, Words(500)), 10, 0.2)
    assert held_out is not None
    counts = Counter(tokens[: train.stop].tolist())
    asked = [int(i) for w in range(held_out.n) for i in tokens[held_out.start + w * 10 :][1:11]]
    expected = -sum(math.log((counts[i] + 1) / (train.stop + 30)) for i in asked) / len(asked)
    assert unigram_loss(train, held_out, 100, vocab_size=30) == pytest.approx(expected, rel=1e-12)
