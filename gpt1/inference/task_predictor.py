"""A fine-tuned model: predictions for rows, with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.sampling import check_finite_logits
from gpt1.inference.explanation import explain_examples
from gpt1.inference.foreign_task import encode_plain
from gpt1.inference.language_model import LanguageModel, features_like
from gpt1.inference.task_logits import InputStatistics, compute_task_features, compute_task_logits, ignore_empty
from gpt1.model.head import TaskModel
from gpt1.progress import Progress
from gpt1.tables.frames import frame_like, frame_table, is_frame, is_series, records_like, series_texts, to_table
from gpt1.tasks.examples import check_columns, input_columns, read_examples, required_columns
from gpt1.tasks.kinds import KINDS, EncodedExample, Example, encode_examples, example_texts
from gpt1.tasks.labels import LabelValue, format_labels
from gpt1.tasks.targets import Answers, Target, decode_predictions
from gpt1.tokenization.tokenizer import Tokenizer


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
        if isinstance(self.target, Answers):
            return [str(k) for k in range(self.target.most)]
        return list(getattr(self.target, "values", ()) or getattr(self.target, "labels", ()))

    def _description(self) -> str:
        columns = ", ".join(f"{role}={name!r}" for role, name in self.task["columns"].items())
        labels = [] if self.kind.multiple_choice else list(map(str, self.labels))
        answers = f", labels {format_labels(labels)}" if labels else ""
        return f"{self.kind.name}, {columns}{answers}; {super()._description()}"

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that a row needs, by role."""
        return input_columns(self.task["columns"])

    def read_rows(self, rows: Any) -> list[Example]:
        """Read rows (dicts by column, a DataFrame; plain strings or a Series if the task has one text) as examples."""
        columns = self.text_columns
        if is_series(rows):
            rows = series_texts(rows)
        elif is_frame(rows):
            table = frame_table(rows, required_columns(self.kind, columns))
            check_columns(self.kind, columns, table.columns, table.name, chosen=False)
            return read_examples(table.rows, self.kind, columns, table.locate_row, labeled=False)
        if isinstance(rows, str | Mapping):
            raise UserError("predict takes a list of rows, not a single row.", "Use predict([row]).")
        if hasattr(rows, "columns"):  # iterating over a DataFrame gives its column names, which would be taken as texts
            problem = f"predict takes a list of rows, not a table ({type(rows).__name__})."
            raise UserError(problem, "Use predict_table(table), or predict(table.rows).")
        if not isinstance(rows, Iterable):
            wanted = ", ".join(columns.values())
            raise UserError(f"predict takes a list of rows, not {rows!r}.", f"Use dicts with {wanted}.")
        rows = [{columns["text"]: row} if isinstance(row, str) and "text" in columns else row for row in rows]
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                wanted = ", ".join(columns.values())
                raise UserError(f"rows[{i}] has the type {type(row).__name__}.", f"Use a dict with {wanted}.")
            check_columns(self.kind, columns, list(row), f"rows[{i}]", chosen=False)
        return read_examples(rows, self.kind, columns, lambda i: f"rows[{i}]", labeled=False)

    def encode(self, examples: Sequence[Example]) -> list[EncodedExample]:
        ids = self.tokenizer.encode_batch(example_texts(examples))
        config = self.gpt.config
        if not config.special_tokens:  # imported from transformers, whose classifier has none
            encoded = encode_plain(ids, config.context, self.tokenizer.newline_id, self.task.get("pad"))
        else:
            shared = not self.gpt.recurrent
            sizes = config.vocab_size, config.context
            encoded = encode_examples(self.kind, examples, ids, *sizes, self.cut, self.long, shared)
        pairs = zip(encoded, examples, strict=True)
        return [one if example.has_text else replace(one, has_text=False) for one, example in pairs]

    def logits(
        self,
        examples: Sequence[Example],
        statistics: InputStatistics | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Tensor:  # → [examples, outputs], not divided by the temperature
        """The logits of a block of examples. Adds it to `statistics`; `advance` gets the number of examples done."""
        encoded = self.encode(examples)
        if statistics:
            statistics.add(encoded, self.tokenizer)
        logits = compute_task_logits(self.task_model, encoded, self.device, advance)
        check_finite_logits(logits)
        return ignore_empty(examples, logits)

    def decode(self, examples: Sequence[Example | EncodedExample], logits: Tensor) -> list[dict[str, Any]]:
        """Predictions from logits that are not divided by the temperature; None for rows without text."""
        rows = decode_predictions(self.target, logits / self.temperature)
        return [row if example.has_text else dict.fromkeys(row) for example, row in zip(examples, rows, strict=True)]

    def predict(self, rows: Any) -> Any:
        """Predict rows.

        Args:
            rows: Dicts by column name, or a DataFrame; plain strings or a Series if the task has one text.

        Returns:
            A list with a dict for every row: `prediction` and `probability_<label>`, or `score`. For a DataFrame or a
            Series, a DataFrame of the same kind with these columns and the same index.

        Raises:
            UserError: For a row that does not have the columns of the task, or a text that is missing.
        """
        examples = self.read_rows(rows)
        found = self.decode(examples, self.logits(examples)) if examples else []
        return records_like(rows, found) if is_frame(rows) else found

    def predict_table(
        self, table: Any, columns: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """As `predict`, for a table; errors name the line of a row.

        Args:
            table: The rows: a `Table`, a DataFrame or a list of dicts.
            columns: Role -> column name; by default as in training.
            progress: Receives messages and progress.
        """
        table, columns = to_table(table), columns or self.text_columns
        check_columns(self.kind, columns, table.columns, table.name, delimiter=table.delimiter)
        examples = read_examples(table.rows, self.kind, columns, table.locate_row, labeled=False)
        logits = self.logits_with_progress(self.encode(examples), table.name, progress or Progress())
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
        check_finite_logits(logits)
        return logits

    def predict_proba(self, rows: Any) -> Any:  # → [rows, labels]
        """Predict probabilities.

        Args:
            rows: As for `predict`.

        Returns:
            [rows, labels], columns as in `labels`; for a DataFrame or a Series, a DataFrame with the labels as columns.
            For multiple choice, missing answers have probability 0, and rows with more answers than in training add
            columns.

        Raises:
            UserError: For a model that predicts scores.
        """
        if not self.labels:
            raise UserError(f"a {self.kind.name} model of scores has no probabilities.", "Use predict.")
        found = self.probabilities(self.read_rows(rows))
        if not is_frame(rows):
            return found
        names = [*map(str, self.labels), *(str(k) for k in range(len(self.labels), found.shape[1]))]
        return frame_like(rows, dict(zip(names, found.T.tolist(), strict=True)))

    def probabilities(self, examples: Sequence[Example]) -> NDArray[np.float64]:  # → [examples, labels]
        if not examples:
            return np.zeros((0, len(self.labels)))
        probabilities = self.target.activate((self.logits(examples) / self.temperature).double()).numpy()
        missing = max(0, len(self.labels) - probabilities.shape[1])
        return np.pad(probabilities, ((0, 0), (0, missing)))

    def features(self, texts: Any) -> Any:  # → [rows, n_embd]
        """A vector for each row: what the head reads, the last block's state at the extract token (paper, eq. 3).

        The states of both orders of a pair are added, and those of the windows of a long text averaged.

        Args:
            texts: Rows as for `predict`.

        Returns:
            [rows, n_embd], float32, NaN for rows without text; for a DataFrame or a Series a DataFrame with the columns
            `feature_0`, …

        Raises:
            UserError: For multiple choice, where each answer has a separate state.
        """
        if self.kind.multiple_choice:
            raise UserError(f"a {self.kind.name} model has one vector per answer, not per row.", "Use predict.")
        examples = self.read_rows(texts)
        encoded = self.encode(examples)
        states = compute_task_features(self.task_model, encoded, self.device)
        return features_like(texts, states, [example.has_text for example in examples])

    def explain(self, rows: Any, label: str | None = None) -> list[dict[str, Any]]:
        """Contribution of each word to a prediction, by occlusion: predict again without the word.

        This takes one forward pass per word, in batches.

        Args:
            rows: Rows as for `predict`.
            label: The label to explain; by default the most likely one of each row. None for scores.

        Returns:
            For each row `prediction` (or `score`); `explained`, the name of the number that is explained; its `value`
            (all None in a row without text); and `words`, in the order of the text: `column`, `word`, `start` and `end`
            in the text, and `contribution`, the value minus the value without the word. For multiple choice, words of
            an answer also have its number, `answer`.

        Raises:
            UserError: For a label that the model does not have.
        """
        return explain_examples(self, self.read_rows(rows), label)
