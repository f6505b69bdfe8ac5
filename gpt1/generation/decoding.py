"""How texts are continued: one with speculative decoding, or several side by side, each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler
from gpt1.kernels.kv_cache import KVCache
from gpt1.kernels.linear import pad_rows
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT

DRAFT_TOKENS = 8  # that a draft model runs ahead
MIN_NEW_TOKENS = 64  # from here on, packing and rounding the weights pays
LONG_PROMPT = 32  # tokens of a text that may be read with some padding behind it
MIN_BATCH = 4  # texts side by side: fewer, except one, which a draft helps, are not worth packing


def generate(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # [batch, time] → [batch, time + max_new_tokens]
    """Continue `ids`, with a cache; one text with speculative decoding.

    Beyond the context, the model goes on from the last half of it: a rule that costs one pass every context / 2 tokens
    and never lets the past shrink below context / 2.

    Args:
        model: In eval mode.
        ids: [batch, time], at least one token each.
        max_new_tokens: Tokens to add to each.
        temperature: 0 takes the most likely token.
        top_k: Sample among the k most likely tokens; 0: all.
        top_p: Sample among the most likely tokens that hold this share of the probability.
        generator: Random numbers on the model's device; by default torch's own.

    Returns:
        [batch, time + max_new_tokens].

    Raises:
        UserError: for an empty prompt, or logits that are not finite.
    """
    if ids.shape[1] == 0:
        raise UserError("there is nothing to continue: the prompt has no tokens.", "Give at least one word.")
    sampler = Sampler(temperature, top_k, top_p, generator)
    if pays_to_pack(len(ids), max_new_tokens):
        ready, draft = prepare_for_decoding(model, draft=len(ids) == 1)
    else:
        ready, draft = for_inference(model), None
    return decode(ready, ids, max_new_tokens, sampler, draft)


def pays_to_pack(texts: int, max_new_tokens: int) -> bool:
    """Whether the time that `prepare_for_decoding` takes is won back."""
    return max_new_tokens >= MIN_NEW_TOKENS and (texts == 1 or texts >= MIN_BATCH)


class DecodingState:
    """A model and what it has read of texts [batch, time], from their token `start` on."""

    def __init__(self, model: GPT, kv_cache: KVCache, start: int) -> None:
        self.model, self.kv_cache, self.start = model, kv_cache, start

    def next_tokens(self, ids: Tensor, sampler: Sampler, place: int, n: int = 1) -> Tensor:
        """Read what is new of ids [batch, time] and choose what follows each of the last n tokens → [batch, n].

        The first of these is the new token number `place`.
        """
        new = ids[:, self.start + self.kv_cache.length :]
        hidden_states = prefill(self.model, new, self.kv_cache)[:, -n:]
        return sampler(self.model.logits(hidden_states)[..., : self.model.config.vocab_size], place)

    def truncate(self, time: int) -> None:
        """Forget what was read after the first `time` tokens: it is written over."""
        self.kv_cache.length = min(self.kv_cache.length, time - self.start)


def prefill(model: GPT, ids: Tensor, kv_cache: KVCache | None = None) -> Tensor:  # → [batch, time, n_embd]
    """`model.hidden_states`, for texts of any length.

    A long text in bfloat16 on a CPU is padded, and the padding ignored: oneDNN compiles products for every length that
    it has not met (kernels/linear.py) and keeps them, 750 MB for 256 lengths and 14 M weights.
    """
    time = ids.shape[1]
    compiled = model.activation_dtype == torch.bfloat16 and ids.device.type == "cpu"
    if time <= LONG_PROMPT or not compiled or model.recurrent:  # an LSTM would remember the padding
        return model.hidden_states(ids, kv_cache=kv_cache)
    room = (kv_cache.size - kv_cache.length if kv_cache else model.config.context) - time
    padding = min(pad_rows(time), max(0, room))  # a text without room is refused as it is
    hidden_states = model.hidden_states(F.pad(ids, (0, padding)), kv_cache=kv_cache)
    if kv_cache:
        kv_cache.length -= padding
    return hidden_states[:, :time]


@torch.inference_mode()
def decode(
    model: GPT, ids: Tensor, max_new_tokens: int, sampler: Sampler, draft: GPT | None = None
) -> Tensor:  # [batch, time] → [batch, time + max_new_tokens]
    """Continue texts of one length; for one text a draft model may guess (Leviathan et al., 2023).

    The draft runs some tokens ahead. One pass of the model then gives what it would have chosen after each of them,
    which counts up to the first place where the draft chose otherwise: one token a pass or more, and the text is the
    model's own (a product over several positions sums in another order: equal up to rounding).
    """
    context, prompt = model.config.context, ids.shape[1]
    start, end = max(0, prompt - context), prompt + max_new_tokens
    while ids.shape[1] < end:
        state, draft_state = DecodingState(model, model.new_kv_cache(len(ids)), start), None
        full = min(end, start + context + 1)
        while (time := ids.shape[1]) < full:
            new, guessed = time - prompt, ids
            sampler.discard_before(new)
            if draft_state:
                for place in range(new, new + min(DRAFT_TOKENS, full - time - 1)):
                    guessed = torch.cat([guessed, draft_state.next_tokens(guessed, sampler, place)], dim=1)
            chosen = state.next_tokens(guessed, sampler, new, guessed.shape[1] - time + 1)
            if draft_state:
                accepted = int((chosen[0, :-1] == guessed[0, time:]).cumprod(0).sum())
                chosen = chosen[:, : accepted + 1]
                state.truncate(time + accepted)
                draft_state.truncate(time + accepted)
            elif draft:  # it goes on from what the model has read: a draft is slow with many tokens
                draft_state = DecodingState(draft, state.kv_cache.repeat(1, draft.activation_dtype), start)
            ids = torch.cat([ids, chosen], dim=1)
        start = ids.shape[1] - max(1, context // 2)
    sampler.check()
    return ids


@torch.inference_mode()
def decode_batch(
    model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int, samplers: Sequence[Sampler]
) -> Tensor:  # → [prompts, max_new_tokens]
    """What `decode` writes after each prompt (at least one token each) with its own sampler.

    In bfloat16 two tokens that are equally likely up to its rounding may change places. The newest tokens of all rows
    go through the model in one pass. In `ids` the prompts are aligned right, so that all rows grow there; in the cache
    left, each with its own length. A row whose context is full is read again from its last half, as in `decode`. An
    LSTM continues one prompt after another.
    """
    device, context, longest = model.tokens.weight.device, model.config.context, max(map(len, prompts))
    if model.recurrent:
        single = [torch.tensor([prompt], device=device) for prompt in prompts]
        rows = zip(single, samplers, strict=True)
        return torch.cat([decode(model, row, max_new_tokens, sampler)[:, row.shape[1] :] for row, sampler in rows])
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    kv_cache = model.new_kv_cache(len(prompts), min(context, longest + max_new_tokens))
    for buffer in kv_cache.keys + kv_cache.values:
        buffer.zero_()  # what a row does not see has to be finite
    lengths = [0] * len(prompts)  # positions of each row in the cache
    for step in range(max_new_tokens):
        for row, length in enumerate(lengths):
            if not step or length == context:  # all but the newest token, which the pass below reads
                kept = max(1, context // 2) if step else min(len(prompts[row]), context)
                prefill_row(model, ids[row, None, -kept:-1], kv_cache, row)
                lengths[row] = kept - 1
        kv_cache.length, kv_cache.row_lengths = max(lengths), to_device(torch.tensor(lengths)[:, None], device)
        hidden_states = model.hidden_states(ids[:, -1:], kv_cache=kv_cache)
        logits = model.logits(hidden_states)[..., : model.config.vocab_size]
        for sampler in samplers:
            sampler.discard_before(step)
        chosen = [sampler(row, step) for row, sampler in zip(torch.split(logits, 1), samplers, strict=True)]
        ids = torch.cat([ids, torch.cat(chosen)], dim=1)
        lengths = [length + 1 for length in lengths]
    for sampler in samplers:
        sampler.check()
    return ids[:, longest:]


def prefill_row(model: GPT, ids: Tensor, kv_cache: KVCache, row: int) -> None:
    """Fill row `row` of the cache with what the model reads of ids [1, time]."""
    time = ids.shape[1]
    if time:
        own = model.new_kv_cache(1)
        prefill(model, ids, own)
        for buffer, filled in zip(kv_cache.keys + kv_cache.values, own.keys + own.values, strict=True):
            buffer[row, :, :time] = filled[0, :, :time]
