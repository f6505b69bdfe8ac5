"""Prompts of unlike length, continued side by side: each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpt1.kernels.moving import moved
from gpt1.model import GPT, Cache, choose


@torch.inference_mode()
def continue_together(
    gpt: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    generators: Sequence[torch.Generator | None],
) -> Tensor:  # → [prompts, max_new_tokens]
    """What GPT.generate writes after each prompt (at least one token each) with its generator; in bfloat16 two tokens
    that are as likely as each other up to its rounding may change places.

    The newest tokens of all rows go through the model in one pass. In `ids` the prompts stand at the right, so that all
    rows grow there; in the cache at the left, each with its own number of positions. A row whose context is full is
    read anew from its last half, as GPT.generate does. An LSTM goes on with one prompt after another.
    """
    device, context, longest = gpt.tokens.weight.device, gpt.config.context, max(map(len, prompts))
    model, how = gpt.cast_once(), (temperature, top_k, top_p)
    if gpt.recurrent:
        alone = [torch.tensor([prompt], device=device) for prompt in prompts]
        rows = zip(alone, generators, strict=True)
        return torch.cat([model.generate(row, max_new_tokens, *how, own)[:, row.shape[1] :] for row, own in rows])
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    cache = Cache(gpt.config, len(prompts), model.tokens.weight, min(context, longest + max_new_tokens))
    for buffer in cache.keys + cache.values:
        buffer.zero_()  # what a row does not see has to be numbers
    lengths = [0] * len(prompts)  # positions of each row in the cache
    for step in range(max_new_tokens):
        for row, length in enumerate(lengths):
            if not step or length == context:  # all but the newest token, which the pass below reads
                kept = max(1, context // 2) if step else min(len(prompts[row]), context)
                read(model, ids[row, None, -kept:-1], cache, row)
                lengths[row] = kept - 1
        cache.length, cache.places = max(lengths), moved(torch.tensor(lengths)[:, None], device)
        logits = model.logits(model.states(ids[:, -1:], cache)[:, -1])[:, : gpt.config.vocab_size]
        drawn = zip(torch.split(logits, 1), generators, strict=True)
        ids = torch.cat([ids, torch.cat([choose(row, *how, own) for row, own in drawn])], dim=1)
        lengths = [length + 1 for length in lengths]
    return ids[:, longest:]


def read(model: GPT, ids: Tensor, cache: Cache, row: int) -> None:
    """Make row `row` of the cache that of `ids` [1, time]."""
    time = ids.shape[1]
    if time:
        own = Cache(model.config, 1, cache.keys[0], time)
        model.states(ids, own)
        for buffer, filled in zip(cache.keys + cache.values, own.keys + own.values, strict=True):
            buffer[row, :, :time] = filled[0]
