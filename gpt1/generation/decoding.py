"""Decoding with a KV cache: one text, speculatively, or several of equal length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler
from gpt1.kernels.kv_cache import KVCache
from gpt1.kernels.linear import pad_rows
from gpt1.model.gpt import GPT

DRAFT_TOKENS = 8  # tokens that the draft model decodes ahead
MIN_NEW_TOKENS = 64  # from here on, packing and quantizing the weights pays
LONG_PROMPT = 32  # tokens; longer prompts are padded in prefill


def generate(
    model: GPT,
    ids: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # [batch, time] → [batch, time + max_new_tokens]
    """Generate text after `ids`, with a KV cache; a single text with speculative decoding.

    When the context is full, the model continues from its last half: this costs one prefill every context / 2 tokens,
    and the model always sees at least context / 2 tokens.

    Args:
        model: In eval mode.
        ids: [batch, time], at least one token each.
        max_new_tokens: Number of tokens to generate.
        temperature: Divides the logits; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens; 0: from all.
        top_p: Sample from the smallest set of most likely tokens with at least this total probability.
        generator: Random generator on the model's device; by default torch's own.

    Returns:
        [batch, time + max_new_tokens].

    Raises:
        UserError: The prompt is empty, or logits are not finite.
    """
    if ids.shape[1] == 0:
        raise UserError("the prompt has no tokens.", "Use a prompt of at least one word.")
    sampler = Sampler(temperature, top_k, top_p, generator)
    ready, draft = for_inference(model), None
    if len(ids) == 1 and should_pack(max_new_tokens):
        ready, draft = prepare_for_decoding(model)
    return decode(ready, ids, max_new_tokens, sampler, draft)


def should_pack(max_new_tokens: int) -> bool:
    """Whether `prepare_for_decoding` saves more time than it takes, for one text."""
    return max_new_tokens >= MIN_NEW_TOKENS


class DecodingState:
    """A model and its KV cache of texts [batch, time], from position `start` on."""

    def __init__(self, model: GPT, kv_cache: KVCache, start: int) -> None:
        self.model, self.kv_cache, self.start = model, kv_cache, start

    def next_tokens(self, ids: Tensor, sampler: Sampler, first: int, n: int = 1) -> Tensor:
        """Run the model on the new tokens of ids [batch, time], and sample the next token after each of the last n.

        Returns:
            [batch, n], the new tokens number `first`, `first` + 1, …
        """
        new = ids[:, self.start + self.kv_cache.length :]
        hidden_states = prefill(self.model, new, self.kv_cache)[:, -n:]
        return sampler(self.model.logits(hidden_states)[..., : self.model.config.vocab_size], first)

    def truncate(self, time: int) -> None:
        """Drop the cache after the first `time` tokens; it will be overwritten."""
        self.kv_cache.length = min(self.kv_cache.length, time - self.start)


def prefill(model: GPT, ids: Tensor, kv_cache: KVCache | None = None) -> Tensor:  # → [batch, time, n_embd]
    """`model.hidden_states`, with few different lengths.

    Long texts in bfloat16 on a CPU are padded, and the padding is ignored: oneDNN compiles and keeps products for every
    new length (kernels/linear.py), 750 MB for 256 lengths and 14M parameters.
    """
    time = ids.shape[1]
    compiled = model.activation_dtype == torch.bfloat16 and ids.device.type == "cpu"
    if time <= LONG_PROMPT or not compiled or model.recurrent:  # an LSTM cannot ignore padding
        return model.hidden_states(ids, kv_cache=kv_cache)
    free = (kv_cache.size - kv_cache.length if kv_cache else model.config.context) - time
    padding = min(pad_rows(time), max(0, free))  # a text that does not fit raises an error below
    hidden_states = model.hidden_states(F.pad(ids, (0, padding)), kv_cache=kv_cache)
    if kv_cache:
        kv_cache.length -= padding
    return hidden_states[:, :time]


def decode(
    model: GPT, ids: Tensor, max_new_tokens: int, sampler: Sampler, draft: GPT | None = None
) -> Tensor:  # [batch, time] → [batch, time + max_new_tokens]
    """All tokens of `decode_stream`, after those of the prompt."""
    return torch.cat([ids, *decode_stream(model, ids, max_new_tokens, sampler, draft)], dim=1)


@torch.inference_mode()
def decode_stream(
    model: GPT, ids: Tensor, max_new_tokens: int, sampler: Sampler, draft: GPT | None = None
) -> Iterator[Tensor]:
    """Decode texts of equal length; for a single text, speculatively with a draft model (Leviathan et al., 2023).

    The draft model decodes some tokens ahead. One pass of the model then gives its own tokens at these positions, which
    are accepted up to the first that differs from the draft. So each pass gives at least one token, and the text is
    that of the model alone, up to rounding (a product over several positions sums in a different order).

    Args:
        model: Prepared for inference.
        ids: [batch, time].
        max_new_tokens: Number of tokens to generate.
        sampler: Samples the tokens of both models, with the same random numbers.
        draft: The draft model; only for batch 1.

    Yields:
        [batch, new], one or more new tokens of each text.
    """
    context, prompt = model.config.context, ids.shape[1]
    start, end = max(0, prompt - context), prompt + max_new_tokens
    while ids.shape[1] < end:
        state, draft_state = DecodingState(model, model.new_kv_cache(len(ids)), start), None
        full = min(end, start + context + 1)
        while (time := ids.shape[1]) < full:
            new, drafted = time - prompt, ids
            sampler.discard_before(new)
            if draft_state:
                for number in range(new, new + min(DRAFT_TOKENS, full - time - 1)):
                    drafted = torch.cat([drafted, draft_state.next_tokens(drafted, sampler, number)], dim=1)
            chosen = state.next_tokens(drafted, sampler, new, drafted.shape[1] - time + 1)
            if draft_state:
                accepted = int((chosen[0, :-1] == drafted[0, time:]).cumprod(0).sum())
                chosen = chosen[:, : accepted + 1]
                state.truncate(time + accepted)
                draft_state.truncate(time + accepted)
            elif draft:  # starts from the model's cache, since a draft model is slow in prefill
                draft_state = DecodingState(draft, state.kv_cache.repeat(1, draft.activation_dtype), start)
            ids = torch.cat([ids, chosen], dim=1)
            yield chosen
        start = ids.shape[1] - max(1, context // 2)
    sampler.check()
