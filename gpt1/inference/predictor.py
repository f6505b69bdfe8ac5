"""Load a model: next-token probabilities, text generation, predictions for rows. No training code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt1.console import default_progress
from gpt1.devices import resolve_device, resolve_precision
from gpt1.errors import UserError
from gpt1.files.reading import InputFile, open_input
from gpt1.generation.decoding import decode, decode_batch, pays_to_pack, prefill
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler, check_finite
from gpt1.inference.foreign_task import drop_padding_row, encode_plain, read_any_task
from gpt1.inference.task_logits import InputStatistics, compute_task_logits, ignore_empty
from gpt1.model.gpt import GPT
from gpt1.model.head import TaskModel
from gpt1.model.weights import read_tokenizer_fingerprint
from gpt1.progress import NullProgress, Progress
from gpt1.runs.folder import find_model_folder, verify_run
from gpt1.tables.table import Table
from gpt1.tasks.examples import check_columns, read_examples
from gpt1.tasks.kinds import KINDS, EncodedExample, Example, encode_examples, example_texts
from gpt1.tasks.targets import Answers, Classes, LabelValue, Target, decode_predictions
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
        temperature: float = 0.8,
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
        texts, progress = [text] if isinstance(text, str) else text, progress or default_progress()
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
    command = f"gpt1 finetune TABLE --from {run} --out runs/NAME --kind classification --text COLUMN --label COLUMN"
    return UserError(f"{name} is pre-trained but not fine-tuned for a task.", f"Fine-tune it first: {command}")


class TaskPredictor(LanguageModel):
    """A fine-tuned model: predictions for rows, with calibrated probabilities."""

    def __init__(self, model: TaskModel, tokenizer: Tokenizer, task: Mapping[str, Any], target: Target) -> None:
        super().__init__(model.gpt, tokenizer)
        self.task_model = model
        self.task = task
        self.kind = KINDS[task["kind"]]
        self.target = target
        self.temperature = float(task.get("temperature", 1.0))
        self.cut, self.long = task.get("cut", "longest"), task.get("long", "cut")

    @property
    def labels(self) -> list[LabelValue]:
        """Labels of the columns of `predict_proba`, in the type that they had in the training rows; for multiple choice
        the indices of the answers, for scores none."""
        if isinstance(self.target, Classes):
            return list(self.target.values or self.target.labels)
        return [str(k) for k in range(self.target.most)] if isinstance(self.target, Answers) else []

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that a row needs, by role."""
        return {role: column for role, column in self.task["columns"].items() if role != "label"}

    def read_rows(self, rows: Sequence[Any]) -> list[Example]:
        """Read rows (dicts by column; plain strings if the task has one text) as examples."""
        columns = self.text_columns
        if isinstance(rows, str | Mapping):
            raise UserError("predict takes a list of rows, not a single row.", "Use predict([row]).")
        if hasattr(rows, "columns"):  # iterating over a DataFrame gives its column names, which would be taken as texts
            problem = f"predict takes a list of rows, not a table ({type(rows).__name__})."
            raise UserError(problem, "For a pandas DataFrame use df.to_dict('records').")
        rows = [{columns["text"]: row} if isinstance(row, str) and "text" in columns else row for row in rows]
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                wanted = ", ".join(columns.values())
                raise UserError(f"row {i + 1} has the type {type(row).__name__}.", f"Use a dict with {wanted}.")
            check_columns(self.kind, columns, list(row), f"row {i + 1}")
        return read_examples(rows, self.kind, columns, lambda i: f"row {i + 1}", labelled=False)

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        ids = self.tokenizer.encode_batch(example_texts(examples))
        config = self.gpt.config
        if not config.special_tokens:  # imported from transformers, whose classifier has none
            return encode_plain(ids, config.context, self.tokenizer.newline_id, self.task.get("pad"))
        shared_prefix = not self.gpt.recurrent
        return encode_examples(
            self.kind, examples, ids, config.vocab_size, config.context, self.cut, self.long, shared_prefix
        )

    def logits(self, examples: Sequence[Example]) -> Tensor:  # → [examples, outputs], not divided by the temperature
        logits = compute_task_logits(self.task_model, self.encode(examples), self.device)
        check_finite(logits)
        return ignore_empty(examples, logits)

    def decode(self, examples: Sequence[Example], logits: Tensor) -> list[dict[str, Any]]:
        """Predictions from logits that are not divided by the temperature; None for rows without text."""
        rows = decode_predictions(self.target, logits / self.temperature)
        return [row if example.has_text else dict.fromkeys(row) for example, row in zip(examples, rows, strict=True)]

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Predict rows.

        Args:
            rows: Dicts by column name, or plain strings if the task has one text.

        Returns:
            For every row `prediction` and `probability_<label>`, or `score`; all None for a row without text.

        Raises:
            UserError: For a row that does not have the columns of the task.
        """
        examples = self.read_rows(rows)
        return self.decode(examples, self.logits(examples)) if examples else []

    def predict_table(
        self, table: Table, columns: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """As `predict`, for a table; errors name the line of a row.

        Args:
            table: The rows.
            columns: Role -> column name; by default as in training.
            progress: Receives messages and progress.
        """
        columns = columns or self.text_columns
        check_columns(self.kind, columns, table.columns, table.name)
        examples = read_examples(table.rows, self.kind, columns, table.locate_row, labelled=False)
        logits = self.logits_with_progress(self.encode(examples), table.name, progress or NullProgress())
        return self.decode(examples, logits)

    def logits_with_progress(
        self, encoded: Sequence[EncodedExample], name: str, progress: Progress
    ) -> Tensor:  # → [examples, outputs]
        """As `compute_task_logits`, with statistics of the input and a progress bar."""
        statistics = InputStatistics()
        statistics.add(encoded, self.tokenizer)
        progress.log(statistics.summary(name, self.gpt.config.context, self.long))
        progress.begin("predicting", len(encoded), unit="rows")
        logits = compute_task_logits(self.task_model, encoded, self.device, progress.advance)
        progress.end()
        check_finite(logits)
        return logits

    def predict_examples(
        self, examples: Sequence[Example], statistics: InputStatistics, advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """Predict a block of examples, add it to `statistics`, and call `advance` with the number of examples done."""
        encoded = self.encode(examples)
        statistics.add(encoded, self.tokenizer)
        logits = compute_task_logits(self.task_model, encoded, self.device, advance)
        check_finite(logits)
        return self.decode(examples, logits)

    def predict_proba(self, rows: Sequence[Any]) -> NDArray[np.float64]:  # → [rows, labels]
        """Predict probabilities.

        Args:
            rows: As for `predict`.

        Returns:
            [rows, labels], columns as in `labels`; equal probabilities for a row without text. For multiple choice,
            missing answers have probability 0, and rows
            with more answers than in training add columns.

        Raises:
            UserError: For a model that predicts scores.
        """
        if not self.labels:
            raise UserError(f"a {self.kind.name} model of scores has no probabilities.", "Use predict.")
        if not (examples := self.read_rows(rows)):
            return np.zeros((0, len(self.labels)))
        probabilities = (self.logits(examples) / self.temperature).double().softmax(-1).numpy()
        missing = max(0, len(self.labels) - probabilities.shape[1])
        return np.pad(probabilities, ((0, 0), (0, missing)))


def load(
    folder: str | Path, device: str | torch.device = "auto", precision: str = "fp32", verify: bool = True
) -> TaskPredictor | LanguageModel:
    """Load the model of a run or model folder. No code from the folder is executed.

    Args:
        folder: A run or model folder, `starter`, or a name on the Hugging Face hub, `owner/name[@revision]`.
        device: `cpu`, `cuda`, ...; `auto`: a GPU if there is one.
        precision: `fp32`; `bf16` (half the memory, twice as fast if the device supports it natively); `auto`: bf16 if
            it is faster.
        verify: Compare the files with the SHA-256 hashes in the manifest.json of the folder, if it has one.

    Returns:
        `TaskPredictor` for a fine-tuned model, else `LanguageModel`.

    Raises:
        UserError: If the folder is not a model folder, or its files are damaged or do not match.
    """
    path = find_model_folder(folder)
    gpt, tokenizer = load_model_and_tokenizer(folder, verify)
    device = resolve_device(str(device))
    gpt.activation_dtype, _ = resolve_precision(precision, device)
    gpt = for_inference(gpt.to(device))
    if (stored := read_any_task(path)) is None:
        return LanguageModel(gpt, tokenizer)
    return TaskPredictor(TaskModel(gpt, stored.head).to(device).eval(), tokenizer, stored.task, stored.target)


def load_model_and_tokenizer(folder: str | Path, verify: bool = True) -> tuple[GPT, Tokenizer]:
    """Load a model and its tokenizer, and check that they belong together. verify: see `load`."""
    path = find_model_folder(folder)
    if verify and path != Path(folder):
        verify_run(Path(folder))
    gpt, tokenizer = GPT.from_pretrained(path, verify), Tokenizer.load(path)
    drop_padding_row(path, gpt, tokenizer.vocab_size)
    if tokenizer.vocab_size != gpt.config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {gpt.config.vocab_size:,}.",
            "Copy the tokenizer that the model was trained with into the folder.",
        )
    if (expected := read_tokenizer_fingerprint(path)) and expected != tokenizer.fingerprint:
        raise UserError(
            f"{path}: the tokenizer is not the one that the model was trained with (same size, other tokens).",
            "Copy the model folder again.",
        )
    return gpt, tokenizer


def load_task_predictor(
    folder: str | Path, device: str | torch.device = "auto", precision: str = "fp32", verify: bool = True
) -> TaskPredictor:
    """As `load`; raises UserError if the model is not fine-tuned."""
    model = load(folder, device, precision, verify)
    if not isinstance(model, TaskPredictor):
        raise not_finetuned_error(str(folder), str(folder))
    return model


def generation_oom_advice(n_texts: int, precision: str) -> str:
    """How to reduce the memory of generation, after it ran out."""
    parallel = min(n_texts, MAX_PARALLEL_TEXTS)
    advice = ["Use --precision bf16 to halve the memory of the model."] if precision == "fp32" else []
    if parallel > 1:
        advice.append(f"Pass {parallel // 2} texts at a time (now {parallel}) to halve the memory of the KV cache.")
    return " ".join(advice) or "Close other programs, or use a smaller model."


def read_prompts(path: str) -> tuple[str, ...]:
    """The non-empty lines of a text file (`-`: standard input)."""
    if path == "-":
        lines = [*InputFile("standard input", "txt", sys.stdin.buffer, sys.stdin.buffer, 0).lines()]
    else:
        with open_input(path) as file:
            lines = [*file.lines()]
    return tuple(text for line in lines if (text := line.strip("\r\n")))
