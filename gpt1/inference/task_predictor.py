"""A fine-tuned model: predictions for rows, with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.sampling import check_finite
from gpt1.inference.language_model import LanguageModel
from gpt1.inference.task_logits import InputStatistics, compute_task_logits
from gpt1.model.head import TaskModel
from gpt1.progress import NullProgress, Progress
from gpt1.tables.table import Table
from gpt1.tasks.examples import check_columns, read_examples
from gpt1.tasks.kinds import KINDS, EncodedExample, Example, encode_examples, example_texts
from gpt1.tasks.targets import Answers, Classes, Target
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
    def labels(self) -> list[str]:
        """Labels of the columns of `predict_proba`; for multiple choice the indices of the answers, for scores none."""
        if isinstance(self.target, Classes):
            return list(self.target.labels)
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
        shared_prefix = not self.gpt.recurrent
        return encode_examples(
            self.kind, examples, ids, config.vocab_size, config.context, self.cut, self.long, shared_prefix
        )

    def logits(self, examples: Sequence[Example]) -> Tensor:  # → [examples, outputs], not divided by the temperature
        logits = compute_task_logits(self.task_model, self.encode(examples), self.device)
        check_finite(logits)
        return logits

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Predict rows.

        Args:
            rows: Dicts by column name, or plain strings if the task has one text.

        Returns:
            For every row `prediction` and `probability_<label>`, or `score`.

        Raises:
            UserError: For a row that does not have the columns of the task.
        """
        examples = self.read_rows(rows)
        return self.target.decode(self.logits(examples) / self.temperature) if examples else []

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
        return self.target.decode(logits / self.temperature)

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
        return self.target.decode(logits / self.temperature)

    def predict_proba(self, rows: Sequence[Any]) -> NDArray[np.float64]:  # → [rows, labels]
        """Predict probabilities.

        Args:
            rows: As for `predict`.

        Returns:
            [rows, labels], columns as in `labels`. For multiple choice, missing answers have probability 0, and rows
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
