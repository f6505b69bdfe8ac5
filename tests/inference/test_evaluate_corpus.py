"""Loss, perplexity and bits per byte of a model on a corpus follow from its logits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gpt1.corpus.corpus import Corpus, write_corpus
from gpt1.errors import UserError
from gpt1.inference.evaluate import evaluate
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer


def test_perplexity_and_bits_per_byte_match_the_logits(pretrained_run: Path, corpus: Path):
    found = evaluate(pretrained_run, corpus)
    opened, model = Corpus.open(corpus), GPT.from_pretrained(pretrained_run / "model")
    context = model.config.context
    count = (opened.tokens - 1) // context
    ids = torch.from_numpy(opened.read(0, count * context + 1))
    with torch.inference_mode():
        logits = model(ids[:-1].view(count, context))
    loss = float(F.cross_entropy(logits.flatten(0, 1), ids[1:]))
    assert found["metrics"]["loss"] == pytest.approx(loss, rel=1e-6)  # the run is in fp32
    # bf16 if the CPU supports it natively: the mean over 90,000 tokens agrees to 0.1%.
    without_run = evaluate(pretrained_run / "model", corpus)
    assert without_run["metrics"]["loss"] == pytest.approx(loss, rel=2e-3)
    assert found["metrics"]["perplexity"] == pytest.approx(math.exp(found["metrics"]["loss"]))
    per_byte = opened.tokens / opened.n_bytes
    assert found["metrics"]["bits_per_byte"] == pytest.approx(
        found["metrics"]["loss"] / math.log(2) * per_byte, rel=1e-2
    )
    assert found["rows"] == count
    assert found["tokens"] == count * context


def test_a_corpus_with_another_tokenizer_is_an_error(pretrained_run: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("some other words and yet other ones " * 50)
    other = Tokenizer.train(["other words"], vocab_size=270, pipeline="lossless")
    write_corpus([str(tmp_path / "text.txt")], tmp_path / "other", other)
    with pytest.raises(UserError, match="different tokenizer"):
        evaluate(pretrained_run, tmp_path / "other")


def test_a_corpus_shorter_than_a_window_is_an_error(pretrained_run: Path, tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "text.txt").write_text("two words")
    write_corpus([str(tmp_path / "text.txt")], tmp_path / "short", tokenizer)
    with pytest.raises(UserError, match="too few for a window of 32"):
        evaluate(pretrained_run, tmp_path / "short")
