"""A tokenizer of the paper's pipeline."""

from __future__ import annotations

import pytest

from gpt1.tokenization.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def english(prose: list[str]) -> Tokenizer:
    return Tokenizer.train(prose, vocab_size=300, pipeline="original")
