"""Greedy generation, a prompt of 16 tokens and 256 more: gpt1 in fp32 and bf16, transformers' generate in fp32, whose
GPT-1 keeps no keys and values. A second table has 8 prompts side by side and 64 tokens more. Both are timed with a
model that is ready, as `gpt1.load` makes it: weights cast and laid out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.material import alike, called, device, gpt, openai_config
from benchmarks.measure import Ratio, Result, Table, compared, in_turn
from gpt1.model import GPT

PROMPT, ROUNDS = 16, 1  # one round of transformers is a minute


def run(rounds: int, quick: bool) -> Result:
    from transformers import OpenAIGPTLMHeadModel

    model = gpt(quick).to(device()).eval()
    peer = OpenAIGPTLMHeadModel(openai_config(model.config)).to(device()).eval()
    alike(model, peer.transformer)
    result = Result([])
    for prompts, new in ((1, 16), (8, 8)) if quick else ((1, 256), (8, 64)):
        ids = torch.randint(model.config.vocab_size, (prompts, PROMPT), device=device())
        table, ratios, same = generated(model, peer, ids, new, rounds)
        result.tables.append(table)
        result.ratios.update(ratios)
        result.same_work[f"the same tokens in fp32, {prompts} × {new}"] = same
    return result


def generated(
    model: GPT, peer: Any, ids: Tensor, new: int, rounds: int
) -> tuple[Table, dict[str, Ratio], bool]:  # ids [prompts, time]
    written: dict[str, Tensor] = {}
    many = f", {len(ids)} prompts" if len(ids) > 1 else ""

    ready = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.activations = dtype
        ready[dtype] = model.cast_once()

    def ours(dtype: torch.dtype, tokens: int = new) -> None:
        ready[dtype].activations = dtype  # the model itself where its weights have the type already
        written[str(dtype)] = ready[dtype].generate(ids, tokens, temperature=0)

    def theirs(tokens: int = new) -> None:
        written["theirs"] = peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )

    works = {
        f"gpt1 fp32{many}": lambda: ours(torch.float32),
        f"gpt1 bf16{many}": lambda: ours(torch.bfloat16),
        f"transformers fp32{many}": theirs,
    }
    seconds = in_turn(works, rounds, warm_up={f"transformers fp32{many}": lambda: theirs(4)})
    title = f"Greedy generation, {called(model.config)}, {len(ids)} × ({PROMPT} + {new}) tokens"
    table, ratios = compared(title, seconds, list(works)[:2], len(ids) * new, "tokens")
    return table, ratios, torch.equal(written[str(torch.float32)], written["theirs"])
