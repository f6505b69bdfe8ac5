"""Greedy generation, a prompt of 16 tokens and 256 more: gpt1 in fp32 and bf16, transformers' generate in fp32, whose
GPT-1 keeps no keys and values. A second table has 8 prompts side by side and 64 tokens more. Both are timed with a
model that is ready, as `gpt1.load` makes it: weights cast and laid out.

On a processor gpt1 writes one text with the guesses of a draft. With random weights these are all right; a trained
model's are not. So a share of them is spoilt, as many as the draft of a trained model guesses wrong. With
GPT1_RUN=runs/NAME a third table says how many these are for that model.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import BenchmarkResult, Ratio, ResultTable, Workload, comparison_table, interleave
from benchmarks.models_and_data import benchmark_device, copy_weights, describe_size, openai_config, random_model
from gpt1.generation.decoding import decode
from gpt1.generation.inference_model import for_inference, prepare_for_decoding, quantize_int4
from gpt1.generation.sampling import Sampler
from gpt1.inference.predictor import load
from gpt1.kernels.int4 import int4_is_supported
from gpt1.kernels.kv_cache import KVCache
from gpt1.model.gpt import GPT

PROMPT_TOKENS, ROUNDS = 16, 1  # one round of transformers is a minute
WRONG_DRAFT_SHARE = 0.03  # the share of guesses that is spoilt
PROMPTS = (
    "She opened the door and",
    "The old man looked at his hands",
    "It was not until",
    "What do you mean? he asked.",
)


class NoisyDraft:
    """A draft of which some guesses, drawn at random, are wrong."""

    def __init__(self, draft: GPT) -> None:
        self.draft, self.config, self.tokens = draft, draft.config, draft.tokens
        self.recurrent, self.activation_dtype = draft.recurrent, draft.activation_dtype
        self.random = torch.Generator().manual_seed(0)

    def new_kv_cache(self, batch: int, size: int | None = None) -> KVCache:
        return self.draft.new_kv_cache(batch, size)

    def hidden_states(self, ids: Tensor, *, kv_cache: KVCache) -> Tensor:
        return self.draft.hidden_states(ids, kv_cache=kv_cache)

    def logits(self, states: Tensor) -> Tensor:
        logits = self.draft.logits(states)
        return -logits if torch.rand((), generator=self.random) < WRONG_DRAFT_SHARE else logits


def run(rounds: int, quick: bool) -> BenchmarkResult:
    from transformers import OpenAIGPTLMHeadModel

    model = random_model(quick).to(benchmark_device()).eval()
    peer = OpenAIGPTLMHeadModel(openai_config(model.config)).to(benchmark_device()).eval()
    copy_weights(model, peer.transformer)
    result = BenchmarkResult([])
    for prompts, new in ((1, 16), (8, 8)) if quick else ((1, 256), (8, 64)):
        ids = torch.randint(model.config.vocab_size, (prompts, PROMPT_TOKENS), device=benchmark_device())
        table, ratios, same = compare_generation(model, peer, ids, new, rounds, quick)
        result.tables.append(table)
        result.ratios.update(ratios)
        result.same_work[f"the same tokens in fp32, {prompts} × {new}"] = same
    if run_folder := os.environ.get("GPT1_RUN"):
        result.tables.append(draft_acceptance(run_folder))
    return result


@torch.inference_mode()
def draft_acceptance(run_folder: str) -> ResultTable:
    """How often a model with its weights in four bits says what the model says, on texts that the model wrote."""
    language_model = load(run_folder)
    ready = for_inference(language_model.gpt)
    draft = quantize_int4(ready)  # also of a small model, for which `generate` uses none
    rows = []
    for temperature in (0.0, 0.8, 1.0):
        right = tokens = 0
        for seed, prompt in enumerate(PROMPTS):
            own = [Sampler(temperature, generator=torch.Generator().manual_seed(seed)) for _ in range(3)]
            start = language_model.encode_prompt(prompt)
            ids = decode(ready, start, ready.config.context - start.shape[1], own[0])
            said, guessed = (
                choice(model(ids)[:, start.shape[1] - 1 : -1], 0)
                for choice, model in zip(own[1:], (ready, draft), strict=True)
            )
            right, tokens = right + int((said == guessed).sum()), tokens + said.shape[1]
        rows.append([temperature, tokens, right / tokens])
    return ResultTable(f"Guesses of {run_folder}'s draft", ["temperature", "tokens", "share that is right"], rows)


def compare_generation(
    model: GPT, peer: Any, ids: Tensor, new: int, rounds: int, quick: bool
) -> tuple[ResultTable, dict[str, Ratio], bool]:  # ids [prompts, time]
    written: dict[str, Tensor] = {}
    many = f", {len(ids)} prompts" if len(ids) > 1 else ""

    ready = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.activation_dtype = dtype
        writer, draft = prepare_for_decoding(model)
        ready[dtype] = (writer, quantize_int4(model) if quick and int4_is_supported([writer.tokens.weight]) else draft)

    def ours(dtype: torch.dtype) -> None:
        writer, draft = ready[dtype]
        writer.activation_dtype = dtype  # the model itself where its weights have the type already
        written[str(dtype)] = decode(writer, ids, new, Sampler(0), draft if len(ids) == 1 else None)

    def ours_spoilt(dtype: torch.dtype, draft: GPT) -> None:
        written[f"{dtype}, spoilt"] = decode(ready[dtype][0], ids, new, Sampler(0), NoisyDraft(draft))

    def theirs(tokens: int = new) -> None:
        written["theirs"] = peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    works: dict[str, Workload] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        works[f"gpt1 {name}{many}"] = partial(ours, dtype)
        if len(ids) == 1 and (draft := ready[dtype][1]):
            works[f"gpt1 {name}, {WRONG_DRAFT_SHARE:.0%} of guesses wrong"] = partial(ours_spoilt, dtype, draft)
    mine = list(works)
    works[f"transformers fp32{many}"] = theirs
    seconds = interleave(works, rounds, warm_up={f"transformers fp32{many}": lambda: theirs(4)})
    title = f"Greedy generation, {describe_size(model.config)}, {len(ids)} × ({PROMPT_TOKENS} + {new}) tokens"
    table, ratios = comparison_table(title, seconds, mine, len(ids) * new, "tokens")
    found = [text for name, text in written.items() if name.startswith(str(torch.float32))]
    return table, ratios, all(torch.equal(text, written["theirs"]) for text in found)
