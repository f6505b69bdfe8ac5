"""Input transformations of figure 1: the sequences of each kind of task, and how long texts are truncated."""

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


def encode(
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
def test_each_kind_has_the_sequences_of_figure_1(kind, fields, answers, sequences):
    assert encode(KINDS[kind], fields, answers, 20, "longest") == EncodedExample(sequences, is_truncated=False)


@given(drawn=examples(), context=contexts, rule=rules)
def test_no_sequence_exceeds_the_context_or_lacks_a_special_token(drawn, context, rule):
    kind, fields, answers = drawn
    for sequence in encode(kind, fields, answers, context, *rule).sequences:
        assert len(sequence) <= context
        assert sequence[0] == S
        assert sequence[-1] == E
        special = [token for token in sequence if token >= VOCABULARY]
        assert special == [S, *[D] * (len(kind.layout[0]) - 1), E]


@given(drawn=examples(), context=contexts, cut=cuts)
def test_a_truncated_text_keeps_its_beginning(drawn, context, cut):
    kind, fields, answers = drawn
    sequences = iter(encode(kind, fields, answers, context, cut).sequences)
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
                assert not own  # nothing but tokens of the fields, in their order


@given(drawn=examples(), context=contexts, cut=cuts)
def test_is_truncated_means_that_a_token_is_missing(drawn, context, cut):
    kind, fields, answers = drawn
    found = encode(kind, fields, answers, context, cut)
    whole = encode(kind, fields, answers, 1000, "longest")
    assert not whole.is_truncated
    assert found.is_truncated == (found.sequences != whole.sequences)


@given(a=texts, b=texts, context=contexts, rule=rules)
@example(a=[1] * 30, b=[2] * 30, context=20, rule=("longest", "cut"))  # 17 tokens for both: odd
def test_similarity_has_the_same_two_sequences_in_either_order_of_the_texts(a, b, context, rule):
    one = encode(KINDS["similarity"], [a, b], [], context, *rule).split_windows()
    other = encode(KINDS["similarity"], [b, a], [], context, *rule).split_windows()
    assert [window.sequences for window in one] == [window.sequences[::-1] for window in other]


@given(drawn=examples(), context=contexts, rule=rules, data=st.data())
def test_permuted_answers_give_permuted_sequences(drawn, context, rule, data):
    kind, fields, answers = drawn
    order = data.draw(st.permutations(range(len(answers))))
    original = encode(kind, fields, answers, context, *rule).split_windows()
    if kind.multiple_choice:
        permuted = encode(kind, fields, [answers[i] for i in order], context, *rule).split_windows()
        assert [w.sequences for w in permuted] == [[w.sequences[i] for i in order] for w in original]


# ---- long texts


@st.composite
def long_examples(draw: st.DrawFn) -> tuple[Kind, list[list[int]], list[list[int]]]:
    """(kind, fields, answers) in which every token occurs once, so that each can be recognized."""
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


def find_tokens(window: EncodedExample, text: list[int]) -> list[int]:
    """The tokens of a text in the first sequence that contains some of it."""
    own = set(text)
    return next((kept for sequence in window.sequences if (kept := [id for id in sequence if id in own])), [])


@given(drawn=long_examples(), context=contexts)
def test_windows_cover_every_token_and_overlap_by_a_quarter(drawn, context):
    kind, fields, answers = drawn
    windows = encode(kind, fields, answers, context, "longest", "windows").split_windows()
    cut = encode(kind, fields, answers, context, "longest")
    for text in (*fields, *answers):
        parts = [find_tokens(window, text) for window in windows]
        limit = len(find_tokens(cut, text))  # tokens left if it were truncated
        assert {id for part in parts for id in part} == set(text)
        assert all(len(part) == limit for part in parts)
        for part, following in pairwise(parts):
            assert part == list(range(part[0], part[0] + limit)) if part else not text
            if limit < len(text):
                assert len(set(part) & set(following)) >= limit // 4  # neighbors share a quarter
            else:
                assert part == following == text  # a text that fits is whole in every window


@given(drawn=long_examples(), context=contexts)
def test_there_are_no_more_windows_than_the_longest_text_needs(drawn, context):
    kind, fields, answers = drawn
    windows = encode(kind, fields, answers, context, "longest", "windows").windows
    cut = encode(kind, fields, answers, context, "longest")
    needed = []
    for text in (*fields, *answers):
        limit, count = len(find_tokens(cut, text)), 1
        while limit < len(text) and limit + (count - 1) * (limit - limit // 4) < len(text):
            count += 1
        needed.append(count)
    assert windows == max(needed)


@given(drawn=long_examples(), context=contexts, cut=cuts)
def test_head_and_tail_are_the_first_quarter_and_the_last_tokens_of_the_limit(drawn, context, cut):
    kind, fields, answers = drawn
    found = encode(kind, fields, answers, context, cut, "head-tail")
    shortened = encode(kind, fields, answers, context, cut)
    assert found.is_truncated == shortened.is_truncated
    for text in (*fields, *answers):
        kept, limit = find_tokens(found, text), len(find_tokens(shortened, text))
        assert len(kept) == limit
        if limit < len(text):
            head = math.ceil(limit / 4)
            assert kept == text[:head] + text[::-1][: limit - head][::-1]


@given(drawn=examples(), context=contexts)
def test_an_example_that_fits_is_the_same_with_every_option_for_long_texts(drawn, context):
    kind, fields, answers = drawn
    whole = encode(kind, fields, answers, context, "longest")
    if not whole.is_truncated:
        for long in ("head-tail", "windows"):
            assert encode(kind, fields, answers, context, "longest", long) == whole


@given(drawn=examples(), context=contexts, rule=rules)
def test_the_split_windows_hold_the_sequences_of_the_example(drawn, context, rule):
    kind, fields, answers = drawn
    found = encode(kind, fields, answers, context, *rule)
    windows = found.split_windows()
    assert len(windows) == found.windows
    assert [sequence for window in windows for sequence in window.sequences] == found.sequences
    assert all(len(window.sequences) == kind.sequences * max(1, len(answers)) for window in windows)


@given(drawn=examples(), context=contexts, rule=rules)
def test_packed_rows_hold_the_sequences_of_the_example_and_of_its_windows(drawn, context, rule):
    found = replace(encode(*drawn, context, *rule), shared_prefix=drawn[0].multiple_choice)
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
def test_answers_share_a_row_if_that_is_less_work(context, answers, rows):
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


def test_the_share_of_truncated_or_windowed_texts_is_reported():
    texts = [[1] * 30, [1] * 5, [1] * 5, [1] * 5]
    reports = []
    for long in ("cut", "head-tail", "windows"):
        found = encode_examples(KINDS["classification"], [Example(("",))] * 4, texts, VOCABULARY, 20, long=long)
        reports.append(truncation_warning(found, 20, long))
    assert reports == [
        "25.0% of the texts truncated to 20 tokens",
        "25.0% of the texts truncated to 20 tokens, head and tail kept",
        "25.0% of the texts read in windows of 20 tokens (2.0 each)",
    ]


lengths = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@given(lengths=lengths, budget=st.integers(0, 200))
def test_lengths_within_the_budget_stay_and_others_are_reduced_to_it(lengths, budget):
    limits = longest_first_limits(lengths, budget)
    assert all(0 <= limit <= length for limit, length in zip(limits, lengths, strict=True))
    if sum(lengths) <= budget:
        assert limits == lengths
    else:
        assert budget - len(lengths) < sum(limits) <= budget  # a remainder may be lost so that equal fields stay equal


@given(lengths=lengths, budget=st.integers(0, 200))
def test_the_longest_fields_are_shortened_first_and_equally(lengths, budget):
    limits = longest_first_limits(lengths, budget)
    for limit, length in zip(limits, lengths, strict=True):
        if limit < length:
            assert limit == max(limits)


@given(lengths=st.lists(st.integers(0, 50), min_size=4, max_size=4), share=st.integers(0, 60))
def test_with_fixed_shares_the_first_field_of_a_group_comes_first(lengths, share):
    limits = fixed_share_limits(((0, 1), (2, 3)), lengths, share)
    for first, second in ((0, 1), (2, 3)):
        assert limits[first] == min(lengths[first], share)
        assert limits[second] == min(lengths[second], share - limits[first])


def test_the_fixed_share_of_two_fields_is_254_of_512_as_in_the_release():
    assert max(map(len, encode(KINDS["entailment"], [[1] * 999, [2]], [], 512, "shares").sequences)) == 254 + 1 + 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_context_without_room_for_every_field_is_an_error(kind: Kind):
    groups = kind.layout[0]
    shortest = len(groups) + 1 + sum(map(len, groups))  # the special tokens and one token of each text
    fields = [[1]] * sum(role != "choices" for role in kind.columns)
    answers = [[1], [2]] if kind.multiple_choice else []
    with pytest.raises(UserError, match=f"{shortest - 1} tokens is too short for {kind.name}"):
        encode(kind, fields, answers, shortest - 1, "longest")
    encode(kind, fields, answers, shortest, "longest")


def test_example_texts_have_the_order_that_encode_examples_expects():
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
