"""The demo's story: what it compares, what came out, and how that is said."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpt1 import formatting
from gpt1.formatting import shell_quote

METHODS: dict[str, dict[str, Any]] = {
    "from scratch, all weights": {
        "from_scratch": True,
        "epochs": 20.0,
        "batch_size": 8,
        "peak_lr": 1e-3,
        "lm_coef": 0.0,
    },
    "pre-trained, head only": {"train": "head"},
    "pre-trained, all weights": {"epochs": 8.0, "batch_size": 8, "peak_lr": 5e-4, "lm_coef": 0.0},
}
SCRATCH, HEAD, ALL = METHODS
TF_IDF, MAJORITY = "TF-IDF and logistic regression", "the most frequent label, always"

PROMPTS = ("Returns the number of", "If the file does not exist,")
"""One to ask for the next token, one to continue."""


@dataclass
class Story:
    """What was done and measured; `demo.json` holds it."""

    gathered: dict[str, Any] = field(default_factory=dict)
    labelled: dict[str, Any] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    pretraining: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, list[float]] = field(default_factory=dict)
    """On the test rows, of each method, one figure a seed."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """Accuracy on the validation rows after each epoch, of each method, one list a seed."""
    next_tokens: list[tuple[str, float]] = field(default_factory=list)
    written: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - start


def accuracy_table(story: Story) -> tuple[list[str], list[list[str]]]:
    """(columns, rows)."""
    seeds = formatting.counted(len(story.accuracy[ALL]), "seed")
    columns = [f"accuracy on {story.labelled['test']} test rows", "median", f"[min – max] of {seeds}"]
    return columns, [
        [method, percent(median(story.accuracy[method])), spread(story.accuracy[method])]
        for method in (MAJORITY, TF_IDF, *METHODS)
    ]


def gains(story: Story) -> list[float]:
    """What pre-training adds to each seed's accuracy, in points."""
    pairs = zip(story.accuracy[ALL], story.accuracy[SCRATCH], strict=True)
    return [100 * (pre_trained - scratch) for pre_trained, scratch in pairs]


def verdict(story: Story) -> str:
    """One sentence on what pre-training did, from the figures."""
    points = median(gains(story))
    each = ", ".join(f"{gain:+.1f}" for gain in gains(story))
    if points < 5:
        return f"Pre-training makes no clear difference here: {points:+.1f} points (each seed: {each})."
    return f"Pre-training is worth {points:.1f} points of accuracy here (each seed: {each})."


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def spread(values: Sequence[float]) -> str:
    return f"[{100 * min(values):.1f} – {100 * max(values):.1f}]" if min(values) < max(values) else ""


def spark(values: Sequence[float]) -> str:
    """A curve in one line, from 0 to the largest value."""
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * value / max(max(values), 1e-9)))] for value in values)


def commands(out: Path) -> list[tuple[str, str]]:
    """(command, what it is for): the same with one's own files."""
    return [
        ("gpt1 tokenize my_texts/ --out corpus", "folders and files: .txt .md .jsonl .csv .parquet"),
        ("gpt1 pretrain corpus --out runs/mine --model tiny", "larger: mini, small, gpt1"),
        ("gpt1 inspect labelled.csv", "columns, labels, lengths: is the table what you think?"),
        (
            "gpt1 finetune labelled.csv --kind classification --text COLUMN --label COLUMN"
            " --from runs/mine --out runs/task",
            "",
        ),
        ("gpt1 evaluate runs/task test.csv", "accuracy and its interval"),
        ("gpt1 predict runs/task new.csv --out predictions.csv", "a prediction and probabilities for every row"),
        (f'gpt1 next {shell_quote(str(out / "pretrained"))} "Raises an error if"', "ask this demo's model"),
    ]
