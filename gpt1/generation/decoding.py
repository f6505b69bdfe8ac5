"""How texts are continued: one by a draft's guesses, or several side by side, each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.config import GPTConfig
from gpt1.generation.sampling import Choice
from gpt1.kernels.cached_attention import Cache
from gpt1.kernels.linear import spare_rows
from gpt1.kernels.to_device import moved

GUESSES = 8  # tokens that a draft runs ahead
MANY_TOKENS = 64  # from here on, new tokens are worth what laying out and rounding the weights for them takes
LONG = 32  # tokens of a text that may be read with some more behind it
MANY_TEXTS = 4  # side by side: fewer, but for one, which a draft helps, are not worth it


class Model(Protocol):
    """A `model.GPT` for use."""

    config: GPTConfig
    tokens: nn.Embedding
    recurrent: bool
    activations: torch.dtype

    def cache(self, batch: int, size: int | None = None) -> Cache: ...

    def states(self, ids: Tensor, cache: Cache | None = None) -> Tensor: ...

    def logits(self, states: Tensor) -> Tensor: ...


class Reader:
    """A model and what it has read of texts [batch, time], from their token `start` on."""

    def __init__(self, model: Model, cache: Cache, start: int) -> None:
        self.model, self.cache, self.start = model, cache, start

    def following(self, ids: Tensor, choice: Choice, place: int, n: int = 1) -> Tensor:
        """Read what is new of ids [batch, time] → [batch, n], what is chosen to follow each of their last n tokens; the
        first of these is the new token number `place`."""
        states = states_of(self.model, ids[:, self.start + self.cache.length :], self.cache)[:, -n:]
        return choice(self.model.logits(states)[..., : self.model.config.vocab_size], place)

    def keep(self, time: int) -> None:
        """Forget what was read after the first `time` tokens: it is written over."""
        self.cache.length = min(self.cache.length, time - self.start)


def states_of(model: Model, ids: Tensor, cache: Cache | None = None) -> Tensor:  # → [batch, time, n_embd]
    """`model.states`. Behind a long text in bfloat16 a processor reads some tokens more, which nothing looks at: it
    compiles products for every length that it has not met (kernels/linear.py) and keeps them, 750 MB for 256 lengths
    and 14 M weights."""
    time = ids.shape[1]
    compiled = model.activations == torch.bfloat16 and ids.device.type == "cpu"
    if time <= LONG or not compiled or model.recurrent:  # an LSTM would remember them
        return model.states(ids, cache)
    room = (cache.size - cache.length if cache else model.config.context) - time
    spare = min(spare_rows(time), max(0, room))  # a text that has no room is refused as it is
    states = model.states(F.pad(ids, (0, spare)), cache)
    if cache:
        cache.length -= spare
    return states[:, :time]


def worth_laying_out(texts: int, max_new_tokens: int) -> bool:
    """Whether to write with `GPT.writer`."""
    return max_new_tokens >= MANY_TOKENS and (texts == 1 or texts >= MANY_TEXTS)


@torch.inference_mode()
def continued(model: Model, ids: Tensor, max_new_tokens: int, choice: Choice, draft: Model | None = None) -> Tensor:
    """`GPT.generate` → [batch, time + max_new_tokens]; a draft guesses for one text.

    The draft runs some tokens ahead. One pass of the model then says what it would have chosen after each of them. That
    is taken up to the first place where the draft had guessed otherwise: a token a pass or more, and the text is the
    model's own (a product with several positions adds in another order: up to rounding).
    """
    context, prompt = model.config.context, ids.shape[1]
    start, end = max(0, prompt - context), prompt + max_new_tokens
    while ids.shape[1] < end:
        reader, ahead = Reader(model, model.cache(len(ids)), start), None
        full = min(end, start + context + 1)
        while (time := ids.shape[1]) < full:
            new, guessed = time - prompt, ids
            choice.settle(new)
            if ahead:
                for place in range(new, new + min(GUESSES, full - time - 1)):
                    guessed = torch.cat([guessed, ahead.following(guessed, choice, place)], dim=1)
            said = reader.following(guessed, choice, new, guessed.shape[1] - time + 1)
            if ahead:
                right = int((said[0, :-1] == guessed[0, time:]).cumprod(0).sum())
                said = said[:, : right + 1]
                reader.keep(time + right)
                ahead.keep(time + right)
            elif draft:  # it goes on from what the model has read: it is slow with many tokens
                ahead = Reader(draft, reader.cache.repeated(1, draft.activations), start)
            ids = torch.cat([ids, said], dim=1)
        start = ids.shape[1] - max(1, context // 2)
    choice.check()
    return ids


@torch.inference_mode()
def continue_together(
    model: Model, prompts: Sequence[Sequence[int]], max_new_tokens: int, choices: Sequence[Choice]
) -> Tensor:  # → [prompts, max_new_tokens]
    """What GPT.generate writes after each prompt (at least one token each) chosen its way; in bfloat16 two tokens
    that are as likely as each other up to its rounding may change places.

    The newest tokens of all rows go through the model in one pass. In `ids` the prompts stand at the right, so that all
    rows grow there; in the cache at the left, each with its own number of positions. A row whose context is full is
    read anew from its last half, as GPT.generate does. An LSTM goes on with one prompt after another.
    """
    device, context, longest = model.tokens.weight.device, model.config.context, max(map(len, prompts))
    if model.recurrent:
        alone = [torch.tensor([prompt], device=device) for prompt in prompts]
        rows = zip(alone, choices, strict=True)
        return torch.cat([continued(model, row, max_new_tokens, choice)[:, row.shape[1] :] for row, choice in rows])
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    cache = model.cache(len(prompts), min(context, longest + max_new_tokens))
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
        logits = model.logits(model.states(ids[:, -1:], cache))[..., : model.config.vocab_size]
        for choice in choices:
            choice.settle(step)
        chosen = [choice(row, step) for row, choice in zip(torch.split(logits, 1), choices, strict=True)]
        ids = torch.cat([ids, torch.cat(chosen)], dim=1)
        lengths = [length + 1 for length in lengths]
    for choice in choices:
        choice.check()
    return ids[:, longest:]


def read(model: Model, ids: Tensor, cache: Cache, row: int) -> None:
    """Make row `row` of the cache that of `ids` [1, time]."""
    time = ids.shape[1]
    if time:
        own = model.cache(1)
        states_of(model, ids, own)
        for buffer, filled in zip(cache.keys + cache.values, own.keys + own.values, strict=True):
            buffer[row, :, :time] = filled[0, :, :time]
