"""Continuous batching: a sequence has the same bits alone and in a batch, and whole blocks of prompts are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_gpt import random_gpt

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.generation.cache_rows import BLOCK
from gpt1.generation.continuous import (
    Continuation,
    ContinuousBatch,
    StepResult,
    TokenScore,
    batch_invariant,
    continue_all,
)
from gpt1.generation.sampling import Sampler
from gpt1.model.gpt import GPT

VOCABULARY, CONTEXT = 60, 2 * BLOCK + 24
PREFIX = [7 * i % VOCABULARY for i in range(2 * BLOCK)]


def make_tiny_model(
    dtype: torch.dtype = torch.float32, architecture: Any = "transformer", context: int = CONTEXT
) -> GPT:
    model = random_gpt(GPTConfig(VOCABULARY, 2, 2, 32, context, 0.0, architecture=architecture, lstm_units=24), seed=3)
    model.activation_dtype = dtype
    return model


MODELS = {
    "fp32": make_tiny_model(),
    "bf16": make_tiny_model(torch.bfloat16),
    "lstm": make_tiny_model(architecture="lstm"),
    "short": make_tiny_model(context=5),
}
READY = {name: batch_invariant(model) for name, model in MODELS.items()}


def make_continuation(prompt: Sequence[int], new: int, seed: int | None = None, **options: Any) -> Continuation:
    """Greedy without a seed."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Continuation(list(prompt), new, Sampler(0.0 if seed is None else 1.0, generator=generator), **options)


def run_batch(batch: ContinuousBatch, sequences: Sequence[Continuation]) -> dict[int, list[TokenScore]]:
    """Continue all sequences, each as soon as there is room; the scores of each, by its position."""
    scores: dict[int, list[TokenScore]] = {i: [] for i in range(len(sequences))}
    for result in continue_all(batch, sequences):
        assert result.error is None
        scores[sequences.index(result.sequence)] += [*result.prompt, *([result.token] if result.token else [])]
    return scores


prompts = st.one_of(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
    st.builds(lambda n, more: PREFIX[:n] + more, st.integers(1, 2 * BLOCK), st.lists(st.integers(0, 9), max_size=9)),
)
requests = st.lists(
    st.fixed_dictionaries(
        {"prompt": prompts, "new": st.integers(1, 12), "seed": st.none() | st.integers(0, 99)},
        optional={"score_prompt": st.booleans()},
    ),
    min_size=2,
    max_size=7,
)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=15)
@given(given_requests=requests, size=st.integers(1, 4), step_tokens=st.sampled_from([1, 70, 500]))
def test_a_sequence_has_the_same_bits_alone_and_in_a_batch(name: str, given_requests: Any, size: int, step_tokens: int):
    if name == "short":
        given_requests = [{**request, "score_prompt": False} for request in given_requests]

    def make_continuations() -> list[Continuation]:
        return [make_continuation(**request, top_logprobs=3) for request in given_requests]

    together = run_batch(ContinuousBatch(READY[name], size, step_tokens), make_continuations())
    for i, sequence in enumerate(make_continuations()):
        assert run_batch(ContinuousBatch(READY[name], 1), [sequence])[0] == together[i]


@pytest.mark.parametrize("step_tokens", [1, BLOCK, 500])
def test_a_prompt_does_not_wait_for_the_end_of_a_longer_text(step_tokens: int):
    batch = ContinuousBatch(READY["fp32"], 2, step_tokens)
    batch.add(long := make_continuation([1], new=20))
    batch.step()
    batch.add(make_continuation(PREFIX, new=1))
    results = [result for _ in range(3) for result in batch.step()]
    assert any(result.finished for result in results if result.sequence is not long)


