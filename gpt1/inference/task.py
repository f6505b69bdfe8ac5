"""Write model folders; task.json describes what a fine-tuned model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from gpt1.config import Cut, LongTextStrategy
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_write_json
from gpt1.files.foreign import Fields, read_json_object
from gpt1.files.manifest import write_manifest
from gpt1.files.names import TASK_FILE, WEIGHTS_FILE
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.weights import MODEL_FILES, read_config, read_head
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, Target, target_from_json, target_to_json
from gpt1.tokenization.tokenizer import Tokenizer

TASK_FORMAT = "gpt1-task-1"


def save_model(
    folder: Path, gpt: GPT, tokenizer: Tokenizer, head: Head | None = None, task: Mapping[str, Any] | None = None
) -> None:
    """Write a model folder: weights, tokenizer, task.json if fine-tuned, and finally the manifest."""
    gpt.save(folder, head, tokenizer.fingerprint)
    tokenizer.save(folder)
    if task is not None:
        write_task(folder, task)
    write_manifest(folder, MODEL_FILES)


def write_task(folder: Path, task: Mapping[str, Any]) -> None:
    atomic_write_json(folder / TASK_FILE, task)


def save_task(folder: Path, model: TaskModel, tokenizer: Tokenizer, task: Mapping[str, Any], target: Target) -> None:
    """Write the model folder of a fine-tuned model."""
    content = {"format": TASK_FORMAT, **task, "target": target_to_json(target)}
    save_model(folder, model.gpt, tokenizer, model.head, content)


def rescale_scores(folder: Path, origin: float, step: float) -> None:
    """Make the model in a new folder, trained on scores x of OrdinalBins, predict `origin` + `step` · x instead."""
    task, target = read_task(folder / TASK_FILE)
    if not isinstance(target, OrdinalBins):
        raise TypeError(f"{folder} does not predict scores as a distribution")
    target = replace(target, origin=origin + step * target.origin, step=step * target.step)
    trivial = {"trivial_answer": origin + step * task["trivial_answer"]} if "trivial_answer" in task else {}
    write_task(folder, {**task, **trivial, "target": target_to_json(target)})
    write_manifest(folder, MODEL_FILES)


@dataclass(frozen=True)
class StoredTask:
    """The parts of a fine-tuned model besides the GPT: its head, task.json, and the target in it."""

    head: Head
    task: dict[str, Any]
    target: Target


def read_own_task(folder: Path) -> StoredTask:
    """Head and task of the fine-tuned model in a folder of gpt1."""
    task, target = read_task(folder / TASK_FILE)
    kind = KINDS[task["kind"]]
    width = read_config(folder)["n_embd"]
    head = Head(width, target.outputs, kind.multiple_choice, independent=kind.several_labels)
    try:
        head.load_state_dict(read_head(folder))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{folder / TASK_FILE} and {folder / WEIGHTS_FILE} do not belong together: {reason}", COPY_FIX
        ) from None
    return StoredTask(head, task, target)


def read_task(path: Path) -> tuple[dict[str, Any], Target]:
    """Read and check a task.json.

    Returns:
        (content, target).

    Raises:
        UserError: For a key that is missing, of the wrong type or out of range, naming the file and the key.
    """
    return parse_task(read_json_object(path, fix=COPY_FIX), path)


def parse_task(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], Target]:
    """As `read_task`, for the content of the file `path`."""
    fields = Fields(content, path, COPY_FIX)
    fields.choice("format", (TASK_FORMAT,), TASK_FORMAT)
    kind = KINDS[fields.choice("kind", tuple(KINDS))]
    columns = fields.object("columns")
    for role in columns.values:
        if role not in (*kind.columns, "label"):
            fields.refuse(f"'columns' names {role!r}, which {kind.name} does not have")
        columns.text(role)
    for role in kind.columns:
        if role not in kind.optional and role not in columns.values:
            fields.refuse(f"'columns' has no {role!r}")
    fields.number("temperature", SMALLEST_TEMPERATURE, 1 / SMALLEST_TEMPERATURE, 1.0)
    fields.choice("cut", get_args(Cut), "longest")
    fields.choice("long", get_args(LongTextStrategy), "cut")
    fields.text("train", "all")
    fields.integer("pad", -1, default=None)
    target = target_from_json(fields.object("target"))
    fields.choice("metric", target.metrics, target.primary_metric)
    if (answer := content.get("trivial_answer")) is not None:
        if isinstance(target, MultiLabel):
            answer = fields.items("trivial_answer", str)
            fits = all(label in target.labels for label in answer)
        elif isinstance(target, Classes):
            fits = answer in target.labels if isinstance(answer, str) else False
        else:
            fits = type(answer) in ((int,) if isinstance(target, Answers) else (int, float))
        if not fits:
            fields.refuse("'trivial_answer' must be a label, the number of an answer or a mean score")
    if not isinstance(target, tuple(filter(None, (kind.target, kind.score_target)))):
        fields.refuse(f"its target does not belong to {kind.name}")
    return content, target


COPY_FIX = "Copy the model folder again."
SMALLEST_TEMPERATURE = 1e-4
"""Calibration fits temperatures from e⁻⁴·² to e⁴·²."""
