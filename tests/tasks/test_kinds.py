"""Figure 1: what the model sees of each kind of task, and what is cut when it is too long."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.tasks.kinds import (
    KINDS,
    EncodedExample,
    Example,
    Kind,
    encode_examples,
    example_texts,
    fixed_share_limits,
    longest_first_limits,
    truncation_warning,
)
from gpt1.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

VOCABULARY = 200
S, D, E = VOCABULARY, VOCABULARY + 1, VOCABULARY + 2

kinds = st.sampled_from(list(KINDS.values()))
RULES = [(cut, long) for cut in ("longest", "shares") for long in ("cut", "head-tail", "windows")]
RULES.remove(("shares", "windows"))  # finetune refuses it
rules = st.sampled_from(RULES)
cuts = st.sampled_from(["longest", "shares"])
texts = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)
contexts = st.integers(6, 80)


def coded(
    kind: Kind, fields: list[list[int]], answers: list[list[int]], context: int, cut: str, long: str = "cut"
) -> EncodedExample:
    example = Example(("",) * len(fields), ("",) * len(answers))
    (found,) = encode_examples(kind, [example], [*fields, *answers], VOCABULARY, context, cut, long)
    return found


@st.composite
def examples(draw: st.DrawFn) -> tuple[Kind, list[list[int]], list[list[int]]]:
    """(kind, fields, answers), as ids."""
    kind = draw(kinds)
    n_fields = sum(role != "choices" for role in kind.columns)
    fields = [draw(texts) for _ in range(n_fields)]
    return kind, fields, draw(st.lists(texts, min_size=2, max_size=5)) if kind.multiple_choice else []


@pytest.mark.parametrize(
    ("kind", "fields", "answers", "sequences"),
    [
        ("classification", [[1, 2]], [], [[S, 1, 2, E]]),
        ("regression", [[1, 2]], [], [[S, 1, 2, E]]),
        ("entailment", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E]]),
        ("similarity", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]]),
        ("choice", [[1, 2], [3]], [[4], [5, 6]], [[S, 1, 2, 3, D, 4, E], [S, 1, 2, 3, D, 5, 6, E]]),
    ],
)
def test_each_kind_is_laid_out_as_in_figure_1(kind, fields, answers, sequences):
    assert coded(KINDS[kind], fields, answers, 20, "longest") == EncodedExample(sequences, is_truncated=False)


@given(drawn=examples(), context=contexts, rule=rules)
def test_no_sequence_is_longer_than_the_context_and_special_tokens_always_survive(drawn, context, rule):
    kind, fields, answers = drawn
    for sequence in coded(kind, fields, answers, context, *rule).sequences:
        assert len(sequence) <= context
        assert sequence[0] == S
        assert sequence[-1] == E
        special = [token for token in sequence if token >= VOCABULARY]
        assert special == [S, *[D] * (len(kind.layout[0]) - 1), E]


@given(drawn=examples(), context=contexts, cut=cuts)
def test_what_is_left_of_a_text_is_its_beginning(drawn, context, cut):
    kind, fields, answers = drawn
    sequences = iter(coded(kind, fields, answers, context, cut).sequences)
    for groups in kind.layout:
        for answer in answers or [[]]:
            left = next(sequences)[1:-1]
            for number, group in enumerate(groups):
                own = left[: left.index(D)] if number < len(groups) - 1 else left
                left = left[len(own) + 1 :]
                for field in group:
                    text = [*fields, answer][field]
                    same = next((i for i, (a, b) in enumerate(zip(own, text, strict=False)) if a != b), None)
                    kept = min(len(own), len(text)) if same is None else same
                    own = own[kept:]
                assert not own  # nothing that is not of the fields, in their order


@given(drawn=examples(), context=contexts, cut=cuts)
def test_an_example_is_said_to_be_cut_exactly_when_a_token_is_missing(drawn, context, cut):
    kind, fields, answers = drawn
    found = coded(kind, fields, answers, context, cut)
    whole = coded(kind, fields, answers, 1000, "longest")
    assert not whole.is_truncated
    assert found.is_truncated == (found.sequences != whole.sequences)


@given(a=texts, b=texts, context=contexts, rule=rules)
@example(a=[1] * 30, b=[2] * 30, context=20, rule=("longest", "cut"))  # 17 tokens for both: one is odd
def test_similarity_sees_the_same_two_sequences_whichever_text_is_named_first(a, b, context, rule):
    one = coded(KINDS["similarity"], [a, b], [], context, *rule).split_windows()
    other = coded(KINDS["similarity"], [b, a], [], context, *rule).split_windows()
    assert [window.sequences for window in one] == [window.sequences[::-1] for window in other]


@given(drawn=examples(), context=contexts, rule=rules, data=st.data())
def test_the_order_of_the_answers_only_orders_the_sequences(drawn, context, rule, official_data):
    kind, fields, answers = drawn
    order = official_data.draw(st.permutations(range(len(answers))))
    straight = coded(kind, fields, answers, context, *rule).split_windows()
    if kind.multiple_choice:
        moved = coded(kind, fields, [answers[i] for i in order], context, *rule).split_windows()
        assert [w.sequences for w in moved] == [[w.sequences[i] for i in order] for w in straight]


# ---- too long: which tokens of a text stay


@st.composite
def lengthy(draw: st.DrawFn) -> tuple[Kind, list[list[int]], list[list[int]]]:
    """(kind, fields, answers) where every token occurs once, so that it can be told which ones are there."""
    kind = draw(kinds)
    n_fields = sum(role != "choices" for role in kind.columns)
    lengths = draw(
        st.lists(
            st.integers(0, 30),
            min_size=n_fields + 3 * kind.multiple_choice,
            max_size=n_fields + 3 * kind.multiple_choice,
        )
    )
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    found = [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]
    return kind, found[:n_fields], found[n_fields:]


def seen(window: EncodedExample, text: list[int]) -> list[int]:
    """The tokens of a text in the first sequence that has some of it."""
    own = set(text)
    return next((kept for sequence in window.sequences if (kept := [id for id in sequence if id in own])), [])


@given(drawn=lengthy(), context=contexts)
def test_in_windows_no_token_is_lost_and_a_text_is_read_on_in_each(drawn, context):
    kind, fields, answers = drawn
    windows = coded(kind, fields, answers, context, "longest", "windows").split_windows()
    cut = coded(kind, fields, answers, context, "longest")
    for text in (*fields, *answers):
        parts = [seen(window, text) for window in windows]
        limit = len(seen(cut, text))  # what would be left of it
        assert {id for part in parts for id in part} == set(text)
        assert all(len(part) == limit for part in parts)
        for part, following in pairwise(parts):
            assert part == list(range(part[0], part[0] + limit)) if part else not text
            if limit < len(text):
                assert len(set(part) & set(following)) >= limit // 4  # neighbours share a quarter
            else:
                assert part == following == text  # what fits stands whole in each


@given(drawn=lengthy(), context=contexts)
def test_there_are_no_more_windows_than_the_longest_text_needs(drawn, context):
    kind, fields, answers = drawn
    windows = coded(kind, fields, answers, context, "longest", "windows").windows
    cut = coded(kind, fields, answers, context, "longest")
    needed = []
    for text in (*fields, *answers):
        limit, count = len(seen(cut, text)), 1
        while limit < len(text) and limit + (count - 1) * (limit - limit // 4) < len(text):
            count += 1
        needed.append(count)
    assert windows == max(needed)


@given(drawn=lengthy(), context=contexts, cut=cuts)
def test_head_and_tail_are_as_long_as_a_cut_text_and_hold_its_first_and_last_tokens(drawn, context, cut):
    kind, fields, answers = drawn
    found = coded(kind, fields, answers, context, cut, "head-tail")
    shortened = coded(kind, fields, answers, context, cut)
    assert found.is_truncated == shortened.is_truncated
    for text in (*fields, *answers):
        kept, limit = seen(found, text), len(seen(shortened, text))
        assert len(kept) == limit
        if limit < len(text):
            head = math.ceil(limit / 4)
            assert kept == text[:head] + text[::-1][: limit - head][::-1]


@given(drawn=examples(), context=contexts)
def test_what_fits_is_the_same_under_every_rule(drawn, context):
    kind, fields, answers = drawn
    whole = coded(kind, fields, answers, context, "longest")
    if not whole.is_truncated:
        for long in ("head-tail", "windows"):
            assert coded(kind, fields, answers, context, "longest", long) == whole


@given(drawn=examples(), context=contexts, rule=rules)
def test_windows_apart_are_the_sequences_of_the_example(drawn, context, rule):
    kind, fields, answers = drawn
    found = coded(kind, fields, answers, context, *rule)
    windows = found.split_windows()
    assert len(windows) == found.windows
    assert [sequence for window in windows for sequence in window.sequences] == found.sequences
    assert all(len(window.sequences) == kind.sequences * max(1, len(answers)) for window in windows)


@given(drawn=examples(), context=contexts, rule=rules)
def test_the_rows_of_an_example_hold_its_sequences_and_those_of_its_windows(drawn, context, rule):
    found = replace(coded(*drawn, context, *rule), shared_prefix=drawn[0].multiple_choice)
    sequences = []
    for ids, row in found.packed_rows:
        ends = [row.prefix + sum(row.suffixes[:k]) for k in range(len(row.suffixes) + 1)]
        sequences += [ids[: row.prefix] + ids[a:b] for a, b in pairwise(ends)]
        assert len(ids) == row.tokens == ends[-1]
    assert sequences == found.sequences
    assert [row for window in found.split_windows() for row in window.packed_rows] == found.packed_rows
    assert found.max_row_tokens == max(window.max_row_tokens for window in found.split_windows())


@pytest.mark.parametrize(
    ("context", "answers", "rows"),
    [(400, [10] * 4, 1), (40, [30] * 4, 1), (100, [10] * 50, 1), (5, [400] * 20, 20), (0, [400] * 2, 2)],
)
def test_answers_are_computed_together_where_that_is_less_work(context, answers, rows):
    texts = [[k] * length for k, length in enumerate(answers)]
    (found,) = encode_examples(
        KINDS["choice"],
        [Example(("", ""), ("",) * len(answers))],
        [[7] * context, [], *texts],
        60,
        512,
        shared_prefix=True,
    )
    assert len(found.packed_rows) == rows


def test_what_became_of_long_texts_is_told():
    texts = [[1] * 30, [1] * 5, [1] * 5, [1] * 5]
    told = []
    for long in ("cut", "head-tail", "windows"):
        found = encode_examples(KINDS["classification"], [Example(("",))] * 4, texts, VOCABULARY, 20, long=long)
        told.append(truncation_warning(found, 20, long))
    assert told == [
        "25.0% of the texts cut at 20 tokens",
        "25.0% of the texts cut at 20 tokens, head and tail kept",
        "25.0% of the texts read in windows of 20 tokens (2.0 each)",
    ]


lengths = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@given(lengths=lengths, budget=st.integers(0, 200))
def test_nothing_is_cut_that_fits_and_what_does_not_fit_fits_afterwards(lengths, budget):
    limits = longest_first_limits(lengths, budget)
    assert all(0 <= limit <= length for limit, length in zip(limits, lengths, strict=True))
    if sum(lengths) <= budget:
        assert limits == lengths
    else:
        assert budget - len(lengths) < sum(limits) <= budget  # an odd token may be lost so that equals stay equal


@given(lengths=lengths, budget=st.integers(0, 200))
def test_the_longest_is_cut_first_and_equals_alike(lengths, budget):
    limits = longest_first_limits(lengths, budget)
    for limit, length in zip(limits, lengths, strict=True):
        if limit < length:
            assert limit == max(limits)


@given(lengths=st.lists(st.integers(0, 50), min_size=4, max_size=4), share=st.integers(0, 60))
def test_in_fixed_shares_each_group_has_its_own_and_its_first_field_comes_first(lengths, share):
    limits = fixed_share_limits(((0, 1), (2, 3)), lengths, share)
    for first, second in ((0, 1), (2, 3)):
        assert limits[first] == min(lengths[first], share)
        assert limits[second] == min(lengths[second], share - limits[first])


def test_the_releases_share_of_two_fields_of_512_is_254():
    assert max(map(len, coded(KINDS["entailment"], [[1] * 999, [2]], [], 512, "shares").sequences)) == 254 + 1 + 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_context_that_holds_little_more_than_special_tokens_is_refused(kind: Kind):
    groups = kind.layout[0]
    shortest = len(groups) + 1 + sum(map(len, groups))  # the special tokens, and a token of each text
    fields = [[1]] * sum(role != "choices" for role in kind.columns)
    answers = [[1], [2]] if kind.multiple_choice else []
    with pytest.raises(UserError, match=f"{shortest - 1} tokens is too short for {kind.name}"):
        coded(kind, fields, answers, shortest - 1, "longest")
    coded(kind, fields, answers, shortest, "longest")


def test_the_texts_of_examples_stand_in_the_order_in_which_encode_takes_them():
    examples = [Example(("a", "b"), ("c", "d")), Example(("e", "f"), ("g",))]
    ids = {text: [number] for number, text in enumerate(example_texts(examples))}
    found = encode_examples(KINDS["choice"], examples, [ids[text] for text in example_texts(examples)], VOCABULARY, 9)
    assert [e.sequences for e in found] == [[[S, 0, 1, D, 2, E], [S, 0, 1, D, 3, E]], [[S, 4, 5, D, 6, E]]]


@pytest.fixture(scope="module", params=["lossless", "original"])
def any_tokenizer(request: pytest.FixtureRequest, prose: list[str]) -> Tokenizer:
    return Tokenizer.train(prose[:40], vocab_size=280, pipeline=request.param)


SPELLINGS = [
    *SPECIAL_TOKENS,
    "<s>",
    "</s>",
    "<e>",
    "$",
    "<unk>",
    "<|endoftext|>",
    "_start_",
    "_delimiter_",
    "_classify_",
]


@given(text=st.text(max_size=30) | st.lists(st.sampled_from(SPELLINGS) | st.text(max_size=5)).map(" ".join))
def test_no_text_encodes_to_a_special_token(any_tokenizer, text):
    assert all(0 <= id < any_tokenizer.vocab_size for id in any_tokenizer.encode(text))
