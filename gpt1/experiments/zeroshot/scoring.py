"""Log-probabilities of texts that continue a text, for zero-shot heuristics. A shared prefix is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.inference.predictor import LanguageModel
from gpt1.inference.scoring import score_states
from gpt1.inference.task_logits import PREDICTION_BATCH_TOKENS
from gpt1.kernels.kv_cache import KVCache
from gpt1.kernels.packing import PackedRow, Packing
from gpt1.model.gpt import GPT
from gpt1.progress import Progress
from gpt1.tasks.collate import micro_batches
from gpt1.tasks.kinds import EncodedExample


@dataclass(frozen=True)
class ScoringQuery:
    """Token ids to score.

    Args:
        prefix: given tokens, at least one.
        continuations: each is scored after the prefix.
        n_unscored: tokens at the start of each continuation that are given too.
    """

    prefix: list[int]
    continuations: list[list[int]]
    n_unscored: int = 0


def log_probabilities(
    gpt: GPT, queries: Sequence[ScoringQuery], progress: Progress | None = None
) -> list[list[Tensor]]:  # per query and continuation: [scored tokens]
    """log P of each scored token of each continuation, given all tokens before it.

    A prefix that exceeds the context is truncated at its start, in the same way for all continuations of a query.
    Queries with the same longer prefix share one forward pass over it (KV cache). After a prefix of one token, the
    continuations of a query share what they have in common, and queries are packed without padding.
    """
    progress = progress or Progress()
    # Keep the last tokens of a continuation that leaves no room for one token of the prefix.
    texts = [[continuation[-(gpt.config.context - 1) :] for continuation in query.continuations] for query in queries]
    groups: dict[tuple[int, ...], list[int]] = {}  # prefix → queries
    for q, query in enumerate(queries):
        room = max(1, gpt.config.context - max(map(len, texts[q]), default=0))
        groups.setdefault(tuple(query.prefix[-room:]), []).append(q)
    scores: list[list[Tensor]] = [[torch.empty(0)] * len(continuations) for continuations in texts]
    done, total = 0, sum(map(len, texts))
    progress.begin("scoring", total, unit="texts")
    for prefix, members in groups.items():
        score = score_after_token if len(prefix) == 1 else score_after_prefix
        for batch in score(gpt, list(prefix), {q: texts[q] for q in members}):
            for q, k, row in batch:
                n_truncated = len(queries[q].continuations[k]) - len(texts[q][k])
                scores[q][k] = row[max(0, queries[q].n_unscored - n_truncated) :]
            done += len(batch)
            progress.advance(done)
    progress.end()
    return scores


ContinuationScores = Iterator[list[tuple[int, int, Tensor]]]
"""Batches of (query, continuation, log P of its tokens)."""


def score_after_token(gpt: GPT, prefix: list[int], texts: Mapping[int, list[list[int]]]) -> ContinuationScores:
    """`texts` has the continuations of each query."""
    numbers = [q for q, continuations in texts.items() if continuations]
    encoded = [EncodedExample([prefix + text for text in texts[q]], shared_prefix=not gpt.recurrent) for q in numbers]
    for batch in micro_batches(encoded, range(len(encoded)), PREDICTION_BATCH_TOKENS):
        rows = iter(packed_log_probabilities(gpt, [row for i in batch for row in encoded[i].packed_rows]))
        yield [(numbers[i], k, next(rows)) for i in batch for k in range(len(encoded[i].sequences))]


@torch.inference_mode()
def packed_log_probabilities(gpt: GPT, rows: Sequence[tuple[list[int], PackedRow]]) -> list[Tensor]:
    """log P of every token but the first of each sequence of the packed rows."""
    device = gpt.tokens.weight.device
    packing = Packing([row for _, row in rows], device)
    ids = torch.tensor([token for tokens, _ in rows for token in tokens], device=device)
    states = gpt.hidden_states(ids, packing=packing)
    scored = torch.ones(len(ids), dtype=torch.bool, device=device)
    scored[packing.last_index] = False  # nothing follows the last token of a sequence
    scores = torch.zeros(len(ids))
    scores[scored.cpu()] = score_states(gpt, states[scored], ids.roll(-1)[scored])[0].float()
    parts = iter(torch.split(scores, [n for _, row in rows for n in (row.prefix, *row.suffixes)]))
    found = []
    for _, row in rows:
        common = next(parts)
        found += [torch.cat([common, next(parts)[:-1]]) for _ in row.suffixes]
    return found


def score_after_prefix(gpt: GPT, prefix: list[int], texts: Mapping[int, list[list[int]]]) -> ContinuationScores:
    """As `score_after_token`; the prefix is computed once for all queries."""
    members = [(q, k) for q, continuations in texts.items() for k in range(len(continuations))]
    last_state, cache = prefill_prefix(gpt, prefix)
    for positions in batch_by_length([len(texts[q][k]) for q, k in members], len(prefix)):
        batch = [members[i] for i in positions]
        rows = score_continuations(gpt, last_state, cache, [texts[q][k] for q, k in batch])
        yield [(q, k, row) for (q, k), row in zip(batch, rows, strict=True)]


def batch_by_length(lengths: Sequence[int], prefix_length: int) -> list[list[int]]:
    """Positions, longest first, in batches of at most PREDICTION_BATCH_TOKENS padded tokens (at least one row)."""
    batches: list[list[int]] = []
    width = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * (prefix_length + width) > PREDICTION_BATCH_TOKENS:
            batches.append([])
            width = lengths[i]
        batches[-1].append(i)
    return batches


@torch.inference_mode()
def prefill_prefix(gpt: GPT, prefix: Sequence[int]) -> tuple[Tensor, KVCache]:
    """(the hidden state at the end of `prefix` [1, n_embd], its KV cache)."""
    weight = gpt.tokens.weight
    cache = KVCache(gpt.config, 1, weight.to(gpt.activation_dtype))
    states = gpt.hidden_states(torch.tensor([list(prefix)], device=weight.device), kv_cache=cache)
    return states[:, -1], cache


@torch.inference_mode()
def score_continuations(gpt: GPT, last_state: Tensor, cache: KVCache, texts: Sequence[list[int]]) -> list[Tensor]:
    """log P of every token of `texts`, which follow the prefix in `cache`; `last_state` is its last hidden state."""
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
    is_token = (torch.arange(longest) < lengths[:, None]).to(device)  # [texts, longest], False for padding
    scores = score_states(gpt, states[is_token], ids[is_token])[0].float()
    return list(torch.split(scores, lengths.tolist()))


def mean_log_probability(scores: Tensor) -> float:
    """The mean log-probability of a text's tokens; −∞ for no tokens."""
    return float(scores.mean()) if len(scores) else -torch.inf


