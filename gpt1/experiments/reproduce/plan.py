"""What a reproduction is made of: what a person asked for, and the runs that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import FinetuneConfig, flag_name, format_flag
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.methods import ABLATION_METHODS, Method
from gpt1.experiments.reproduce.paper_tasks import PaperTask, SkippedTask
from gpt1.experiments.result_store import (
    Job,
    ResultStore,
    check_same_settings,
    finetune_or_resume,
    model_facts,
    resolve_training_settings,
)
from gpt1.experiments.zeroshot.over_training import ZeroShotRun
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tasks.tfidf import tfidf_scores

EXPERIMENTS = ("table2", "table3", "table4", "table5", "figure2")


@dataclass(frozen=True)
class Request:
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

    def validate(self) -> None:
        """UserError for what can be seen without reading a row."""
        if self.what not in EXPERIMENTS:
            problem = f"there is no '{self.what}' to reproduce.{did_you_mean(self.what, EXPERIMENTS)}"
            raise UserError(problem, f"There are: {', '.join(EXPERIMENTS)}.")
        if self.what != "figure2" and (self.left or self.right):
            raise UserError(f"{self.what} has no left and right half.", "--left and --right are for figure2.")
        check_pretrained_model(self.from_, "--from")
        if self.lstm is not None:
            check_pretrained_model(self.lstm, "--lstm")

    def command_line(self) -> str:
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
                words.append(format_flag(name, value))
            else:
                words += [
                    flag_name(name),
                    formatting.format_setting(value) if isinstance(value, int | float) else str(value),
                ]
        return formatting.shell_join(["gpt1", "reproduce", self.what, *words])


@dataclass(frozen=True)
class ReproductionPlan:
    """What a table or figure is made of."""

    request: Request
    tasks: list[PaperTask]
    skipped_tasks: list[SkippedTask]
    methods: dict[str, Method]
    zeroshot_runs: list[ZeroShotRun] = field(default_factory=list)
    """Figure 2, right."""
    notes: list[str] = field(default_factory=list)
    """What the page should say of all this."""

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        """What each pre-trained model is: `from` and, where there is one, `lstm`."""
        models = {"from": self.request.from_, "lstm": self.request.lstm}
        return {name: model_facts(run) for name, run in models.items() if run}

    def job_key(self, task: PaperTask, method: str, seed: int) -> str:
        return f"{task.name.text}, {method}, seed {seed}"

    def jobs(self) -> list[Job]:
        """Seeds in turn: a table that is stopped early is a whole one with fewer seeds."""
        tuned = [
            self.make_job(task, method, seed)
            for seed in range(self.request.seeds)
            for task in self.tasks
            for method in self.methods
        ]
        return [*(shot.make_job() for shot in self.zeroshot_runs), *tuned]

    def make_job(self, task: PaperTask, method: str, seed: int) -> Job:
        def work(scratch: Path, progress: Progress) -> dict[str, Any]:
            return self.run_job(task, method, seed, scratch, progress)

        return Job(self.job_key(task, method, seed), self.cost(task, method), work)

    def cost(self, task: PaperTask, method: str) -> int:
        """kB of text through a model; what is learnt from counts three times (there and back)."""
        training, test = task.text_sizes(self.models["from"]["config"]["context"])
        if method == "tfidf":
            return 1 + (training + test) // 50_000
        if method == "head":
            return 1 + (training + test) // 1000
        epochs = self.request.settings.get("epochs", FinetuneConfig.epochs)
        return 1 + int(3 * epochs * training + test) // 1000

    def run_settings(self, method: str, seed: int) -> dict[str, Any]:
        return self.methods[method].finetune_settings(self.request.settings, seed)

    def training_settings(self, method: str) -> dict[str, Any]:
        if method == "tfidf":
            return {}
        width = self.models["lstm" if method == "lstm" else "from"]["config"]["n_embd"]
        return resolve_training_settings(width, self.run_settings(method, 0))

    def provenance(self, task: PaperTask, method: str) -> dict[str, Any]:
        """What a kept result has to agree with: the rows, the weights and the settings."""
        weights = None if method == "tfidf" else self.models["lstm" if method == "lstm" else "from"]["weights"]
        return {"rows": task.facts, "weights": weights, "settings": self.training_settings(method)}

    def check_stored_results(self, store: ResultStore) -> None:
        """UserError where a finished cell was made from other rows or another model than this plan says."""
        for shot in self.zeroshot_runs:
            if shot.job_key in store.results and store.results[shot.job_key]["made_from"] != shot.provenance:
                raise UserError(
                    f"{store.folder} was begun with other rows or weights for: {shot.job_key}.", "Choose another --out."
                )
        for task in self.tasks:
            for method in self.methods:
                for seed in range(self.request.seeds):
                    key = self.job_key(task, method, seed)
                    if cell := store.results.get(key):
                        before, now = cell["made_from"], self.provenance(task, method)
                        check_same_inputs(store.folder, task, method, before, now)
                        check_same_settings(store.folder, key, before.get("settings"), now["settings"])

    def run_job(self, task: PaperTask, method: str, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        about = {"task": task.name.text, "method": method, "seed": seed, "made_from": self.provenance(task, method)}
        if method == "tfidf":
            found = tfidf_scores(task.name.data.kind, task.target, task.training.examples, task.test.examples, seed)
            return {**about, "score": found[task.metric], "metrics": found, "subsets": {}}
        from_ = self.request.lstm if method == "lstm" else self.request.from_
        settings = self.run_settings(method, seed)
        learnt = self.training_settings(method)
        run = finetune_or_resume(
            task.training.table, scratch, progress, learnt, from_=from_, **task.finetune_options, **settings
        )
        fitted = runs.read_results(run)
        scores = evaluate_run(run, task, self.request.settings)
        return {**about, **scores, "cut": fitted["data"]["cut"], "seconds": fitted["seconds"]}


def check_same_inputs(
    folder: Path, task: PaperTask, method: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    if before["weights"] != now["weights"]:
        raise UserError(
            f"{folder} was begun with another model for {ABLATION_METHODS[method].title if method in ABLATION_METHODS else method}.",
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


def evaluate_run(run: Path, task: PaperTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a fine-tuned run on the test rows, all of them and each subset, out of one pass."""
    from gpt1.devices import resolve_device
    from gpt1.inference.evaluate import compute_metrics
    from gpt1.inference.predictor import load_task_predictor
    from gpt1.tasks.examples import encode_labels

    model = load_task_predictor(run, resolve_device(settings.get("device", "auto")))
    examples, where = task.test.examples, task.test.table.locate_row
    targets = encode_labels(model.target, examples, where)
    logits = model.logits(examples)

    def of(rows: list[int]) -> dict[str, float]:
        labels = [examples[i].label for i in rows]
        found = compute_metrics(model.target, logits[rows], targets[rows], labels, with_intervals=False)
        return dict(found["metrics"])

    whole = of(list(range(len(examples))))
    parts = {name: of(rows) for name, rows in task.subsets.items()}
    return {"score": whole[task.metric], "metrics": whole, "subsets": parts}


def check_pretrained_model(run: str | Path, flag: str) -> None:
    """UserError for what is no pre-trained model, or not the sort that belongs to the flag `flag`."""
    from gpt1.inference.task import TASK

    folder = runs.find_model_folder(run)
    if (folder / TASK).exists():
        raise UserError(
            f"{flag} {run} is fine-tuned already.", "Name the pre-trained run that it was made from (gpt1 pretrain)."
        )
    is_lstm = model_facts(run)["config"].get("architecture") == "lstm"
    if flag == "--lstm" and not is_lstm:
        raise UserError(f"--lstm {run} is no LSTM.", "Pre-train one with: gpt1 pretrain CORPUS --model lstm --out NEW")
    if flag == "--from" and is_lstm:
        raise UserError(f"--from {run} is an LSTM.", f"Name a GPT there, and the LSTM beside it: --lstm {run}")
