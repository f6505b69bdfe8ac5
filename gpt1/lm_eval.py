"""gpt1 as a model of EleutherAI's lm-eval (`pip install gpt1[eval]`).

python -m gpt1.lm_eval --model gpt1 --model_args path=runs/books --tasks blimp

Versions of lm-eval that load plug-ins find the model by its entry point; then `lm-eval --model gpt1 …` works as well.

Every request begins with the newline token, which separates documents in training. It is lm-eval's prefix token, with
or without a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from gpt1.cli.exit import report_and_exit
from gpt1.console import Console
from gpt1.errors import GPT1Error, UserError
from gpt1.generation.continuous import Continuation, ContinuousBatch, batch_invariant
from gpt1.inference.language_model import MAX_PARALLEL_TEXTS
from gpt1.inference.predictor import load
from gpt1.inference.scoring import score_states
from gpt1.inference.streaming import ContinuationText, continue_texts, make_sampler
from gpt1.inference.task_logits import PREDICTION_BATCH_TOKENS
from gpt1.kernels.packing import PackedRow, Packing
from gpt1.tasks.collate import micro_batches
from gpt1.tasks.kinds import EncodedExample

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    missing = UserError("lm-eval is not installed.", "Install it with: pip install gpt1[eval]")
    if __name__ == "__main__":
        report_and_exit(missing)
    raise missing from None

DEFAULT_NEW_TOKENS = 256
"""lm-eval's own default of max_gen_toks."""
MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of one setting of lm-eval's tasks; the first that is given counts."""
LogLikelihood = tuple[float, bool]
"""Log-probability of a continuation, and whether greedy decoding would give it."""


