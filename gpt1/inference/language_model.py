"""A language model with its tokenizer: the next token, text generation, scores and features of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gpt1.console import default_progress
from gpt1.errors import UserError
from gpt1.generation.decoding import decode, decode_batch, decode_batch_stream, decode_stream, pays_to_pack, prefill
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import check_finite
from gpt1.inference.scoring import check_stride, default_stride, mean_states, score_texts
from gpt1.inference.streaming import RecordingSampler, TextStream, check_stop_strings, make_sampler, token_details
from gpt1.model.gpt import GPT
from gpt1.progress import Progress
from gpt1.tables.frames import frame_like, is_frame, is_series, records_like, series_texts
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
            max_tokens: Most new tokens.
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
        texts = [text] if isinstance(text, str) else list(text)
        ends = check_stop_strings(stop)
        if logprobs < 0:
            raise UserError(f"logprobs {logprobs} is out of range.", "Use 0 (none) or more.")
        samplers = [
            make_sampler(temperature, top_k, top_p, None if seed is None else seed + i, self.device, logprobs)
            for i in range(len(texts))
        ]
        if stream:
            if len(texts) != 1:
                raise UserError(f"stream=True takes one prompt, not {len(texts)}.", "Generate one prompt at a time.")
            pieces = self.stream(texts[0], max_tokens, samplers[0], ends)
            return pieces if logprobs else (piece["text"] for piece in pieces)
        if len(texts) == 1:
            results = [self.generate_one(texts[0], max_tokens, samplers[0], ends)]
        else:
            results = self.generate_batches(texts, max_tokens, samplers, ends, progress or default_progress())
        answers = results if logprobs else [result["text"] for result in results]
        return answers[0] if isinstance(text, str) else answers

    def generate_one(
        self, prompt: str, max_tokens: int, sampler: RecordingSampler, stop: Sequence[str]
    ) -> dict[str, Any]:
        """`text` (the prompt with its continuation) and `tokens` of one prompt."""
        if stop:
            parts = list(self.stream(prompt, max_tokens, sampler, stop))
            text = prompt + "".join(part["text"] for part in parts)
            return {"text": text, "tokens": [token for part in parts for token in part["tokens"]]}
        model, draft = self.models_for(max_tokens)
        ids = self.encode_prompt(prompt)
        new = decode(model, ids, max_tokens, sampler, draft)[0, ids.shape[1] :].tolist()
        return {"text": self.join_continuation(prompt, new), "tokens": self.token_details(new, sampler)}

    def models_for(self, max_tokens: int) -> tuple[GPT, GPT | None]:
        """(model, draft model or None) that generate one text fastest."""
        return self.decoding_models if pays_to_pack(1, max_tokens) else (for_inference(self.gpt), None)

    def text_stream(self, prompt: str, stop: Sequence[str]) -> TextStream:
        return TextStream(lambda new: self.join_continuation(prompt, new)[len(prompt) :], stop)

    def token_details(self, ids: Sequence[int], sampler: RecordingSampler, begin: int = 0) -> list[dict[str, Any]]:
        """Log-probabilities of the new tokens from number `begin` on; empty if none were recorded."""
        return token_details(ids, sampler.recorded, self.tokenizer.display_token, begin) if sampler.k else []

    def stream(
        self, prompt: str, max_tokens: int, sampler: RecordingSampler, stop: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Generate one text: `text` and `tokens` (log-probabilities, if the sampler records them) of each piece."""
        ids = self.encode_prompt(prompt)
        model, draft = self.models_for(max_tokens)
        text = self.text_stream(prompt, stop)
        told = 0  # tokens whose log-probabilities were returned
        for chosen in decode_stream(model, ids, max_tokens, sampler, draft):
            piece = "".join(text.add(id) for id in chosen[0].tolist())
            known = len(text.ids) if text.stopped else sum(start < text.written for start in text.starts)
            if piece:
                yield {"text": piece, "tokens": self.token_details(text.ids[told:known], sampler, told)}
                told = max(told, known)
            if text.stopped:
                return
        rest = text.finish()
        if rest or told < len(text.ids):
            yield {"text": rest, "tokens": self.token_details(text.ids[told:], sampler, told)}

    def generate_batches(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        samplers: Sequence[RecordingSampler],
        stop: Sequence[str],
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """Generate several texts, in batches of prompts of similar length; a batch ends when all its texts have."""
        ids = [self.encode_prompt(prompt)[0].tolist() for prompt in prompts]
        packed = pays_to_pack(len(prompts), max_tokens)
        model = self.decoding_models[0] if packed else for_inference(self.gpt)
        texts = [self.text_stream(prompt, stop) for prompt in prompts]
        new_ids: list[list[int]] = [[] for _ in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
        progress.begin("generating", len(prompts), unit="texts")
        for start in range(0, len(prompts), MAX_PARALLEL_TEXTS):
            batch = by_length[start : start + MAX_PARALLEL_TEXTS]
            arguments = model, [ids[i] for i in batch], max_tokens, [samplers[i] for i in batch]
            # Without stop strings nothing is read before the end: on a GPU every look at a token waits for it.
            for chosen in decode_batch_stream(*arguments) if stop else [decode_batch(*arguments)]:
                for i, row in zip(batch, chosen.tolist(), strict=True):
                    new_ids[i] += row
                    for id in row if stop else []:
                        texts[i].add(id)
                if stop and all(texts[i].stopped for i in batch):
                    break
            progress.advance(start + len(batch))
        progress.end()
        found = []
        for prompt, text, ids_of_text, sampler in zip(prompts, texts, new_ids, samplers, strict=True):
            kept = text.ids if stop else ids_of_text
            whole = prompt + text.text if stop else self.join_continuation(prompt, kept)
            found.append({"text": whole, "tokens": self.token_details(kept, sampler)})
        return found

    def join_continuation(self, text: str, new_ids: list[int]) -> str:
        """A prompt followed by the decoded new tokens."""
        separator = " " if self.tokenizer.pipeline == "original" and new_ids and text and not text[-1].isspace() else ""
        return text + separator + self.tokenizer.decode(new_ids)

    def score(self, texts: Any, stride: int | None = None) -> Any:
        """How likely the model finds texts. Each is scored as a document of its own: after a newline.

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
            [texts, n_embd], float32; for a Series a DataFrame with the columns `feature_0`, `feature_1`, …
        """
        encoded = self.tokenizer.encode_batch(read_text_list(texts))
        stride = default_stride(self.gpt.config.context)
        return features_like(
            texts, mean_states(self.gpt, [ids or [self.tokenizer.newline_id] for ids in encoded], stride)
        )

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
        raise UserError("a list of texts is needed, not a single one.", "Use [text].")
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(
                f"text {i + 1} is not a string but of type {type(text).__name__}.", "Use a list of strings."
            )
    return found


def features_like(texts: Any, states: Tensor) -> Any:
    """[texts, n_embd] as an array, or as a DataFrame if `texts` is one."""
    values = states.numpy()
    if not is_frame(texts):
        return values
    return frame_like(texts, {f"feature_{i}": column for i, column in enumerate(values.T.tolist())})


def not_finetuned_error(name: str, run: str = "RUN") -> UserError:
    command = f"gpt1 finetune TABLE --from {run} --out runs/NAME --kind classification --text COLUMN --label COLUMN"
    return UserError(f"{name} is pre-trained but not fine-tuned for a task.", f"Fine-tune it first: {command}")
