"""A language model with its tokenizer: the next token, text generation, scores and features of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.console import default_progress
from gpt1.errors import UserError, require_count
from gpt1.formatting import count_parameters
from gpt1.generation.continuous import Continuation, ContinuousBatch, batch_invariant
from gpt1.generation.decoding import decode, decode_stream, prefill, should_pack
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler, check_finite_logits
from gpt1.inference.scoring import check_stride, default_stride, mean_states, score_texts
from gpt1.inference.streaming import (
    ContinuationText,
    PlacedToken,
    RecordingSampler,
    check_stop_strings,
    continue_texts,
    make_sampler,
)
from gpt1.model.gpt import GPT
from gpt1.progress import Progress
from gpt1.runs.folder import FINETUNE_COMMAND
from gpt1.tables.frames import frame_like, is_frame, is_series, records_like, series_texts
from gpt1.tokenization.tokenizer import Tokenizer

MAX_SEED = 2**63 - 1
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

    @cached_property
    def batch_model(self) -> GPT:
        """The model for several texts at a time; prepared on first use."""
        return batch_invariant(self.gpt)

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
        (text,) = read_text_list([text])
        require_count(k, "k")
        return [(token, probability) for token, _, probability in self.top_next_tokens(text, k)]

    @torch.inference_mode()
    def top_next_tokens(self, text: str, k: int = 10) -> list[tuple[str, int, float]]:
        """As `next_tokens`, with ids: (token, id, probability)."""
        states = prefill(self.gpt, self.encode_prompt(text))[:, -1]
        logits = self.gpt.logits(states)[0, : self.gpt.config.vocab_size]
        check_finite_logits(logits)
        probabilities = logits.softmax(-1)
        best = probabilities.topk(min(k, len(probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.tokenizer.display_token(i), i, p) for i, p in pairs]

    def generate(
        self,
        text: str | list[str] | tuple[str, ...],
        max_tokens: int = 100,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stream: bool = False,
        logprobs: int = 0,
        progress: Progress | None = None,
    ) -> Any:
        """Generate text that continues one or several prompts.

        Args:
            text: A prompt, or a list of prompts, which are continued in parallel.
            max_tokens: Maximum number of new tokens.
            temperature: Divides the logits; 0 always takes the most likely token.
            top_k: Sample from the k most likely tokens; 0: all.
            top_p: Sample from the most likely tokens whose probabilities sum to at least this.
            seed: Random seed; prompt i (from 0) uses `seed + i`, as if it were alone. None: not reproducible.
            stop: One or more texts; the continuation ends before the first of them.
            stream: Return an iterator over the pieces of the continuation while it is generated. One prompt only.
            logprobs: Also return the log-probability of each token and of this many most likely ones, before
                temperature, top_k and top_p.
            progress: Receives the progress of several prompts.

        Returns:
            The prompt with its continuation, or a list of them. With `stream`, the pieces of the continuation, which
            add up to it. With `logprobs`, a dict takes the place of each text or piece: `text`, and `tokens` with
            `token`, `id`, `log_probability` and `top` of each new token.

        Raises:
            UserError: For a setting out of range, or several prompts with `stream`.
        """
        texts = [text] if isinstance(text, str) else read_text_list(text)
        ends = check_stop_strings(stop)
        for name, count in (("--max-tokens", max_tokens), ("--top-k", top_k), ("logprobs", logprobs)):
            require_count(count, name)
        require_count(0 if seed is None else seed, "--seed", maximum=MAX_SEED)
        recorded = logprobs if len(texts) == 1 else 0  # `Continuation` scores the tokens of several texts itself
        samplers = [
            make_sampler(temperature, top_k, top_p, None if seed is None else seed + i, self.device, recorded)
            for i in range(len(texts))
        ]
        if stream:
            if len(texts) != 1:
                raise UserError(f"stream=True takes one prompt, not {len(texts)}.", "Generate one prompt at a time.")
            pieces = self.stream(texts[0], max_tokens, samplers[0], ends)
            return pieces if logprobs else (piece["text"] for piece in pieces)
        if len(texts) == 1:
            parts = list(self.stream(texts[0], max_tokens, samplers[0], ends, at_once=not ends))
            whole = texts[0] + "".join(part["text"] for part in parts)
            results = [{"text": whole, "tokens": [token for part in parts for token in part["tokens"]]}]
        else:
            results = self.generate_batch(texts, max_tokens, samplers, ends, logprobs, progress or default_progress())
        answers = results if logprobs else [result["text"] for result in results]
        return answers[0] if isinstance(text, str) else answers

    def models_for(self, max_tokens: int) -> tuple[GPT, GPT | None]:
        """(model, draft model or None) that generate one text fastest."""
        return self.decoding_models if should_pack(max_tokens) else (for_inference(self.gpt), None)

    def continuation_text(self, prompt: str, ids: list[int], stop: Sequence[str]) -> ContinuationText:
        return ContinuationText(self.tokenizer, ids, stop, prompt[-1:].isspace())

    def token_details(self, tokens: Sequence[PlacedToken], logprobs: int) -> list[dict[str, Any]]:
        """`token`, `id`, `log_probability` and `top` of new tokens; empty without `logprobs`."""
        display = self.tokenizer.display_token
        return [
            {
                "token": display(score.id),
                "id": score.id,
                "log_probability": score.logprob,
                "top": [{"token": display(i), "id": i, "log_probability": p} for i, p in score.top],
            }
            for score, _ in (tokens if logprobs else ())
        ]

    def stream(
        self, prompt: str, max_tokens: int, sampler: RecordingSampler, stop: Sequence[str], at_once: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Generate one text: `text` and `tokens` (log-probabilities, if the sampler records them) of each piece.

        With `at_once` nothing is read before the end: on a GPU, reading a token waits for it.
        """
        ids = self.encode_prompt(prompt)
        given = ids, max_tokens, sampler
        model, draft = self.models_for(max_tokens)
        chunks: Iterable[Tensor] = (
            [decode(model, *given, draft)[:, ids.shape[1] :]] if at_once else decode_stream(model, *given, draft)
        )
        text, number = self.continuation_text(prompt, ids[0].tolist(), stop), 0
        for chunk in chunks:
            piece, tokens = "", list[PlacedToken]()
            for id in chunk[0].tolist():
                part = text.push(sampler.score(number, id), last=number + 1 == max_tokens)
                piece, number = piece + part.text, number + 1
                tokens += part.tokens
            if piece or tokens:
                yield {"text": piece, "tokens": self.token_details(tokens, sampler.k)}
            if text.stopped:
                return

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        samplers: Sequence[Sampler],
        stop: Sequence[str],
        logprobs: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """Generate several texts together: `text`, with the prompt, and `tokens` of each."""
        ids = [self.encode_prompt(prompt)[0].tolist() for prompt in prompts]
        texts = [self.continuation_text(prompt, own, stop) for prompt, own in zip(prompts, ids, strict=True)]
        pairs = zip(ids, samplers, strict=True)
        sequences = [Continuation(own, max_tokens, sampler, logprobs or None) for own, sampler in pairs]
        batch = ContinuousBatch(self.batch_model, min(MAX_PARALLEL_TEXTS, max(1, len(prompts))))
        found: list[dict[str, Any]] = [{"text": prompt, "tokens": []} for prompt in prompts]
        done = 0
        progress.begin("generating", len(prompts), unit="texts")
        for i, part, ended in continue_texts(batch, sequences, texts):
            found[i]["text"] += part.text
            found[i]["tokens"] += self.token_details(part.tokens, logprobs)
            if ended:
                done += 1
                progress.advance(done)
        progress.end()
        return found

    def score(self, texts: Any, stride: int | None = None) -> Any:
        """Score texts. Each is scored as a separate document: after a newline.

        Args:
            texts: A list of texts, or a Series.
            stride: A text longer than the context is read in overlapping windows, which move on by this many tokens;
                every token is predicted from at least context - stride tokens before it. Default: half of the context.

        Returns:
            For each text `log_probability` (natural logarithm, the sum over its tokens), `perplexity` (per token),
            `bits_per_byte` (of its UTF-8 form), and `tokens`: `token`, `id` and `log_probability` of each. An empty
            text has log-probability 0, and None for the other two. For a Series, a DataFrame of the three numbers.

        Raises:
            UserError: For a missing text, or a stride out of range.
        """
        stride = check_stride(stride, self.gpt.config.context)
        found = score_texts(self.gpt, self.tokenizer, read_text_list(texts), stride)
        if not is_frame(texts):
            return found
        return records_like(texts, [{k: v for k, v in score.items() if k != "tokens"} for score in found])

    def features(self, texts: Any) -> Any:
        """A vector for each text: the mean of the last block's states over its tokens.

        Texts longer than the context are read in windows that overlap by half of it.

        Args:
            texts: A list of texts, or a Series.

        Returns:
            [texts, n_embd], float32, NaN for empty texts; for a Series a DataFrame with the columns `feature_0`, …
        """
        read = read_text_list(texts)
        stride, newline = default_stride(self.gpt.config.context), [self.tokenizer.newline_id]
        states = mean_states(self.gpt, [ids or newline for ids in self.tokenizer.encode_batch(read)], stride)
        return features_like(texts, states, [bool(text.strip()) for text in read])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._description()})"

    def _description(self) -> str:
        config = self.gpt.config
        size = count_parameters(sum(p.numel() for p in self.gpt.parameters()))
        return f"{size}, context {config.context}, {config.vocab_size:,} tokens"

    def predict(self, rows: Any) -> Any:
        """Only for fine-tuned models: see `TaskPredictor`."""
        raise not_finetuned_error("this model")

    predict_proba = explain = predict


