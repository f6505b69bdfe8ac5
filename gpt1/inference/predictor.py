"""Using a model: the next token's probabilities, text that continues a text, predictions for rows. No training code."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt1.devices import resolve_device, resolve_precision
from gpt1.errors import UserError
from gpt1.files.reading import InputFile, open_input
from gpt1.formatting import count_noun
from gpt1.generation.decoding import decode, decode_batch, pays_to_pack, prefill
from gpt1.generation.inference_model import for_inference, prepare_for_decoding
from gpt1.generation.sampling import Sampler, check_finite
from gpt1.inference.task import TASK, read_task
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.weights import WEIGHTS_FILE, read_head, read_tokenizer_fingerprint
from gpt1.progress import NullProgress, Progress
from gpt1.runs.folder import find_model_folder, verify_run
from gpt1.tables.table import Table
from gpt1.tasks.collate import collate, micro_batches
from gpt1.tasks.examples import check_columns, read_examples
from gpt1.tasks.kinds import KINDS, EncodedExample, Example, encode_examples, example_texts, told_of_lengths
from gpt1.tasks.targets import Answers, Classes, Target
from gpt1.tokenization.tokenizer import Tokenizer

PREDICTION_BATCH_TOKENS = 8192  # tokens of one forward pass
MAX_PARALLEL_TEXTS = 32  # texts that are continued side by side: the cache of as many


class LanguageModel:
    """A model folder that is ready to be asked."""

    def __init__(self, gpt: GPT, tokenizer: Tokenizer) -> None:
        self.gpt = gpt
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        return self.gpt.tokens.weight.device

    @cached_property
    def decoding_models(self) -> tuple[GPT, GPT | None]:
        """The model as it writes longer texts, and its draft: made with the first of them."""
        return prepare_for_decoding(self.gpt)

    def encode_prompt(self, text: str) -> Tensor:  # → [1, time]
        """The text's tokens, the last `context` of them; of an empty text the newline that joins documents."""
        ids = self.tokenizer.encode(text) or [self.tokenizer.newline_id]
        return torch.tensor([ids[-self.gpt.config.context :]], device=self.device)

    def truncation_warning(self, text: str, name: str = "the text") -> str | None:
        """What the model does not see of a prompt, or None."""
        ids = self.tokenizer.encode(text)
        unknown, context = self.tokenizer.count_unknown(ids[-self.gpt.config.context :]), self.gpt.config.context
        said = [f"its {len(ids):,} tokens are cut to the last {context}"] if len(ids) > context else []
        said += [f"{unknown:,} of {min(len(ids), context):,} tokens are unknown to the vocabulary"] if unknown else []
        return f"{name}: {'; '.join(said)}" if said else None

    @torch.inference_mode()
    def next_tokens(self, text: str, k: int = 10) -> list[tuple[str, float]]:
        """The k likeliest next tokens and their probabilities (paper, eq. 2)."""
        return [(token, probability) for token, _, probability in self.top_next_tokens(text, k)]

    @torch.inference_mode()
    def top_next_tokens(self, text: str, k: int = 10) -> list[tuple[str, int, float]]:
        """(token, id, probability) of the k likeliest next tokens."""
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
    def generate(self, text: list[str] | tuple[str, ...], *how: Any, **named: Any) -> list[str]: ...

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
        """The text followed by what the model writes; of several texts the list of that.

        The same seed writes the same. Texts are continued side by side, each as it would be alone: text i (from 0) as
        with the seed `seed + i`, so that one text given twice is continued in two ways.
        """
        texts, progress = [text] if isinstance(text, str) else text, progress or NullProgress()
        prompts, how = [self.encode_prompt(some) for some in texts], (temperature, top_k, top_p)
        own = [None if seed is None else torch.Generator(self.device).manual_seed(seed + i) for i in range(len(texts))]
        choices = [Sampler(*how, one) for one in own]
        model, draft = self.decoding_models if pays_to_pack(len(texts), max_tokens) else (for_inference(self.gpt), None)
        if len(texts) == 1:
            ids = decode(model, prompts[0], max_tokens, choices[0], draft)
            only = self.join_continuation(texts[0], ids[0, prompts[0].shape[1] :].tolist())
            return only if isinstance(text, str) else [only]
        written: dict[int, list[int]] = {}
        by_length = sorted(range(len(texts)), key=lambda i: prompts[i].shape[1])
        progress.begin("generating", len(texts), unit="texts")
        for start in range(0, len(texts), MAX_PARALLEL_TEXTS):
            some = by_length[start : start + MAX_PARALLEL_TEXTS]
            ids = decode_batch(model, [prompts[i][0].tolist() for i in some], max_tokens, [choices[i] for i in some])
            written |= zip(some, ids.tolist(), strict=True)
            progress.advance(len(written))
        progress.end()
        return [self.join_continuation(prompt, written[i]) for i, prompt in enumerate(texts)]

    def join_continuation(self, text: str, new_ids: list[int]) -> str:
        """A text and the tokens that follow it."""
        joint = " " if self.tokenizer.pipeline == "original" and new_ids and text and not text[-1].isspace() else ""
        return text + joint + self.tokenizer.decode(new_ids)

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """What a fine-tuned model can do: see `TaskPredictor`."""
        raise not_finetuned_error("this model")

    def predict_proba(self, rows: Sequence[Any]) -> NDArray[np.float64]:
        """What a fine-tuned model can do: see `TaskPredictor`."""
        raise not_finetuned_error("this model")


