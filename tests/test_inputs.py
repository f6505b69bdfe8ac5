"""Figure 1: what the model sees of each kind of task, and what is cut when it is too long."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.inputs import KINDS, Encoded, Example, Kind, cut_longest, encode, fixed_shares, texts_of
from gpt1.tokenizer import SPECIAL_TOKENS, Tokenizer

VOCABULARY = 100
S, D, E = VOCABULARY, VOCABULARY + 1, VOCABULARY + 2

kinds = st.sampled_from(list(KINDS.values()))
cuts = st.sampled_from(["longest", "shares"])
texts = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)


def coded(kind: Kind, fields: list[list[int]], answers: list[list[int]], context: int, cut: str) -> Encoded:
    example = Example(("",) * len(fields), ("",) * len(answers))
    (found,) = encode(kind, [example], [*fields, *answers], VOCABULARY, context, cut)
    return found


@st.composite
def examples(draw: st.DrawFn) -> tuple[Kind, list[list[int]], list[list[int]]]:
    """(kind, fields, answers), as ids."""
    kind = draw(kinds)
    n_fields = sum(role != "choices" for role in kind.columns)
    fields = [draw(texts) for _ in range(n_fields)]
    return kind, fields, draw(st.lists(texts, min_size=2, max_size=5)) if kind.each else []


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
    assert coded(KINDS[kind], fields, answers, 20, "longest") == Encoded(sequences, cut=False)


@given(drawn=examples(), context=st.integers(5, 80), cut=cuts)
def test_no_sequence_is_longer_than_the_context_and_special_tokens_always_survive(drawn, context, cut):
    kind, fields, answers = drawn
    for sequence in coded(kind, fields, answers, context, cut).sequences:
        assert len(sequence) <= context
        assert sequence[0] == S
        assert sequence[-1] == E
        special = [token for token in sequence if token >= VOCABULARY]
        assert special == [S, *[D] * (len(kind.layout[0]) - 1), E]


@given(drawn=examples(), context=st.integers(5, 80), cut=cuts)
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


@given(drawn=examples(), context=st.integers(5, 80), cut=cuts)
def test_an_example_is_said_to_be_cut_exactly_when_a_token_is_missing(drawn, context, cut):
    kind, fields, answers = drawn
    found = coded(kind, fields, answers, context, cut)
    whole = coded(kind, fields, answers, 1000, "longest")
    assert not whole.cut
    assert found.cut == (found.sequences != whole.sequences)


@given(a=texts, b=texts, context=st.integers(5, 80), cut=cuts)
@example(a=[1] * 30, b=[2] * 30, context=20, cut="longest")  # 17 tokens for both: one is odd
def test_similarity_sees_the_same_two_sequences_whichever_text_is_named_first(a, b, context, cut):
    one = coded(KINDS["similarity"], [a, b], [], context, cut)
    other = coded(KINDS["similarity"], [b, a], [], context, cut)
    assert one.sequences == other.sequences[::-1]


@given(drawn=examples(), context=st.integers(5, 80), cut=cuts, data=st.data())
def test_the_order_of_the_answers_only_orders_the_sequences(drawn, context, cut, data):
    kind, fields, answers = drawn
    order = data.draw(st.permutations(range(len(answers))))
    straight = coded(kind, fields, answers, context, cut).sequences
    if kind.each:
        assert coded(kind, fields, [answers[i] for i in order], context, cut).sequences == [straight[i] for i in order]


lengths = st.lists(st.integers(0, 50), min_size=1, max_size=6)


@given(lengths=lengths, budget=st.integers(0, 200))
def test_nothing_is_cut_that_fits_and_what_does_not_fit_fits_afterwards(lengths, budget):
    limits = cut_longest(lengths, budget)
    assert all(0 <= limit <= length for limit, length in zip(limits, lengths, strict=True))
    if sum(lengths) <= budget:
        assert limits == lengths
    else:
        assert budget - len(lengths) < sum(limits) <= budget  # an odd token may be lost so that equals stay equal


@given(lengths=lengths, budget=st.integers(0, 200))
def test_the_longest_is_cut_first_and_equals_alike(lengths, budget):
    limits = cut_longest(lengths, budget)
    for limit, length in zip(limits, lengths, strict=True):
        if limit < length:
            assert limit == max(limits)


@given(lengths=st.lists(st.integers(0, 50), min_size=4, max_size=4), share=st.integers(0, 60))
def test_in_fixed_shares_each_group_has_its_own_and_its_first_field_comes_first(lengths, share):
    limits = fixed_shares(((0, 1), (2, 3)), lengths, share)
    for first, second in ((0, 1), (2, 3)):
        assert limits[first] == min(lengths[first], share)
        assert limits[second] == min(lengths[second], share - limits[first])


def test_the_releases_share_of_two_fields_of_512_is_254():
    assert max(map(len, coded(KINDS["entailment"], [[1] * 999, [2]], [], 512, "shares").sequences)) == 254 + 1 + 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_context_that_holds_little_more_than_special_tokens_is_refused(kind: Kind):
    shortest = 2 * len(kind.layout[0]) + 1
    fields = [[1]] * sum(role != "choices" for role in kind.columns)
    answers = [[1], [2]] if kind.each else []
    with pytest.raises(UserError, match=f"{shortest - 1} tokens is too short for {kind.name}"):
        coded(kind, fields, answers, shortest - 1, "longest")
    coded(kind, fields, answers, shortest, "longest")


def test_the_texts_of_examples_stand_in_the_order_in_which_encode_takes_them():
    examples = [Example(("a", "b"), ("c", "d")), Example(("e", "f"), ("g",))]
    ids = {text: [number] for number, text in enumerate(texts_of(examples))}
    found = encode(KINDS["choice"], examples, [ids[text] for text in texts_of(examples)], VOCABULARY, 9)
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
