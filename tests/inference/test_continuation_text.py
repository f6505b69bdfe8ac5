"""The text of a continuation: it ends before the first stop string, and no streamed character is removed later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt1.generation.continuous import TokenScore
from gpt1.inference.streaming import ContinuationText, TextPart
from gpt1.tokenization.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat . \n it was warm , and the cat slept", "naïve café ☃ 한국어"]
TOKENIZERS = {
    "original": Tokenizer.train(TEXTS, vocab_size=90, pipeline="original"),
    "lossless": Tokenizer.train(TEXTS, vocab_size=290, pipeline="lossless"),
}
which = st.sampled_from(list(TOKENIZERS))


def push_all(text: ContinuationText, ids: list[int]) -> list[TextPart]:
    return [text.push(TokenScore(id), i + 1 == len(ids)) for i, id in enumerate(ids)]


@given(data=st.data(), name=which, stop=st.lists(st.text("abcst e", min_size=1, max_size=3), max_size=3))
def test_the_text_ends_before_the_first_stop_string(data: st.DataObject, name: str, stop: list[str]):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=40))
    whole = "".join(part.text for part in push_all(ContinuationText(tokenizer, []), ids))
    text = ContinuationText(tokenizer, [], stop)
    parts = push_all(text, ids)
    first = min((at for string in stop if (at := whole.find(string)) >= 0), default=None)
    assert "".join(part.text for part in parts) == whole[:first]
    assert text.stopped == (first is not None)


@given(data=st.data(), name=which, stop=st.lists(st.text("abcst e", min_size=1, max_size=3), max_size=2))
def test_tokens_come_once_in_order_with_text_that_begins_with_them(data: st.DataObject, name: str, stop: list[str]):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=30))
    text = ContinuationText(tokenizer, [], stop)
    parts = push_all(text, ids)
    tokens = [token for part in parts for token in part.tokens]
    assert [token.score.id for token in tokens] == ids[: len(tokens)]
    shown = len("".join(part.text for part in parts))
    if text.stopped:
        assert all(token.offset < shown for token in tokens)
    else:
        assert len(tokens) == len(ids)
    assert [token.offset for token in tokens] == sorted(token.offset for token in tokens)


def test_prompt_and_continuation_join_to_one_text():
    original = TOKENIZERS["original"]
    prompt, more = original.encode("the cat"), original.encode("sat on")
    for ends_with_space, expected in ((False, " sat on"), (True, "sat on")):
        text = ContinuationText(original, prompt, (), ends_with_space)
        assert text.prompt_text == "the cat"
        assert "".join(part.text for part in push_all(text, more)) == expected
