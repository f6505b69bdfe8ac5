"""Log-probabilities of the tokens of texts, and features: the mean of the hidden states.

A text follows the newline that separates documents, so that its first token has a probability too. A text that is
longer than the context is read in overlapping windows: each window moves on by `stride` tokens, and every token is
predicted from at least context - stride tokens before it (the first ones of the text from all that there are).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import require_count
from gpt1.generation.sampling import check_finite_logits
from gpt1.inference.task_logits import PREDICTION_BATCH_TOKENS
from gpt1.kernels.packing import PackedRow, Packing
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT
from gpt1.tokenization.tokenizer import Tokenizer

LOGIT_TOKENS = 1024
"""Tokens whose logits are in memory at a time."""

Window = tuple[int, int, int]
"""(start, first new position, stop) of a window of a text."""


def default_stride(context: int) -> int:
    """Half of the context: twice the work of windows without overlap, and half a context before every token."""
    return max(1, context // 2)


def overlapping_windows(length: int, context: int, stride: int) -> list[Window]:
    """Windows of at most `context` positions that cover `length` positions; each position is new in one of them."""
    windows = [(0, 0, min(length, context))]
    while (stop := windows[-1][2]) < length:
        end = min(length, stop + stride)
        windows.append((end - context, stop, end))
    return windows


def check_stride(stride: int | None, context: int) -> int:
    if stride is None:
        return default_stride(context)
    require_count(stride, "--stride", 1, context)
    return stride


@torch.inference_mode()
def hidden_states_by_window(gpt: GPT, texts: Sequence[Sequence[int]], stride: int) -> Iterator[tuple[int, int, Tensor]]:
    """Run the model over texts in overlapping windows, packed without padding, batched by length.

    Args:
        gpt: In eval mode.
        texts: Token ids, at least one each.
        stride: Tokens by which a window moves on.

    Yields:
        (text, first position, hidden states [new positions, n_embd]); each position of each text once, in any order.
    """
    device, context = gpt.tokens.weight.device, gpt.config.context
    rows = [(i, *window) for i, text in enumerate(texts) for window in overlapping_windows(len(text), context, stride)]
    rows.sort(key=lambda row: row[1] - row[3])  # longest first
    done = 0
    while done < len(rows):
        end, tokens = done, 0
        while end < len(rows) and (end == done or tokens + rows[end][3] - rows[end][1] <= PREDICTION_BATCH_TOKENS):
            tokens += rows[end][3] - rows[end][1]
            end += 1
        batch = rows[done:end]
        ids = torch.tensor([token for i, start, _, stop in batch for token in texts[i][start:stop]])
        lengths = [stop - start for _, start, _, stop in batch]
        packing = Packing([PackedRow(0, (length,)) for length in lengths], device)
        states = gpt.hidden_states(to_device(ids, device), packing=packing)
        for (i, start, new, _), part in zip(batch, torch.split(states, lengths), strict=True):
            yield i, new, part[new - start :]
        done = end


@torch.inference_mode()
def token_log_probabilities(gpt: GPT, texts: Sequence[Sequence[int]], stride: int) -> list[Tensor]:
    """log P of each token but the first, given the tokens before it in its window.

    Args:
        gpt: In eval mode. Probabilities are over its vocabulary, without special tokens.
        texts: Token ids, at least one each.
        stride: See `hidden_states_by_window`.

    Returns:
        For each text [tokens - 1], float64, on the CPU.
    """
    found = [torch.zeros(len(text) - 1, dtype=torch.float64) for text in texts]
    inputs = [list(text[:-1]) for text in texts]
    occupied = [i for i, text in enumerate(inputs) if text]
    for n, first, states in hidden_states_by_window(gpt, [inputs[i] for i in occupied], stride):
        i = occupied[n]
        targets = torch.tensor(texts[i][first + 1 : first + 1 + len(states)], device=states.device)
        found[i][first : first + len(states)] = score_states(gpt, states, targets)[0]
    return found


def score_states(gpt: GPT, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the predictions of hidden states with the tokens that follow.

    Args:
        gpt: In eval mode. Probabilities are over its vocabulary, without special tokens.
        states: [tokens, n_embd].
        targets: [tokens], ids.

    Returns:
        log P of each target, float64, and whether it is the most likely token: each [tokens], on the CPU.
    """
    log_p, is_top = [], []
    for some, wanted in zip(torch.split(states, LOGIT_TOKENS), torch.split(targets, LOGIT_TOKENS), strict=True):
        logits = gpt.logits(some)[:, : gpt.config.vocab_size]
        check_finite_logits(logits)
        log_p.append(logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].double().cpu())
        is_top.append((logits.argmax(-1) == wanted).cpu())
    return torch.cat(log_p), torch.cat(is_top)


def score_texts(gpt: GPT, tokenizer: Tokenizer, texts: Sequence[str], stride: int) -> list[dict[str, Any]]:
    """The scores of texts; see `LanguageModel.score`."""
    ids = tokenizer.encode_batch(texts)
    log_probabilities = token_log_probabilities(gpt, [[tokenizer.newline_id, *text] for text in ids], stride)
    return [text_score(*one, tokenizer) for one in zip(texts, ids, log_probabilities, strict=True)]


def text_score(text: str, ids: Sequence[int], log_probabilities: Tensor, tokenizer: Tokenizer) -> dict[str, Any]:
    tokens = [
        {"token": tokenizer.display_token(id), "id": id, "log_probability": p}
        for id, p in zip(ids, log_probabilities.tolist(), strict=True)
    ]
    return {**text_measures(text, len(ids), float(log_probabilities.sum())), "tokens": tokens}


def text_measures(text: str, tokens: int, total: float) -> dict[str, float | None]:
    """The scores of a text with `tokens` tokens and the log-probability `total`."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return {
        "log_probability": total,
        "perplexity": math.exp(min(-total / tokens, 700)) if tokens else None,  # e⁷⁰⁰ is the largest power of a float
        "bits_per_byte": -total / math.log(2) / size if size else None,
    }


def surprising_words(score: dict[str, Any], tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """(text, surprise in bits) of each word of a scored text, in order; white space belongs to the word after it."""
    words: list[tuple[list[int], float]] = []
    begins = True
    for token in score["tokens"]:
        text = tokenizer.decode([token["id"]])
        if tokenizer.pipeline == "lossless":
            begins = text[:1].isspace() or not words
        bits = -token["log_probability"] / math.log(2)
        if begins:
            words.append(([token["id"]], bits))
        else:
            words[-1] = ([*words[-1][0], token["id"]], words[-1][1] + bits)
        begins = not token["token"].endswith("…")  # the original pipeline marks tokens that do not end a word
    separator = "" if tokenizer.pipeline == "lossless" else " "
    return [(separator * (n > 0) + tokenizer.decode(ids), bits) for n, (ids, bits) in enumerate(words)]


def mean_states(gpt: GPT, texts: Sequence[Sequence[int]], stride: int) -> Tensor:  # → [texts, n_embd]
    """The mean hidden state over the tokens of each text, float32 on the CPU."""
    sums = torch.zeros(len(texts), gpt.config.n_embd)
    for i, _, states in hidden_states_by_window(gpt, texts, stride):
        sums[i] += states.float().sum(0).cpu()
    return sums / torch.tensor([len(text) for text in texts])[:, None]