class GPT1LM(LM):  # type: ignore[misc]
    """A run or model folder of gpt1 for lm-eval.

    Args:
        path: The folder.
        device: As for `gpt1.load`; a CUDA device that is not there is the CPU, because lm-eval's default is cuda:0.
        precision: As for `gpt1.load`.
        batch_size, max_batch_size: Ignored: batches have a fixed number of tokens, whatever the text lengths.
    """

    def __init__(
        self,
        path: str,
        device: str = "auto",
        precision: str = "fp32",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if device.startswith("cuda") and not torch.cuda.is_available():
            device = "auto"
        self.model = load(str(path), device, precision)
        self.gpt, self.tokenizer = self.model.gpt, self.model.tokenizer
        self._device = self.model.device

    @property
    def prefix_token_id(self) -> int:
        return self.tokenizer.newline_id

    @property
    def max_length(self) -> int:
        return self.gpt.config.context

    @property
    def tokenizer_name(self) -> str:
        return f"gpt1-{self.tokenizer.fingerprint[:16]}"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[LogLikelihood]:
        """Scores of `(context, continuation)` requests; contexts that are too long lose their beginning."""
        pairs = self.encode_pairs([request.args for request in requests])
        return self.score([([self.prefix_token_id, *context], text) for context, text in pairs])

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Ids of both parts. They are encoded together, with the spaces between them at the continuation."""
        contexts = self.tokenizer.encode_batch([context.rstrip() for context, _ in pairs])
        whole = self.tokenizer.encode_batch([context + text for context, text in pairs])
        return [(ids[: len(first)], ids[len(first) :]) for first, ids in zip(contexts, whole, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text after a newline, in windows of the full context.

        The windows do not overlap, except that the last one is filled with the tokens before it. `gpt1 evaluate` has
        the same windows for a corpus that is a newline and then a text of whole windows.
        """
        windows: list[tuple[list[int], list[int]]] = []
        counts = []
        for ids in self.tokenizer.encode_batch([request.args[0] for request in requests]):
            rolling = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
            own = [make_disjoint_window(window) for window in rolling]
            windows += own
            counts.append(len(own))
        scores = iter(self.score(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[LogLikelihood]:
        """Scores of continuations after their contexts (ids). At most `max_length` tokens are the model's input."""
        sequences = [[*context, *text][-self.max_length - 1 :] for context, text in pairs]
        scored = [min(len(text), len(ids) - 1) for (_, text), ids in zip(pairs, sequences, strict=True)]
        encoded = [EncodedExample([ids[:-1] if n else []]) for ids, n in zip(sequences, scored, strict=True)]
        results: list[LogLikelihood] = [(0.0, True)] * len(pairs)
        todo = [i for i, n in enumerate(scored) if n]
        console, done = Console(), 0
        console.begin("scoring", len(todo), unit="texts")
        for batch in micro_batches(encoded, todo, PREDICTION_BATCH_TOKENS):
            found = self.score_batch([sequences[i] for i in batch], [scored[i] for i in batch])
            for i, result in zip(batch, found, strict=True):
                results[i] = result
            console.advance(done := done + len(batch))
        console.end()
        return results

    @torch.inference_mode()
    def score_batch(self, sequences: Sequence[list[int]], scored: Sequence[int]) -> Iterator[LogLikelihood]:
        """Scores of the last `scored` tokens of each sequence, packed without padding."""
        rows = [PackedRow(0, (len(ids) - 1,)) for ids in sequences]
        inputs = torch.tensor([token for ids in sequences for token in ids[:-1]], device=self._device)
        targets = torch.tensor([token for ids in sequences for token in ids[1:]], device=self._device)
        is_scored = torch.tensor(
            [k >= len(ids) - 1 - n for ids, n in zip(sequences, scored, strict=True) for k in range(len(ids) - 1)],
            device=self._device,
        )
        states = self.gpt.hidden_states(inputs, packing=Packing(rows, self._device))[is_scored]
        log_p, is_top = score_states(self.gpt, states, targets[is_scored])
        parts = zip(torch.split(log_p, list(scored)), torch.split(is_top, list(scored)), strict=True)
        return iter([(float(part.sum()), bool(top.all())) for part, top in parts])

    @torch.inference_mode()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of `(context, settings)` requests, up to the first of the stop strings `until`.

        Settings: until, max_gen_toks (or another of `MAX_TOKENS_NAMES`), do_sample, temperature, top_k, top_p; greedy
        unless do_sample or a temperature is given. Sampling is reproducible.
        """
        sequences, texts = [], []
        for i, request in enumerate(requests):
            context, given = request.args
            max_tokens, temperature, top_k, top_p = decoding_settings(given)
            sampler = make_sampler(temperature, top_k, top_p, i, self._device)
            sequences.append(Continuation(self.encode_prompt(context, max_tokens), max_tokens, sampler))
            until = given.get("until") or []
            stop = [until] if isinstance(until, str) else until
            texts.append(ContinuationText(self.tokenizer, [], [string for string in stop if string]))
        batch = ContinuousBatch(batch_invariant(self.gpt), min(MAX_PARALLEL_TEXTS, max(1, len(requests))))
        answers = [""] * len(requests)
        for i, part, _ in continue_texts(batch, sequences, texts):
            answers[i] += part.text
        return answers

    def encode_prompt(self, context: str, max_tokens: int) -> list[int]:
        """Ids of the newline and the context; without its beginning, if there is no room for `max_tokens` more."""
        room = max(self.max_length - max_tokens, self.max_length // 2)
        return [self.prefix_token_id, *self.tokenizer.encode(context)][-room:]


def decoding_settings(given: dict[str, Any]) -> tuple[int, float, int, float]:
    """(most new tokens, temperature, top_k, top_p) from the settings of a request."""
    temperature, do_sample = float(given.get("temperature") or 0.0), given.get("do_sample")
    if not (temperature > 0 if do_sample is None else do_sample):
        temperature = 0.0
    elif not temperature:
        temperature = 1.0
    new_tokens = int(next((given[name] for name in MAX_TOKENS_NAMES if given.get(name)), DEFAULT_NEW_TOKENS))
    return new_tokens, temperature, int(given.get("top_k") or 0), float(given.get("top_p") or 1.0)


def main() -> None:
    """lm-eval's command line, with the model `gpt1` registered."""
    from lm_eval.__main__ import cli_evaluate

    from gpt1 import lm_eval as installed  # this file again, under the name of the entry point

    with suppress(ValueError):  # already there, from the entry point
        register_model("gpt1")(installed.GPT1LM)
    try:
        cli_evaluate()
    except GPT1Error as error:
        report_and_exit(error)


if __name__ == "__main__":
    main()
