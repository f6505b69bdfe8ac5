"""Read a run folder: settings, metrics, results, predictions. Each of them can be missing."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from gpt1 import formatting
from gpt1.config import FinetuneConfig, PretrainConfig, default_value, descriptions, flag_name, recipe_defaults
from gpt1.errors import UserError
from gpt1.files.foreign import check_regular, parse_json, read_json_object, read_yaml
from gpt1.files.names import METRICS_FILE, MODEL_FOLDER, PREDICTIONS, RESULTS_FILE, RUN_CONFIG_FILE, TASK_FILE
from gpt1.formatting import float_or_nan
from gpt1.recipes import HEAD_ONLY_DEFAULTS

MAX_LINES_BYTES = 2**28
"""Largest metrics.jsonl or predictions.jsonl that is read; a million steps take 200 MB."""
NO_LABEL = "no label"
"""What is shown for a row that may have several labels and has none."""


@dataclass(frozen=True)
class Prediction:
    """A validation row: its texts, its label, the prediction."""

    fields: dict[str, Any]
    label: Any
    prediction: Any
    probabilities: dict[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None  # of a row that may have several; `label` is then their text
    predicted: tuple[str, ...] = ()  # likewise of `prediction`

    @property
    def is_score(self) -> bool:
        return not self.probabilities and is_number(self.prediction) and is_number(self.label)

    @property
    def is_wrong(self) -> bool:
        if self.labels is not None:
            return {*self.labels} != {*self.predicted}
        return bool(self.label != self.prediction)

    @property
    def loss(self) -> float:
        """−log p(label), or of all labels; for scores the absolute error."""
        if self.is_score:
            return float(abs(self.prediction - self.label))
        if self.labels is not None:
            right = [p if name in self.labels else 1 - p for name, p in self.probabilities.items()]
            return -sum(math.log(max(p, 1e-30)) for p in right)
        return -math.log(max(self.probabilities.get(self.label, 0.0), 1e-30))


@dataclass(frozen=True)
class Competitor:
    """An answer to beat on the same rows: the trivial one, or TF-IDF with a linear model."""

    name: str
    metrics: dict[str, float]

    @property
    def short_name(self) -> str:
        """At most 60 characters: a label can be a sentence."""
        return self.name if len(self.name) <= 60 else f"{self.name[:59]}…"


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose predictions have similar probabilities."""

    rows: int
    confidence: float
    accuracy: float
    low: float
    high: float

    def __add__(self, other: ReliabilityBin) -> ReliabilityBin:
        rows = self.rows + other.rows
        confidence, accuracy = (
            (self.rows * mine + other.rows * its) / rows
            for mine, its in ((self.confidence, other.confidence), (self.accuracy, other.accuracy))
        )
        return ReliabilityBin(rows, confidence, accuracy, min(self.low, other.low), max(self.high, other.high))


