"""The demo's methods, its results, and how they are shown."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpt1.formatting import shell_quote
from gpt1.runs.folder import STARTER, has_starter

DEMO_METHODS: dict[str, dict[str, Any]] = {
    "from scratch, all weights": (
        {"from_scratch": True, "epochs": 20.0, "batch_size": 8, "peak_lr": 1e-3, "lm_coef": 0.0}
    ),
    "pre-trained, head only": {"train": "head"},
    "pre-trained, all weights": {"epochs": 8.0, "batch_size": 8, "peak_lr": 5e-4, "lm_coef": 0.0},
    f"{STARTER}, all weights": {"batch_size": 8, "lm_coef": 0.0},
}
"""Method → settings. The last one starts from the model that comes with gpt1, the others from the demo's own."""
SCRATCH, HEAD, ALL, FROM_STARTER = DEMO_METHODS
TF_IDF, MAJORITY = "TF-IDF and logistic regression", "the most frequent label, always"

PROMPTS = ("Returns the number of", "If the file does not exist,")
"""For next-token probabilities, and for generation."""


@dataclass
class DemoResults:
    """Counts, settings and measurements of the demo, as saved in `demo.json`."""

    gathered: dict[str, Any] = field(default_factory=dict)
    labeled: dict[str, Any] = field(default_factory=dict)
    corpus: dict[str, Any] = field(default_factory=dict)
    pretraining: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, list[float]] = field(default_factory=dict)
    """Method → accuracy on the test rows, for each seed."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """Method → accuracy on the validation rows after each epoch, for each seed."""
    next_tokens: list[tuple[str, float]] = field(default_factory=list)
    written: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start


def accuracy_rows(results: DemoResults) -> list[list[str]]:
    return [
        [method, format_percent(median(results.accuracy[method])), format_range(results.accuracy[method])]
        for method in (MAJORITY, TF_IDF, *DEMO_METHODS)
        if method in results.accuracy
    ]


def accuracy_gains(results: DemoResults, method: str, over: str) -> list[float]:
    """Accuracy of a method minus that of another, in points, for each seed."""
    pairs = zip(results.accuracy[method], results.accuracy[over], strict=True)
    return [100 * (ours - theirs) for ours, theirs in pairs]


def pretraining_verdict(results: DemoResults) -> str:
    """One sentence on the effect of pre-training."""
    gains = accuracy_gains(results, ALL, SCRATCH)
    points, each = median(gains), ", ".join(f"{gain:+.1f}" for gain in gains)
    if points < 5:
        return f"Pre-training makes no clear difference here: {points:+.1f} points (by seed: {each})."
    return f"Pre-training adds {points:.1f} points of accuracy here (by seed: {each})."


def starter_verdict(results: DemoResults) -> str:
    """One sentence on the model that comes with gpt1, fine-tuned on the same rows."""
    if FROM_STARTER not in results.accuracy:
        return f"This installation does not include the model {STARTER}, so the demo skips it."
    gains = accuracy_gains(results, FROM_STARTER, ALL)
    each = ", ".join(f"{gain:+.1f}" for gain in gains)
    return (
        f"The model {STARTER}, which comes with gpt1, was pre-trained on books and textbooks, not on docstrings. "
        f"Difference to the demo's own model on the same rows: {median(gains):+.1f} points (by seed: {each})."
    )


def format_percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def format_range(values: Sequence[float]) -> str:
    return f"[{100 * min(values):.1f} – {100 * max(values):.1f}]" if min(values) < max(values) else ""


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, from 0 to the largest value."""
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * value / max(max(values), 1e-9)))] for value in values)


def follow_up_commands(out: Path) -> list[tuple[str, str]]:
    """(command, explanation): the same with the user's own files."""
    columns = "--kind classification --text COLUMN --label COLUMN"
    from_starter = f"gpt1 finetune labeled.csv {columns} --from {STARTER} --out runs/task"
    return [
        *[(from_starter, "for English texts, without pre-training a model first")] * has_starter(),
        ("gpt1 tokenize my_texts/ --out corpus", "folders and files: .txt .md .jsonl .csv .parquet"),
        ("gpt1 pretrain corpus --out runs/mine --model tiny", "larger: mini, small, gpt1"),
        ("gpt1 inspect labeled.csv", "columns, labels and lengths of a table"),
        (f"gpt1 finetune labeled.csv {columns} --from runs/mine --out runs/task", ""),
        ("gpt1 evaluate runs/task test.csv", "accuracy with its confidence interval"),
        ("gpt1 predict runs/task new.csv --out predictions.csv", "a prediction and probabilities for each row"),
        (f'gpt1 next {shell_quote(str(out / "pretrained"))} "Raises an error if"', "next tokens of this demo's model"),
    ]
