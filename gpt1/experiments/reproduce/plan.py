"""What a reproduction is made of: what a person asked for, and the runs that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import FinetuneConfig, flag, flagged
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.cells import Cell, Kept, check_settings, finetuned, learnt_with, model_facts
from gpt1.experiments.methods import METHODS, Method
from gpt1.experiments.reproduce.tasks import LeftOut, PaperTask
from gpt1.experiments.zeroshot.steps import Shot
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tasks.tfidf import tfidf_scores

WHAT = ("table2", "table3", "table4", "table5", "figure2")


@dataclass(frozen=True)
class Asked:
    """What a person asks for; the names are those of the flags.

    tasks: names of data sets, `name:split>split` to train and test on other splits; else the table's own. methods: of
    METHODS. rows, test_rows: rows at most, by task, `""` for all others. lstm: a pre-trained LSTM. left, right: one
    half of figure 2 only.
    """

    what: str
    from_: str | Path
    out: str | Path
    data_dir: str | Path | None = None
    seeds: int = 3
    tasks: Sequence[str] = ()
    methods: Sequence[str] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    test_rows: Mapping[str, int] = field(default_factory=dict)
    lstm: str | Path | None = None
    left: bool = False
    right: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of FinetuneConfig, the same for every run."""

    @property
    def halves(self) -> list[str]:
        """Of figure 2; a table has none, and is all left."""
        if self.what != "figure2":
            return ["left"]
        return [half for half in ("left", "right") if getattr(self, half)] or ["left", "right"]

    def check(self) -> None:
        """UserError for what can be seen without reading a row."""
        if self.what not in WHAT:
            problem = f"there is no '{self.what}' to reproduce.{did_you_mean(self.what, WHAT)}"
            raise UserError(problem, f"There are: {', '.join(WHAT)}.")
        if self.what != "figure2" and (self.left or self.right):
            raise UserError(f"{self.what} has no left and right half.", "--left and --right are for figure2.")
        check_model(self.from_, "--from")
        if self.lstm is not None:
            check_model(self.lstm, "--lstm")

    def command(self) -> str:
        """The line for a shell."""
        limits = [
            ",".join(f"{name}={n}" if name else str(n) for name, n in some.items())
            for some in (self.rows, self.test_rows)
        ]
        flags: dict[str, Any] = {
            "--from": self.from_, "--lstm": self.lstm, "--data-dir": self.data_dir, "--out": self.out,
            "--seeds": self.seeds, "--tasks": ",".join(self.tasks), "--methods": ",".join(self.methods),
            "--rows": limits[0], "--test-rows": limits[1],
        }  # fmt: skip
        words = [word for name, value in flags.items() if value not in (None, "") for word in (name, str(value))]
        words += [f"--{half}" for half in ("left", "right") if getattr(self, half)]
        for name, value in self.settings.items():
            if isinstance(value, bool):
                words.append(flagged(name, value))
            else:
                words += [flag(name), formatting.plain(value) if isinstance(value, int | float) else str(value)]
        return formatting.shell_join(["gpt1", "reproduce", self.what, *words])