def not_finetuned_error(name: str, run: str = "RUN") -> UserError:
    return UserError(
        f"{name} is pre-trained and has learnt no task yet.", f"Fine-tune it first: gpt1 finetune … --from {run}"
    )


@dataclass
class Seen:
    """What a person should know of rows, counted over all of their blocks."""

    tokens: int = 0
    unknown: int = 0
    lengths: Counter[tuple[bool, int]] = field(default_factory=Counter)
    """(cut, windows) of an example → examples."""

    def add(self, coded: Sequence[EncodedExample], tokenizer: Tokenizer) -> None:
        for one in coded:
            self.lengths[one.is_truncated, one.windows] += 1
            for ids in one.sequences:
                words = [i for i in ids if i < tokenizer.vocab_size]
                self.tokens += len(words)
                self.unknown += tokenizer.count_unknown(words)

    def line(self, name: str, context: int, long: str) -> str:
        rows, unknown = count_noun(self.lengths.total(), "row"), self.unknown / max(1, self.tokens)
        return f"{name}: {rows}; {unknown:.2%} of the tokens unknown; {told_of_lengths(self.lengths, context, long)}"


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
    def labels(self) -> list[str]:
        """The labels in the order of `predict_proba`'s columns; for multiple choice the answers' numbers."""
        if isinstance(self.target, Classes):
            return list(self.target.labels)
        return [str(k) for k in range(self.target.most)] if isinstance(self.target, Answers) else []

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that a row to predict needs, by role."""
        return {role: column for role, column in self.task["columns"].items() if role != "label"}

    def read_rows(self, rows: Sequence[Any]) -> list[Example]:
        """Rows (dicts by column; plain strings where the task has one text) as examples."""
        columns = self.text_columns
        if isinstance(rows, str | Mapping):
            raise UserError("this is one row; predict takes a list of rows.", "Put it in brackets: [row].")
        if hasattr(rows, "columns"):  # one goes through the names of its columns, which are texts too
            problem = f"this is a whole table ({type(rows).__name__}); predict takes a list of rows."
            raise UserError(problem, "Of pandas give: df.to_dict('records').")
        rows = [{columns["text"]: row} if isinstance(row, str) and "text" in columns else row for row in rows]
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                wanted = ", ".join(columns.values())
                raise UserError(f"row {i + 1} is of type {type(row).__name__}.", f"A row is a dict with {wanted}.")
            check_columns(self.kind, columns, list(row), f"row {i + 1}")
        return read_examples(rows, self.kind, columns, lambda i: f"row {i + 1}", labelled=False)

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        ids = self.tokenizer.encode_batch(example_texts(examples))
        config = self.gpt.config
        alike = not self.gpt.recurrent
        return encode_examples(self.kind, examples, ids, config.vocab_size, config.context, self.cut, self.long, alike)

    def logits(self, examples: Sequence[Example]) -> Tensor:  # → [examples, outputs], at temperature 1
        logits = compute_task_logits(self.task_model, self.encode(examples), self.device)
        check_finite(logits)
        return logits

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """For every row `prediction` and `probability_<label>`, or `score`."""
        return self.read(self.read_rows(rows))

    def predict_table(
        self, table: Table, columns: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """As `predict`, for a table with the `columns` (role → name) of its texts, the model's own unless others are
        named; what is wrong with a row is told by its line."""
        columns = columns or self.text_columns
        check_columns(self.kind, columns, table.columns, table.name)
        examples = read_examples(table.rows, self.kind, columns, table.locate_row, labelled=False)
        logits = self.logits_with_progress(self.encode(examples), table.name, progress or NullProgress())
        return self.target.decode(logits / self.temperature)

    def logits_with_progress(
        self, encoded: Sequence[EncodedExample], name: str, progress: Progress
    ) -> Tensor:  # → [examples, outputs]
        """Logits at temperature 1, with what a person should know of the rows, and a bar."""
        seen = Seen()
        seen.add(encoded, self.tokenizer)
        progress.log(seen.line(name, self.gpt.config.context, self.long))
        progress.begin("predicting", len(encoded), unit="rows")
        logits = compute_task_logits(self.task_model, encoded, self.device, progress.advance)
        progress.end()
        check_finite(logits)
        return logits

    def predict_examples(
        self, examples: Sequence[Example], seen: Seen, advance: Callable[[int], None]
    ) -> list[dict[str, Any]]:
        """As `predict`, for a block of many rows: `seen` counts what is odd, `advance` is told how many are done."""
        coded = self.encode(examples)
        seen.add(coded, self.tokenizer)
        logits = compute_task_logits(self.task_model, coded, self.device, advance)
        check_finite(logits)
        return self.target.decode(logits / self.temperature)

    def read(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        return self.target.decode(self.logits(examples) / self.temperature) if examples else []

    def predict_proba(self, rows: Sequence[Any]) -> NDArray[np.float64]:  # → [rows, labels]
        """The probabilities of `labels`, a row each; 0 for answers that a row has not. Rows with more answers than the
        training rows had give more columns."""
        if not self.labels:
            raise UserError(f"a {self.kind.name} model with scores gives numbers.", "Use predict.")
        if not (examples := self.read_rows(rows)):
            return np.zeros((0, len(self.labels)))
        probabilities = (self.logits(examples) / self.temperature).double().softmax(-1).numpy()
        missing = max(0, len(self.labels) - probabilities.shape[1])
        return np.pad(probabilities, ((0, 0), (0, missing)))


def load(
    folder: str | Path, device: str | torch.device = "auto", precision: str = "fp32", verify: bool = True
) -> TaskPredictor | LanguageModel:
    """The model of a run or model folder: `TaskPredictor` after fine-tuning, `LanguageModel` before. Runs no code of it.

    device: `auto` is the GPU where there is one. precision: fp32, bf16 (half the memory, and twice as fast where the
    processor computes in it), or auto: bf16 where that pays. verify: compare the files with the SHA-256 sums in the
    manifest.json of the folder, if it has one.
    """
    path = find_model_folder(folder)
    gpt, tokenizer = load_model_and_tokenizer(folder, verify)
    device = resolve_device(str(device))
    gpt.activation_dtype, _ = resolve_precision(precision, device)
    gpt = for_inference(gpt.to(device))
    if not (path / TASK).exists():
        return LanguageModel(gpt, tokenizer)
    task, target = read_task(path / TASK)
    head = Head(gpt.config.n_embd, target.outputs, KINDS[task["kind"]].multiple_choice)
    try:
        head.load_state_dict(read_head(path))
    except RuntimeError as error:
        problem = (
            f"{path / TASK} and {path / WEIGHTS_FILE} do not belong together: {str(error).splitlines()[-1].strip()}"
        )
        raise UserError(problem, "Copy the model folder again.") from None
    return TaskPredictor(TaskModel(gpt, head).to(device).eval(), tokenizer, task, target)


def load_model_and_tokenizer(folder: str | Path, verify: bool = True) -> tuple[GPT, Tokenizer]:
    """The model and the tokenizer of a run or model folder, which have to fit each other. verify: see `load`."""
    path = find_model_folder(folder)
    if verify and path != Path(folder):
        verify_run(Path(folder))
    gpt, tokenizer = GPT.from_pretrained(path, verify), Tokenizer.load(path)
    if tokenizer.vocab_size != gpt.config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {gpt.config.vocab_size:,}.",
            "Put the tokenizer that the model was trained with into the folder.",
        )
    if (told := read_tokenizer_fingerprint(path)) and told != tokenizer.fingerprint:
        raise UserError(
            f"{path}: the tokenizer is not the one that the model was trained with, though as large.",
            "Copy the model folder again.",
        )
    return gpt, tokenizer


def load_task_predictor(
    folder: str | Path, device: str | torch.device = "auto", precision: str = "fp32", verify: bool = True
) -> TaskPredictor:
    """As `load`, for what only a fine-tuned model can do."""
    model = load(folder, device, precision, verify)
    if not isinstance(model, TaskPredictor):
        raise not_finetuned_error(str(folder), str(folder))
    return model


def generation_oom_advice(n_texts: int, precision: str) -> str:
    """What to do where memory does not suffice for continuing texts."""
    together = min(n_texts, MAX_PARALLEL_TEXTS)
    advice = ["--precision bf16 holds the model in half as much"] if precision == "fp32" else []
    if together > 1:
        advice.append(f"{together // 2} texts at a time (now {together}) want half as much for what was read")
    return f"{'; '.join(advice)}." if advice else "Close other programs, or take a smaller model."


def read_prompts(path: str) -> tuple[str, ...]:
    """The lines of a text file (`-`: of standard input) that are not empty."""
    if path == "-":
        lines = [*InputFile("standard input", "txt", sys.stdin.buffer, sys.stdin.buffer, 0).lines()]
    else:
        with open_input(path) as file:
            lines = [*file.lines()]
    return tuple(text for line in lines if (text := line.strip("\r\n")))


@torch.inference_mode()
def compute_task_logits(
    model: TaskModel,
    encoded: Sequence[EncodedExample],
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> Tensor:  # → [examples, outputs]
    """Logits of every example in the given order, on the CPU in float32; batched by length, which changes nothing.
    `advance` is told how many are done. Examples read in windows have `averaged` ones."""
    parts = [window for example in encoded for window in example.split_windows()]
    rows: list[Tensor | None] = [None] * len(parts)
    done = 0
    for piece in micro_batches(parts, range(len(parts)), PREDICTION_BATCH_TOKENS):
        batch = collate(parts, piece, None, device)
        for i, row in zip(piece, model(batch.ids, batch.packing, batch.example_index).float().cpu(), strict=True):
            rows[i] = row
        done += len(piece)
        if advance:
            advance(done * len(encoded) // len(parts))
    width = max((len(row) for row in rows if row is not None), default=1)
    table = torch.full((len(rows), width), -torch.inf)
    for i, row in enumerate(rows):
        if row is not None:
            table[i, : len(row)] = row
    return average_windows(table, [example.windows for example in encoded])


def average_windows(
    logits: Tensor, window_counts: Sequence[int]
) -> Tensor:  # [windows of all examples, outputs] → [examples, …]
    """What the windows of each example say together: of a number the mean; of a distribution the mean of the
    probabilities, whose logarithms stand for logits from there on (loss, temperature, prediction)."""
    found = []
    for own in torch.split(logits, list(window_counts)):
        if len(own) > 1 and own.shape[1] == 1:
            own = own.mean(0, keepdim=True)
        elif len(own) > 1:
            own = own.log_softmax(-1).logsumexp(0, keepdim=True) - math.log(len(own))
        found.append(own)
    return torch.cat(found) if found else logits
