"""Fixtures for fine-tuned models of each kind, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gpt1.inference.predictor import TaskPredictor
from gpt1.inference.task import save_task
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target, target_to_json
from gpt1.tokenization.tokenizer import Tokenizer

TASKS: dict[str, tuple[str, dict[str, str], Target]] = {
    "classification": ("classification", {"text": "t", "label": "l"}, Classes(("a", "b", "c"))),
    "entailment": ("entailment", {"premise": "t", "hypothesis": "u", "label": "l"}, Classes(("no", "yes"))),
    "similarity": ("similarity", {"text_a": "t", "text_b": "u", "label": "l"}, Classes(("0", "1"))),
    "scored similarity": ("similarity", {"text_a": "t", "text_b": "u", "label": "l"}, OrdinalBins(0, 5)),
    "choice": ("choice", {"context": "t", "question": "u", "choices": "a", "label": "l"}, Answers(3)),
    "regression": ("regression", {"text": "t", "label": "l"}, StandardizedNumber(3.0, 2.0)),
}
TABLE_TASKS: dict[str, tuple[str, dict[str, str], Target]] = {
    "classification": ("classification", {"text": "text", "label": "label"}, Classes(("no", "yes"))),
    "similarity": ("similarity", {"text_a": "text", "text_b": "other", "label": "stars"}, OrdinalBins(0, 5)),
    "regression": ("regression", {"text": "text", "label": "stars"}, StandardizedNumber(2.0, 1.5)),
    "choice": ("choice", {"context": "text", "choices": "answers", "label": "right"}, Answers(3)),
}
"""Tasks of the columns of the fixture `table`."""
MakePredictor = Callable[..., TaskPredictor]


@pytest.fixture(scope="module")
def make_predictor(pretrained_run: Path, tokenizer: Tokenizer) -> MakePredictor:
    """A model of each kind with a random head and weights large enough for distinct predictions."""
    made: dict[tuple[str, str], TaskPredictor] = {}

    def model(name: str, long: str = "cut") -> TaskPredictor:
        if (name, long) not in made:
            kind, columns, target = TASKS[name]
            gpt = GPT.from_pretrained(pretrained_run / "model")
            torch.manual_seed(0)
            gpt.add_special_tokens()
            for parameter in gpt.blocks.parameters():  # after 60 steps the predictions for all texts are nearly equal
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.2)
            nn.init.normal_(gpt.tokens.weight)
            head = Head(gpt.config.n_embd, target.outputs, KINDS[kind].multiple_choice)
            nn.init.normal_(head.linear.weight, std=0.3)
            task = {"kind": kind, "columns": columns, "target": target_to_json(target), "temperature": 1.5}
            made[name, long] = TaskPredictor(TaskModel(gpt, head).eval(), tokenizer, {**task, "long": long}, target)
        return made[name, long]

    return model


@pytest.fixture(scope="module")
def write_model(
    pretrained_run: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The model folder of a kind, with a random head, for the columns of the fixture `table`."""
    made: dict[tuple[str, Target], Path] = {}

    def save(name: str, other_target: Target | None = None) -> Path:
        kind, columns, target = TABLE_TASKS[name]
        target = other_target or target
        if (name, target) not in made:
            gpt = GPT.from_pretrained(pretrained_run / "model")
            torch.manual_seed(1)
            gpt.add_special_tokens()
            head = Head(gpt.config.n_embd, target.outputs, KINDS[kind].multiple_choice)
            nn.init.normal_(head.linear.weight, std=0.3)
            made[name, target] = tmp_path_factory.mktemp("model")
            task = {"kind": kind, "columns": columns, "temperature": 2.5}
            save_task(made[name, target], TaskModel(gpt, head), tokenizer, task, target)
        return made[name, target]

    return save