def sentence_log_probabilities(
    model: LanguageModel, groups: Sequence[Sequence[str]], progress: Progress | None = None
) -> list[list[float]]:
    """The summed log-probability of each sentence's tokens at the start of a document, after the newline.

    The end of the sentence is not scored: what follows it in running text is the next sentence, not a new paragraph.

    Args:
        model: the model.
        groups: sentences to compare; what those of a group have in common is computed once, and if all tokens of two
            of them are equal, so are their scores.
        progress: shows the progress.
    """
    start = [model.tokenizer.newline_id]
    encoded = iter(model.tokenizer.encode_batch([sentence for group in groups for sentence in group]))
    queries = [ScoringQuery(start, [next(encoded) for _ in group]) for group in groups]
    scored = log_probabilities(model.gpt, queries, progress)
    return [[float(scores.double().sum()) for scores in group] for group in scored]


def encode_document_starts(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts at the start of a document: after the newline that separates documents."""
    return [[model.tokenizer.newline_id, *ids] for ids in model.tokenizer.encode_batch(texts)]


def encode_continuations(model: LanguageModel, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow another text. A lossless tokenizer encodes the space between the two."""
    space = " " if model.tokenizer.pipeline == "lossless" else ""
    return model.tokenizer.encode_batch([space + text for text in texts])
