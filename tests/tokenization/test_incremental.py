"""Texts decoded token by token are those decoded at once."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gpt1.tokenization.incremental import IncrementalDecoder
from gpt1.tokenization.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat . \n \n it was warm , and the cat slept", "naïve café ☃ 한국어 \ud83d\ude00 \n end"]
TOKENIZERS = {
    "original": Tokenizer.train(TEXTS, vocab_size=100, pipeline="original"),
    "lossless": Tokenizer.train(TEXTS, vocab_size=300, pipeline="lossless"),
}


@given(data=st.data(), pipeline=st.sampled_from(list(TOKENIZERS)))
def test_the_parts_join_to_the_text_decoded_at_once(data: st.DataObject, pipeline: str):
    tokenizer = TOKENIZERS[pipeline]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    decoder = IncrementalDecoder(tokenizer)
    text = "".join([*map(decoder.push, ids), decoder.finish()])
    at_once = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")
    assert text == (tokenizer.decode(ids) if pipeline == "original" else at_once)
    json.dumps(text).encode("utf-8")


@given(text=st.text(max_size=60))
def test_a_text_comes_back_in_whole_characters(text: str):
    tokenizer = TOKENIZERS["lossless"]
    decoder = IncrementalDecoder(tokenizer)
    parts = [*map(decoder.push, tokenizer.encode(text)), decoder.finish()]
    assert "".join(parts) == text == tokenizer.decode(tokenizer.encode(text))
    assert parts[-1] == ""
