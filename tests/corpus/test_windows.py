"""Windows of a corpus: each once per epoch, and no validation token in training."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt1.corpus.corpus import Corpus
from gpt1.corpus.split import CorpusPart
from gpt1.corpus.windows import CorpusWindows, split_corpus, unigram_loss
from gpt1.errors import UserError


class Numbered:
    """A corpus whose tokens equal their positions; reading out of range fails. By default it is one document."""

    def __init__(self, tokens: int, starts: Sequence[int] = (0,)) -> None:
        self.tokens = tokens
        self.starts = np.array(starts)

    def read(self, start: int, stop: int) -> Any:
        assert 0 <= start <= stop <= self.tokens
        return np.arange(start, stop)

    def document_starts(self) -> Any:
        return self.starts


def make_numbered_corpus(tokens: int, starts: Sequence[int] = (0,)) -> Corpus:
    return cast(Corpus, Numbered(tokens, starts))


def make_whole_part(tokens: int) -> CorpusPart:
    return CorpusPart.from_ranges(make_numbered_corpus(tokens), [(0, tokens)])


def make_numbered_documents(lengths: Sequence[int]) -> Corpus:
    return make_numbered_corpus(sum(lengths), [0, *np.cumsum(lengths)[:-1].tolist()])


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """(tokens, context) with at least one window, often with no or one token left over."""
    context = draw(st.integers(2, 20))
    spare = draw(st.sampled_from([0, 1, context - 1]))
    return draw(st.integers(1, 30)) * context + 1 + spare, context


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Corpus, int]:
    """(corpus of one, few or many documents, context) with at least one window."""
    tokens, context = draw(sizes())
    longest = draw(st.sampled_from([2, 10, tokens]))
    lengths = draw(st.lists(st.integers(2, max(2, longest)), max_size=tokens // 4))
    starts = [start for start in [0, *np.cumsum(lengths).tolist()] if start <= max(0, tokens - 2)]
    return make_numbered_corpus(tokens, starts), context


fractions = st.floats(0, 0.5) | st.just(0.5)
splits = st.sampled_from(["documents", "end"])


def read_all(windows: CorpusWindows) -> NDArray[np.int64]:
    return windows.text.read(0, windows.text.tokens)


@given(drawn=corpora(), fraction=fractions, epoch=st.integers(0, 3), split=splits)
def test_the_windows_of_an_epoch_are_adjacent_and_each_is_read_once(drawn, fraction, epoch, split):
    corpus, context = drawn
    train, _ = split_corpus(corpus, context, fraction, split)
    per_epoch = train.count_steps(1, 3)
    batches = [train.training_batch(epoch * per_epoch + i, 3, seed=5) for i in range(per_epoch)]
    windows = np.concatenate([ids for _, ids in batches])
    assert {batch_epoch for batch_epoch, _ in batches} == {epoch}
    assert windows.shape == (train.n, context + 1)
    positions = np.searchsorted(read_all(train), windows)  # in the text for training
    assert (np.diff(positions) == 1).all()  # contiguous text
    predicted = np.sort(positions[:, 1:].ravel())
    assert (np.diff(predicted) == 1).all()  # adjacent: no token is predicted twice or skipped


@given(drawn=corpora(), fraction=fractions, seed=st.integers(0, 2**31 - 1), split=splits)
def test_training_never_reads_a_validation_token(drawn, fraction, seed, split):
    corpus, context = drawn
    train, validation = split_corpus(corpus, context, fraction, split)
    seen = {
        int(i) for step in range(3 * train.count_steps(1, 4)) for i in train.training_batch(step, 4, seed)[1].ravel()
    }
    if validation is None:
        return
    valid_tokens = {int(i) for i in validation.read(np.arange(validation.n)).ravel()}
    assert not seen & valid_tokens
    assert seen <= set(read_all(train).tolist())
    assert valid_tokens <= set(read_all(validation).tolist())


@given(drawn=corpora(), fraction=fractions, split=splits)
def test_the_two_texts_together_are_the_corpus(drawn, fraction, split):
    corpus, context = drawn
    train, validation = split_corpus(corpus, context, fraction, split)
    both = [read_all(train), *([read_all(validation)] if validation else [])]
    assert np.sort(np.concatenate(both)).tolist() == list(range(corpus.tokens))


@given(drawn=corpora(), fraction=st.floats(0.001, 0.5), split=splits)
def test_a_positive_fraction_gives_validation_windows_if_two_windows_fit(drawn, fraction, split):
    corpus, context = drawn
    train, validation = split_corpus(corpus, context, fraction, split)
    assert (validation is not None) == (corpus.tokens >= 2 * context + 2)
    assert min(part.text.tokens for part in (train, validation or train)) > context


@given(tokens=st.integers(100, 600), context=st.integers(2, 8), split=splits)
def test_a_fraction_of_zero_gives_no_validation_windows(tokens, context, split):
    train, validation = split_corpus(make_numbered_corpus(tokens), context, 0.0, split)
    assert validation is None
    assert train.text.tokens == tokens


@given(tokens=st.integers(400, 2000), context=st.integers(2, 8), fraction=st.floats(0.01, 0.5), split=splits)
def test_the_validation_share_is_the_requested_fraction(tokens, context, fraction, split):
    _, validation = split_corpus(make_numbered_corpus(tokens), context, fraction, split)
    assert validation is not None
    assert abs(validation.text.tokens / tokens - fraction) <= (context + 2) / tokens + 1e-9


# ---- validation text in whole documents


@given(
    lengths=st.lists(st.integers(2, 60), min_size=100, max_size=400),
    fraction=st.floats(0.05, 0.3),
    context=st.integers(2, 20),
)
def test_validation_documents_are_whole_and_have_the_share(lengths, fraction, context):
    corpus = make_numbered_documents(lengths)
    starts = corpus.document_starts()
    train, validation = split_corpus(corpus, context, fraction)
    assert validation is not None
    documents = [set(np.searchsorted(starts, read_all(part), "right").tolist()) for part in (train, validation)]
    assert not documents[0] & documents[1]
    assert abs(validation.text.tokens - fraction * corpus.tokens) <= 30 + 1  # half of the longest document


def test_validation_documents_come_from_everywhere_in_the_corpus():
    corpus = make_numbered_documents([50] * 10_000)
    _, validation = split_corpus(corpus, 16, 0.01)
    assert validation is not None
    found = read_all(validation) / corpus.tokens
    assert len(read_all(validation)) == 5_000
    counts, _ = np.histogram(found, bins=5, range=(0, 1))
    assert counts.min() > 500  # 1,000 each, were they even


def test_the_validation_documents_do_not_depend_on_the_context_or_the_seed_of_a_run():
    corpus = make_numbered_documents([50] * 1000)
    texts = [split_corpus(corpus, context, 0.05)[1] for context in (8, 64, 128)]
    assert len({tuple(read_all(text)) for text in texts if text}) == 1


def test_a_document_longer_than_the_share_is_not_validation_text_if_others_are():
    corpus = make_numbered_documents([100_000, *[50] * 1000, 100_000])
    _, validation = split_corpus(corpus, 16, 0.01)
    assert validation is not None
    found = read_all(validation)
    assert ((found >= 100_000) & (found < 150_000)).all()


@pytest.mark.parametrize("lengths", [[1_000_000], [300_000, 500_000, 200_000]])
def test_long_documents_give_pieces_at_even_distances(lengths: list[int]):
    corpus = make_numbered_documents(lengths)
    _, validation = split_corpus(corpus, 64, 0.02)
    assert validation is not None
    found = read_all(validation)
    assert len(found) == 20_000
    counts, _ = np.histogram(found, bins=16, range=(0, 1_000_000))
    assert counts.tolist() == [1250] * 16
    assert found[-1] == 999_999


def test_few_short_documents_are_taken_whole_and_long_ones_add_what_is_missing():
    corpus = make_numbered_documents([500_000, 10, 500_000, 20])
    _, validation = split_corpus(corpus, 16, 0.01)
    assert validation is not None
    found = set(read_all(validation).tolist())
    assert {*range(500_000, 500_010), *range(1_000_010, 1_000_030)} <= found
    assert len(found) == 10_000


def test_every_validation_window_is_used_except_by_the_split_of_earlier_versions():
    for split, expected in (("documents", 10), ("end", 9)):
        corpus = make_numbered_corpus(1010)  # a share of 0.1 is 101 tokens
        _, validation = split_corpus(corpus, 10, 0.1, split)
        assert validation is not None
        assert validation.n == expected


def test_the_split_of_earlier_versions_is_unchanged():
    train, validation = split_corpus(make_numbered_documents([100] * 10), 16, 0.1, "end")
    assert validation is not None
    assert read_all(train).tolist() == list(range(903))
    assert read_all(validation).tolist() == list(range(903, 1000))
    assert (train.n, train.max_shift, validation.n) == (55, 22, 5)
    assert train.training_batch(7, 4, seed=3)[1][:, 0].tolist() == [282, 202, 186, 762]


def test_the_window_boundaries_differ_between_epochs():
    train, _ = split_corpus(make_numbered_corpus(1000), 16, 0.1)
    per_epoch = train.count_steps(1, 8)
    starts = {int(train.training_batch(epoch * per_epoch, 8, seed=0)[1][0, 0]) % 16 for epoch in range(20)}
    assert len(starts) > 5


def test_a_batch_is_a_pure_function_of_its_step():
    train, _ = split_corpus(make_numbered_corpus(1000), 16, 0.1)
    again, _ = split_corpus(make_numbered_corpus(1000), 16, 0.1)
    forward = [train.training_batch(step, 8, seed=3)[1].tolist() for step in range(20)]
    backward = [again.training_batch(step, 8, seed=3)[1].tolist() for step in reversed(range(20))]
    assert forward == backward[::-1]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (2, 10), (0.5, 3), (0.01, 1)])
def test_epochs_are_converted_to_steps(epochs: float, steps: int):
    windows = CorpusWindows(make_whole_part(8 * 20 + 1), 8)  # 19 windows; the length of a 20th is max_shift
    assert windows.n == 19
    assert windows.count_steps(epochs, 4) == steps


@given(n=st.integers(1, 200), count=st.integers(1, 300))
def test_validation_windows_are_evenly_spaced(n, count):
    windows = CorpusWindows(make_whole_part((n + 1) * 4 + 1), 4)
    chosen = windows.evenly_spaced(count)
    assert len(chosen) == min(n, count) == len(set(chosen))
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == n - 1
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_corpus_shorter_than_one_window_is_an_error():
    with pytest.raises(UserError) as error:
        split_corpus(make_numbered_corpus(64), 64, 0.1)
    assert "64 tokens" in error.value.problem
    assert "--context 63" in error.value.fix
    assert split_corpus(make_numbered_corpus(64), 63, 0.1)[0].n == 1


@given(st.integers(0, 9))
def test_the_context_suggested_for_a_short_corpus_works(tokens):
    with pytest.raises(UserError) as error:
        split_corpus(make_numbered_corpus(tokens), 64, 0.1)
    suggestion = re.search(r"--context (\d+) or less", error.value.fix)
    assert bool(suggestion) == (tokens > 2)  # the minimum context is 2
    if suggestion:
        assert split_corpus(make_numbered_corpus(tokens), int(suggestion[1]), 0.1)[0].n == 1


def test_the_unigram_loss_equals_the_loss_of_counted_frequencies():
    tokens = np.random.default_rng(0).zipf(1.5, 500) % 30

    class Words(Numbered):
        def read(self, start: int, stop: int) -> Any:
            return tokens[start:stop]

    starts = np.arange(0, 500, 20).tolist()
    train, validation = split_corpus(cast(Corpus, Words(500, starts)), 10, 0.2)
    assert validation is not None
    assert len(validation.text.starts) > 1
    counts, text = Counter(read_all(train).tolist()), read_all(validation)
    predicted = [int(i) for w in range(validation.n) for i in text[w * 10 :][1:11]]
    expected = -sum(math.log((counts[i] + 1) / (train.text.tokens + 30)) for i in predicted) / len(predicted)
    assert unigram_loss(train, validation, 100, vocab_size=30) == pytest.approx(expected, rel=1e-12)