def read_text_list(texts: Any) -> list[str]:
    """A list of texts, or a Series, as strings; UserError for anything else, and for a missing text."""
    if is_frame(texts):
        if not is_series(texts):
            raise UserError("a DataFrame has several columns.", 'Choose one: df["text"].')
        return series_texts(texts)
    if isinstance(texts, str | Mapping):
        raise UserError("expected a list of texts, not a single text.", "Use [text].")
    if not isinstance(texts, Iterable):
        raise UserError(f"expected a list of texts, not {texts!r}.", "Use a list of strings.")
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(
                f"text {i + 1} is not a string but of type {type(text).__name__}.", "Use a list of strings."
            )
    return found


def features_like(texts: Any, states: Tensor, has_text: Sequence[bool]) -> Any:
    """[texts, n_embd] as an array, or as a DataFrame if `texts` is one; NaN for rows without text."""
    values = states.numpy()
    values[~np.array(has_text, dtype=bool)] = np.nan
    if not is_frame(texts):
        return values
    return frame_like(texts, {f"feature_{i}": column for i, column in enumerate(values.T.tolist())})


def not_finetuned_error(name: str, run: str = "RUN") -> UserError:
    fix = f"Fine-tune it first: {FINETUNE_COMMAND.format(run)}"
    return UserError(f"{name} is pre-trained but not fine-tuned for a task.", fix)