@pytest.mark.parametrize("name", ["fp32", "bf16"])
@settings(max_examples=10)
@given(given_requests=requests)
def test_old_values_in_the_cache_do_not_matter_even_if_they_are_nan(name: str, given_requests: Any):
    expected, found = (ContinuousBatch(READY[name], 3) for _ in range(2))
    for buffer in found.kv_cache.keys + found.kv_cache.values:
        buffer.fill_(torch.nan)
    sequences = [[make_continuation(**request, top_logprobs=3) for request in given_requests] for _ in range(2)]
    assert run_batch(found, sequences[0]) == run_batch(expected, sequences[1])


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_many_sequences_of_one_length_have_the_same_bits_as_alone_with_two_threads(name: str):
    """Their attention is one call, which divides the heads among the threads differently from that of one sequence."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prompts = [[i, *PREFIX[:20]] for i in range(7)]
        together = run_batch(
            ContinuousBatch(READY[name], 7), [make_continuation(p, 40, top_logprobs=3) for p in prompts]
        )
        for i, prompt in enumerate(prompts):
            assert (
                run_batch(ContinuousBatch(READY[name], 1), [make_continuation(prompt, 40, top_logprobs=3)])[0]
                == together[i]
            )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["fp32", "lstm", "short"])
@settings(max_examples=15)
@given(prompt=prompts, new=st.integers(1, 30), seed=st.none() | st.integers(0, 99))
def test_the_tokens_are_those_of_generate_even_beyond_the_context(name: str, prompt: Any, new: int, seed: Any):
    sequence = make_continuation(prompt, new, seed)
    run_batch(ContinuousBatch(READY[name], 2), [sequence])
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    temperature = 0.0 if seed is None else 1.0
    expected = MODELS[name].generate(torch.tensor([prompt]), new, temperature, generator=generator)
    assert sequence.ids == expected[0].tolist()


@torch.no_grad()
def test_log_probabilities_are_those_of_the_forward_pass():
    model, prompt = MODELS["fp32"], PREFIX[:100]
    sequence = make_continuation(prompt, 3, top_logprobs=4, score_prompt=True)
    scores = run_batch(ContinuousBatch(READY["fp32"], 2), [sequence])[0]
    assert [score.id for score in scores] == sequence.ids
    assert scores[0] == TokenScore(prompt[0])
    expected = model(torch.tensor([sequence.ids[:-1]]))[0].log_softmax(-1)
    for row, score in zip(expected, scores[1:], strict=True):
        assert score.logprob == pytest.approx(float(row[score.id]), abs=1e-5)
        best = row.topk(4)
        assert [token for token, _ in score.top] == best.indices.tolist()
        assert [logprob for _, logprob in score.top] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert score.rank == 1 + int((row > row[score.id]).sum())


def test_a_common_prefix_is_computed_once():
    batch = ContinuousBatch(READY["fp32"], 3)
    first, second, other = (make_continuation([*PREFIX, i], 2) for i in range(3))
    other.ids[0] += 1
    run_batch(batch, [first, second, other])
    assert batch.shared_tokens == 2 * BLOCK
    run_batch(batch, [make_continuation([*PREFIX, 9, 9], 2)])  # from the cache of sequences that are finished
    assert batch.shared_tokens == 4 * BLOCK


def test_blocks_are_not_shared_once_their_row_is_used_by_another_prompt():
    batch = ContinuousBatch(READY["fp32"], 1)
    run_batch(batch, [make_continuation([*PREFIX, 1], 2)])
    run_batch(batch, [make_continuation([5] * 100, 2)])
    run_batch(batch, [make_continuation([*PREFIX, 1], 2)])
    assert batch.shared_tokens == 0


def test_a_removed_sequence_gets_no_further_token_and_frees_its_place():
    batch = ContinuousBatch(READY["fp32"], 2)
    stays, leaves = make_continuation([1, 2], 9), make_continuation([3], 9)
    batch.add(stays)
    batch.add(leaves)
    batch.step()
    batch.remove(leaves)
    assert not batch.is_full
    while batch.running:
        assert {id(result.sequence) for result in batch.step()} == {id(stays)}
    assert (stays.new, leaves.new) == (9, 1)


@given(lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=6), budget=st.integers(1, 300))
def test_a_step_computes_at_most_its_budget_or_one_block(lengths: list[int], budget: int):
    batch = ContinuousBatch(READY["fp32"], 6, budget)
    for i, length in enumerate(lengths):
        batch.add(make_continuation([i + 1] * length, 1))
    computed = 0
    while batch.running:
        work = batch.plan()
        assert sum(w.time for w in work) <= max(budget, BLOCK)
        computed += sum(w.time for w in work)
        for result in batch.read_results(work, batch.hidden_states(work)):
            batch.remove(result.sequence)
    assert computed <= sum(lengths)


def test_a_prompt_that_cannot_be_scored_is_refused():
    batch = ContinuousBatch(READY["fp32"], 1)
    with pytest.raises(UserError, match="no tokens"):
        batch.add(make_continuation([], 1))
    with pytest.raises(UserError, match=f"{CONTEXT + 1} tokens exceed the {CONTEXT} positions"):
        batch.add(make_continuation([1] * (CONTEXT + 1), 1, score_prompt=True))
    assert not batch.running


def test_logits_that_are_not_finite_end_their_sequence_with_an_error():
    broken = make_tiny_model()
    with torch.no_grad():
        broken.tokens.weight[0] = float("nan")
    batch = ContinuousBatch(batch_invariant(broken), 2)
    batch.add(make_continuation([1], 3))
    results: list[StepResult] = batch.step()
    assert results[0].error is not None
    assert results[0].token is None
    assert not batch.running


def test_a_step_that_fails_leaves_no_block_to_share(monkeypatch: pytest.MonkeyPatch):
    batch = ContinuousBatch(READY["fp32"], 2)
    batch.add(make_continuation([*PREFIX, 1], 1))

    def raise_memory_error(*given: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(batch, "read_results", raise_memory_error)
    with pytest.raises(MemoryError):
        batch.step()
    assert not batch.rows.row_of
