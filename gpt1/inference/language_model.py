"""A language model with its tokenizer: the next token, text generation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.decoding import decode, decode_batch, pays_to_pack, prefill
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler, check_finite
from gpt1.model.gpt import GPT
from gpt1.progress import NullProgress, Progress
from gpt1.tokenization.tokenizer import Tokenizer

MAX_PARALLEL_TEXTS = 32
"""Texts that are generated in parallel; bounds the memory of the KV cache."""


class LanguageModel:
    """A language model with its tokenizer: next-token probabilities and text generation."""

    def __init__(self, gpt: GPT, tokenizer: Tokenizer) -> None:
        self.gpt = gpt
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return self.gpt.tokens.weight.device

    @cached_property
    def decoding_models(self) -> tuple[GPT, GPT | None]:
        """(model with packed weights, draft model or None) for decoding long texts; prepared on first use."""
        return prepare_for_decoding(self.gpt)

    def encode_prompt(self, text: str) -> Tensor:  # → [1, time]
        """Ids of the last `context` tokens of the text; of an empty text, the newline between documents."""
        ids = self.tokenizer.encode(text) or [self.tokenizer.newline_id]
        return torch.tensor([ids[-self.gpt.config.context :]], device=self.device)

    def truncation_warning(self, text: str, name: str = "the text") -> str | None:
        """A warning if a prompt is truncated or has unknown tokens, else None."""
        ids = self.tokenizer.encode(text)
        unknown, context = self.tokenizer.count_unknown(ids[-self.gpt.config.context :]), self.gpt.config.context
        warnings = [f"its {len(ids):,} tokens are truncated to the last {context}"] if len(ids) > context else []
        warnings += [f"{unknown:,} of {min(len(ids), context):,} tokens are unknown"] if unknown else []
        return f"{name}: {'; '.join(warnings)}" if warnings else None

    @torch.inference_mode()
    def next_tokens(self, text: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most likely next tokens and their probabilities (paper, eq. 2).

        Args:
            text: The text that the tokens follow.
            k: Number of tokens.

        Returns:
            (token, probability), most likely first.
        """
        return [(token, probability) for token, _, probability in self.top_next_tokens(text, k)]

    @torch.inference_mode()
    def top_next_tokens(self, text: str, k: int = 10) -> list[tuple[str, int, float]]:
        """As `next_tokens`, with ids: (token, id, probability)."""
        states = prefill(self.gpt, self.encode_prompt(text))[:, -1]
        logits = self.gpt.logits(states)[0, : self.gpt.config.vocab_size]
        check_finite(logits)
        probabilities = logits.softmax(-1)
        best = probabilities.topk(min(k, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.tokenizer.display_token(i), i, p) for i, p in pairs]

    @overload
    def generate(self, text: str, *args: Any, **kwargs: Any) -> str: ...

    @overload
    def generate(self, text: list[str] | tuple[str, ...], *args: Any, **kwargs: Any) -> list[str]: ...

    def generate(
        self,
        text: str | list[str] | tuple[str, ...],
        max_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> str | list[str]:
        """Generate text that continues one or several prompts.

        Args:
            text: A prompt, or a list of prompts, which are continued in parallel.
            max_tokens: Most new tokens.
            temperature: Divides the logits; 0 always takes the most likely token.
            top_k: Sample from the k most likely tokens; 0: all.
            top_p: Sample from the most likely tokens whose probabilities sum to at least this.
            seed: Random seed; prompt i (from 0) uses `seed + i`, as if it were alone. None: not reproducible.
            progress: Receives the progress of several prompts.

        Returns:
            The prompt with its continuation, or a list of them.
        """
        texts, progress = [text] if isinstance(text, str) else text, progress or NullProgress()
        prompts = [self.encode_prompt(prompt) for prompt in texts]
        seeds = [
            None if seed is None else torch.Generator(self.device).manual_seed(seed + i) for i in range(len(texts))
        ]
        samplers = [Sampler(temperature, top_k, top_p, generator) for generator in seeds]
        model, draft = self.decoding_models if pays_to_pack(len(texts), max_tokens) else (for_inference(self.gpt), None)
        if len(texts) == 1:
            ids = decode(model, prompts[0], max_tokens, samplers[0], draft)
            joined = self.join_continuation(texts[0], ids[0, prompts[0].shape[1] :].tolist())
            return joined if isinstance(text, str) else [joined]
        continuations: dict[int, list[int]] = {}
        by_length = sorted(range(len(texts)), key=lambda i: prompts[i].shape[1])
        progress.begin("generating", len(texts), unit="texts")
        for start in range(0, len(texts), MAX_PARALLEL_TEXTS):
            batch = by_length[start : start + MAX_PARALLEL_TEXTS]
            ids = decode_batch(model, [prompts[i][0].tolist() for i in batch], max_tokens, [samplers[i] for i in batch])
            continuations |= zip(batch, ids.tolist(), strict=True)
            progress.advance(len(continuations))
        progress.end()
        return [self.join_continuation(prompt, continuations[i]) for i, prompt in enumerate(texts)]

    def join_continuation(self, text: str, new_ids: list[int]) -> str:
        """A prompt followed by the decoded new tokens."""
        separator = " " if self.tokenizer.pipeline == "original" and new_ids and text and not text[-1].isspace() else ""
        return text + separator + self.tokenizer.decode(new_ids)

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Only for fine-tuned models: see `TaskPredictor`."""
        raise not_finetuned_error("this model")

    def predict_proba(self, rows: Sequence[Any]) -> NDArray[np.float64]:
        """Only for fine-tuned models: see `TaskPredictor`."""
        raise not_finetuned_error("this model")


def not_finetuned_error(name: str, run: str = "RUN") -> UserError:
    return UserError(
        f"{name} is pre-trained but not fine-tuned for a task.", f"Fine-tune it first: gpt1 finetune … --from {run}"
    )