@dataclass
class Run:
    """A run folder. Files that are missing or damaged are listed in `problems` and otherwise ignored."""

    folder: Path
    rows_name: str = "validation rows"
    """What `predictions` and `results["validation"]` were measured on."""
    problems: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """The user's column of each role, such as `text`: of task.json, else of the command."""
    predictions: list[Prediction] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> Run:
        run = cls(folder)
        run.settings = run._read_settings()
        run.results = run._read_results()
        run.columns = run._read_columns()
        run.metrics = list(run._read_jsonl(METRICS_FILE))
        run.predictions = [run.parse_prediction(row) for row in run._read_jsonl(PREDICTIONS)]
        return run

    @property
    def name(self) -> str:
        """The folder, relative if inside the current one."""
        relative = os.path.relpath(self.folder)
        return str(self.folder) if relative.startswith("..") else relative

    @cached_property
    def stage(self) -> str:
        stage = self.results.get("stage") or self.settings.get("stage")
        if stage in ("pretrain", "finetune"):
            return str(stage)
        return "finetune" if self.predictions or any("epoch" in line for line in self.metrics) else "pretrain"

    @property
    def is_finished(self) -> bool:
        return bool(self.results)

    @property
    def last_step(self) -> int:
        return int(max((line["step"] for line in self.metrics if is_number(line.get("step"))), default=0))

    @property
    def labels(self) -> list[str]:
        """The labels; empty for scores and multiple choice."""
        labels = self.results.get("labels")
        return [str(label) for label in labels] if isinstance(labels, list) else []

    def _read_columns(self) -> dict[str, str]:
        found = as_dict(as_dict(self.settings.get("command")).get("columns"))
        with suppress(UserError):
            found |= as_dict(read_json_object(self.folder / MODEL_FOLDER / TASK_FILE).get("columns"))
        return {role: str(column) for role, column in found.items() if column}

    def answer_names(self, answers: int) -> list[str]:
        """The columns of the answers of multiple choice, the first ones if a question has fewer; numbered where one
        column holds them all."""
        columns = [name.strip() for name in self.columns.get("choices", "answer").split(",")]
        if 1 < len(columns) >= answers:
            return columns[:answers]
        return [f"{columns[0]} {k}" for k in range(answers)]

    @cached_property
    def competitors(self) -> list[Competitor]:
        """The baselines in results.json, TF-IDF first; for older runs, the most frequent label or a random guess."""
        stored = [as_dict(one) for one in reversed([*as_dict(self.results.get("baselines")).values()])]
        found = [
            Competitor(str(one.get("name")), {k: v for k, v in as_dict(one.get("metrics")).items() if is_number(v)})
            for one in stored
        ]
        rows = self.predictions
        if found or not rows or any(not row.probabilities for row in rows):
            return [one for one in found if one.metrics]
        if not self.labels:
            chance = sum(1 / len(row.probabilities) for row in rows) / len(rows)
            return [Competitor("random guessing", {"accuracy": chance})]
        label, count = Counter(row.label for row in rows).most_common(1)[0]
        name = f"always ‘{formatting.escape_controls(str(label))}’ (most frequent label here)"
        return [Competitor(name, {"accuracy": count / len(rows)})]

    @property
    def warning(self) -> str:
        """Why the result is not useful; empty if it is."""
        if stored := self.results.get("warning"):
            return str(stored)
        loss, unigram = (as_dict(self.results.get(name)).get("loss") for name in ("validation", "unigram"))
        if is_number(loss) and is_number(unigram) and loss >= unigram:
            return (
                f"this model has learned nothing: its validation loss of {loss:.2f} is not below that of a "
                f"unigram model ({unigram:.2f}). Likely causes: too few steps, a learning rate that is too high, "
                "or too little text."
            )
        return ""

    @property
    def n_measured_rows(self) -> int:
        """Number of rows behind the metrics; 0 if unknown."""
        counts = (
            as_dict(self.results.get("validation")).get("rows"),
            as_dict(self.results.get("data")).get("validation"),
        )
        return next((int(n) for n in counts if is_number(n) and n > 0), len(self.predictions))

    def interval(self, name: str) -> tuple[float, float] | None:
        """95% confidence interval of a metric."""
        pair = as_dict(as_dict(self.results.get("validation")).get("interval")).get(name)
        if isinstance(pair, list) and len(pair) == 2 and is_number(pair[0]) and is_number(pair[1]):
            return pair[0], pair[1]
        return None

    def parse_prediction(self, row: dict[str, Any]) -> Prediction:
        """A line of predictions.jsonl, its texts by the names of the user's columns."""
        fields, label = as_dict(row.get("fields")), row.get("label")
        answers = self.answer_names(sum(name.startswith("answer ") for name in fields))
        names = {f"answer {k}": name for k, name in enumerate(answers)} | self.columns
        texts = {names.get(role, role): text for role, text in fields.items()}
        if "score" in row:
            return Prediction(texts, float_or_nan(label), float_or_nan(row["score"]))
        probabilities = {str(name): p for name, p in as_dict(row.get("probabilities")).items() if is_number(p)}
        predicted = row.get("prediction")
        several = {}
        if isinstance(label, list) and isinstance(predicted, list):
            several = {"labels": tuple(map(str, label)), "predicted": tuple(map(str, predicted))}
        return Prediction(texts, _normalize_label(label), _normalize_label(predicted), probabilities, **several)

    @property
    def config_class(self) -> Any:
        return FinetuneConfig if self.stage == "finetune" else PretrainConfig

    @property
    def has_computed_defaults(self) -> bool:
        """Whether the defaults of COMPUTED_DEFAULTS depend on the table and the model of this run."""
        settings = self.settings
        return self.stage == "finetune" and settings.get("recipe") != "paper" and settings.get("train") != "head"

    @cached_property
    def default_settings(self) -> dict[str, Any]:
        """Defaults of the settings with the recipe, --model and --train of this run."""
        recipe = str(self.settings.get("recipe"))
        defaults = recipe_defaults(self.config_class, recipe, str(self.settings.get("model")))
        if self.stage == "finetune" and self.settings.get("train") == "head" and recipe != "paper":
            defaults |= HEAD_ONLY_DEFAULTS
        return {
            name: defaults.get(name, default_value(self.config_class, name)) for name in descriptions(self.config_class)
        }

    @property
    def resume_command(self) -> str:
        """The command that resumes this run (settings are read from its config.yaml), or an empty text."""
        command = as_dict(self.settings.get("command"))
        source = command.get("corpus") or command.get("train")
        if not source:
            return ""
        no_options = ("corpus", "train", "columns", "given")  # `given`: names of settings
        options = {name: value for name, value in command.items() if name not in no_options}
        words = ["gpt1", self.stage, str(source), "--out", self.name]
        for name, value in {**options, **as_dict(command.get("columns"))}.items():
            words += [flag_name(name)] if value is True else [flag_name(name), str(value)] if value else []
        return formatting.shell_join([*words, "--resume"])

    def reliability_bins(self, name: str) -> list[ReliabilityBin]:
        """Reliability diagram from results.json: `bins_before` or (after calibration) `bins`."""
        lines = as_dict(self.results.get("calibration")).get(name)
        found = []
        for line in map(as_dict, lines if isinstance(lines, list) else []):
            rows, confidence, accuracy = line.get("count"), line.get("confidence"), line.get("accuracy")
            if is_number(rows) and is_number(confidence) and is_number(accuracy) and rows:
                low, high = (edge if is_number(edge := line.get(name)) else confidence for name in ("low", "high"))
                found.append(ReliabilityBin(int(rows), confidence, min(1.0, max(0.0, accuracy)), low, high))
        return found

    def series(self, split: str, name: str, x: str = "step") -> tuple[list[float], list[float]]:
        """(x, y) of a metric, sorted by x; if a step was logged twice, the later line counts."""
        found = {
            line[x]: line[name]
            for line in self.metrics
            if line.get("split") == split and is_number(line.get(x)) and is_number(line.get(name))
        }
        return sorted(found), [found[key] for key in sorted(found)]

    def last_value(self, split: str, name: str) -> float | None:
        _, values = self.series(split, name)
        return values[-1] if values else None

    def _read_settings(self) -> dict[str, Any]:
        path = self.folder / RUN_CONFIG_FILE
        if not path.exists():
            self.problems.append("config.yaml is missing.")
            return {}
        try:
            return read_yaml(path)
        except UserError as error:
            self.problems.append(f"config.yaml cannot be read: {self.reason(error)}")
            return {}

    def _read_results(self) -> dict[str, Any]:
        path = self.folder / RESULTS_FILE
        if not path.exists():
            self.problems.append("results.json is missing: the run has not finished.")
            return {}
        try:
            return read_json_object(path, allow_nan=True)
        except UserError as error:
            self.problems.append(f"results.json cannot be read: {self.reason(error)}")
            return {}

    def reason(self, error: UserError) -> str:
        """The problem without the folder, which the page shows already."""
        return error.problem.replace(f"{self.folder}{os.sep}", "")

    def _read_jsonl(self, name: str) -> Iterator[dict[str, Any]]:
        path, broken = self.folder / name, 0
        if not path.exists():
            if name == METRICS_FILE:
                self.problems.append("metrics.jsonl is missing.")
            return
        try:
            if check_regular(path) > MAX_LINES_BYTES:
                raise UserError(f"{name} has more than {MAX_LINES_BYTES:,} bytes.")
        except UserError as error:
            self.problems.append(f"{name} cannot be read: {self.reason(error)}")
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    value = parse_json(line, path, allow_nan=True)
                except UserError:
                    broken += bool(line.strip())
                    continue
                if isinstance(value, dict):
                    yield value
        if broken:
            self.problems.append(f"{name}: {broken} line{'s' * (broken > 1)} could not be read.")


def _normalize_label(value: Any) -> str:
    """As training reads labels: stripped, and 1.0 is 1; several labels as one text."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NO_LABEL
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def as_dict(value: Any) -> dict[str, Any]:
    """`value` if it is a mapping, else an empty dict."""
    return dict(value) if isinstance(value, Mapping) else {}
