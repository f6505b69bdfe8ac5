"""Log-probabilities of texts that continue a text, for zero-shot heuristics; a common beginning is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.inference.predictor import LanguageModel
from gpt1.inference.task_logits import PREDICTION_BATCH_TOKENS
from gpt1.kernels.kv_cache import KVCache
from gpt1.model.gpt import GPT
from gpt1.progress import NullProgress, Progress

MAX_LOGIT_TOKENS = 1024  # tokens whose logits exist at a time


@dataclass(frozen=True)
class ScoringQuery:
    """`prefix` (at least one token) is given; each of `continuations` is scored, but for its first `n_unscored` tokens."""

    prefix: list[int]
    continuations: list[list[int]]
    n_unscored: int = 0


def log_probabilities(
    gpt: GPT, questions: Sequence[ScoringQuery], progress: Progress | None = None
) -> list[list[Tensor]]:  # per question and continuation: [scored tokens]
    """log P of each scored token of each continuation, given all before it.

    What does not fit the context is cut off the beginning of `before`, alike for all continuations of a question.
    Questions that then begin alike share their beginning: it runs through the model once, and is continued from its
    cache; continuations run side by side.
    """
    progress = progress or NullProgress()
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    texts = [
        [truncate_continuation(continuation, gpt) for continuation in question.continuations] for question in questions
    ]
    for q, question in enumerate(questions):
        room = max(1, gpt.config.context - max(map(len, texts[q]), default=0))
        before = tuple(question.prefix[-room:])
        groups.setdefault(before, []).extend((q, k) for k in range(len(texts[q])))
    found: list[list[Tensor]] = [[torch.empty(0)] * len(continuations) for continuations in texts]
    done, total = 0, sum(map(len, groups.values()))
    progress.begin("scoring", total, unit="texts")
    for before, members in groups.items():
        first, cache = prefill(gpt, before)
        for piece in batch_by_length([len(texts[q][k]) for q, k in members], len(before)):
            chosen = [members[i] for i in piece]
            scored = score_continuations(gpt, first, cache, [texts[q][k] for q, k in chosen])
            for (q, k), row in zip(chosen, scored, strict=True):
                cut = len(questions[q].continuations[k]) - len(texts[q][k])
                found[q][k] = row[max(0, questions[q].n_unscored - cut) :]
            done += len(chosen)
            progress.advance(done)
    progress.end()
    return found


def truncate_continuation(continuation: list[int], gpt: GPT) -> list[int]:
    """The last tokens of a continuation that is longer than the context allows beside one token before it."""
    return continuation[-(gpt.config.context - 1) :]


def batch_by_length(lengths: Sequence[int], prefix_length: int) -> list[list[int]]:
    """Positions sorted by length, longest first, in pieces of at most PIECE_TOKENS padded tokens (one row at least)."""
    found: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not found or (len(found[-1]) + 1) * (prefix_length + width) > PREDICTION_BATCH_TOKENS:
            found.append([])
            width = lengths[i]
        found[-1].append(i)
    return found


@torch.inference_mode()
def prefill(gpt: GPT, prefix: Sequence[int]) -> tuple[Tensor, KVCache]:
    """(the state after `prefix` [1, n_embd], the cache that holds it)."""
    weight = gpt.tokens.weight
    cache = KVCache(gpt.config, 1, weight.to(gpt.activation_dtype))
    states = gpt.hidden_states(torch.tensor([list(prefix)], device=weight.device), kv_cache=cache)
    return states[:, -1], cache


@torch.inference_mode()
def score_continuations(gpt: GPT, last_state: Tensor, cache: KVCache, texts: Sequence[list[int]]) -> list[Tensor]:
    """log P of every token of `texts`, which all continue what `cache` holds and `last_state` is the last state of."""
    longest = max(map(len, texts))
    if not longest:
        return [torch.empty(0) for _ in texts]
    device = last_state.device
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.int64)
    ids = ids.to(device)
    states = last_state[:, None].expand(len(texts), 1, -1)  # [texts, 1, n_embd]
    if longest > 1:
        states = torch.cat([states, gpt.hidden_states(ids[:, :-1], kv_cache=cache.repeat(len(texts)))], dim=1)
    lengths = torch.tensor([len(text) for text in texts])
    real = (torch.arange(longest) < lengths[:, None]).to(device)  # [texts, longest]
    parts = [
        -F.cross_entropy(gpt.logits(some)[:, : gpt.config.vocab_size], targets, reduction="none")
        for some, targets in zip(
            torch.split(states[real], MAX_LOGIT_TOKENS), torch.split(ids[real], MAX_LOGIT_TOKENS), strict=True
        )
    ]
    return list(torch.split(torch.cat(parts).float().cpu(), lengths.tolist()))


def mean_log_probability(scores: Tensor) -> float:
    """The mean log-probability of a text's tokens; of no token −∞."""
    return float(scores.mean()) if len(scores) else -torch.inf


def encode_document_starts(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Texts as the beginnings of documents: what comes before them is the newline that joins documents."""
    return [[model.tokenizer.newline_id, *ids] for ids in model.tokenizer.encode_batch(texts)]


def encode_continuations(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Texts as they follow another one. A lossless tokenizer keeps the space between the two."""
    space = " " if model.tokenizer.pipeline == "lossless" else ""
    return model.tokenizer.encode_batch([space + text for text in texts])