@dataclass(frozen=True)
class Plan:
    """What a table or figure is made of."""

    asked: Asked
    tasks: list[PaperTask]
    left_out: list[LeftOut]
    methods: dict[str, Method]
    shots: list[Shot] = field(default_factory=list)
    """Figure 2, right."""
    said: list[str] = field(default_factory=list)
    """What the page should say of all this."""

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        """What each pre-trained model is: `from` and, where there is one, `lstm`."""
        models = {"from": self.asked.from_, "lstm": self.asked.lstm}
        return {name: model_facts(run) for name, run in models.items() if run}

    def key(self, task: PaperTask, method: str, seed: int) -> str:
        return f"{task.name.text}, {method}, seed {seed}"

    def runs(self) -> list[tuple[PaperTask, str, int]]:
        """Seeds in turn: a table that is stopped early is a whole one with fewer seeds."""
        return [(task, m, seed) for seed in range(self.asked.seeds) for task in self.tasks for m in self.methods]

    def cells(self) -> list[Cell]:
        tuned = [Cell(self.key(*run), self.cost(*run[:2]), partial(self.measure, *run)) for run in self.runs()]
        return [*(shot.cell() for shot in self.shots), *tuned]

    def cost(self, task: PaperTask, method: str) -> int:
        """kB of text through a model; what is learnt from counts three times (there and back)."""
        training, test = task.sizes(self.models["from"]["config"]["context"])
        if method == "tfidf":
            return 1 + (training + test) // 50_000
        if method == "head":
            return 1 + (training + test) // 1000
        epochs = self.asked.settings.get("epochs", FinetuneConfig.epochs)
        return 1 + int(3 * epochs * training + test) // 1000

    def settings_for(self, method: str, seed: int) -> dict[str, Any]:
        return self.methods[method].finetune_settings(self.asked.settings, seed)

    def learnt_with(self, method: str) -> dict[str, Any]:
        if method == "tfidf":
            return {}
        width = self.models["lstm" if method == "lstm" else "from"]["config"]["n_embd"]
        return learnt_with(width, self.settings_for(method, 0))

    def made_from(self, task: PaperTask, method: str) -> dict[str, Any]:
        """What a kept result has to agree with: the rows, the weights and the settings."""
        weights = None if method == "tfidf" else self.models["lstm" if method == "lstm" else "from"]["weights"]
        return {"rows": task.facts, "weights": weights, "settings": self.learnt_with(method)}

    def check(self, kept: Kept) -> None:
        """UserError where a finished cell was made from other rows or another model than this plan says."""
        for shot in self.shots:
            if shot.key in kept.cells and kept.cells[shot.key]["made_from"] != shot.made_from:
                raise UserError(
                    f"{kept.folder} was begun with other rows or weights for: {shot.key}.", "Choose another --out."
                )
        for task, method, seed in self.runs():
            key = self.key(task, method, seed)
            if cell := kept.cells.get(key):
                before, now = cell["made_from"], self.made_from(task, method)
                agree(kept.folder, task, method, before, now)
                check_settings(kept.folder, key, before.get("settings"), now["settings"])

    def measure(self, task: PaperTask, method: str, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        about = {"task": task.name.text, "method": method, "seed": seed, "made_from": self.made_from(task, method)}
        if method == "tfidf":
            found = tfidf_scores(task.name.data.record, task.target, task.training.examples, task.test.examples, seed)
            return {**about, "score": found[task.metric], "metrics": found, "subsets": {}}
        from_ = self.asked.lstm if method == "lstm" else self.asked.from_
        settings = self.settings_for(method, seed)
        learnt = self.learnt_with(method)
        run = finetuned(task.training.table, scratch, progress, learnt, from_=from_, **task.options, **settings)
        fitted = runs.read_results(run)
        scores = scored(run, task, self.asked.settings)
        return {**about, **scores, "cut": fitted["data"]["cut"], "seconds": fitted["seconds"]}


def agree(folder: Path, task: PaperTask, method: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before["weights"] != now["weights"]:
        raise UserError(
            f"{folder} was begun with another model for {METHODS[method].title if method in METHODS else method}.",
            "Choose another --out, or go on with the model that it was begun with.",
        )
    for limit, split in (("--rows", "train"), ("--test-rows", "test")):
        if before["rows"][split] != now["rows"][split]:
            rows = before["rows"][split]
            raise UserError(
                f"{folder} was begun with {rows:,} {split} rows of {task.name.text}, not {now['rows'][split]:,}.",
                f"Go on with {limit} {task.name.data.name}={rows}, or choose another --out.",
            )
    if before["rows"] != now["rows"]:
        raise UserError(
            f"the rows of {task.name.text} are not those that {folder} was begun with: a file was changed.",
            "Choose another --out.",
        )


def scored(run: Path, task: PaperTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a fine-tuned run on the test rows, all of them and each subset, out of one pass."""
    from gpt1.devices import device_of
    from gpt1.inference.evaluate import measured
    from gpt1.inference.predictor import load_task
    from gpt1.tasks.examples import encoded_labels

    model = load_task(run, device_of(settings.get("device", "auto")))
    examples, where = task.test.examples, task.test.table.where
    targets = encoded_labels(model.target, examples, where)
    logits = model.logits(examples)

    def of(rows: list[int]) -> dict[str, float]:
        labels = [examples[i].label for i in rows]
        found = measured(model.target, logits[rows], targets[rows], labels, intervals=False)
        return dict(found["metrics"])

    whole = of(list(range(len(examples))))
    parts = {name: of(rows) for name, rows in task.subsets.items()}
    return {"score": whole[task.metric], "metrics": whole, "subsets": parts}


def check_model(run: str | Path, given: str) -> None:
    """UserError for what is no pre-trained model, or not the sort that belongs to the flag `given`."""
    from gpt1.inference.task import TASK

    folder = runs.model_folder(run)
    if (folder / TASK).exists():
        raise UserError(
            f"{given} {run} is fine-tuned already.", "Name the pre-trained run that it was made from (gpt1 pretrain)."
        )
    is_lstm = model_facts(run)["config"].get("architecture") == "lstm"
    if given == "--lstm" and not is_lstm:
        raise UserError(f"--lstm {run} is no LSTM.", "Pre-train one with: gpt1 pretrain CORPUS --model lstm --out NEW")
    if given == "--from" and is_lstm:
        raise UserError(f"--from {run} is an LSTM.", f"Name a GPT there, and the LSTM beside it: --lstm {run}")
