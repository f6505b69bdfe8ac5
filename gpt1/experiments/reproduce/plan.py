"""The plan of a reproduction: the request, and the runs that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import flag_name, format_flag
from gpt1.errors import UserError, did_you_mean, require_count, require_list
from gpt1.experiments.methods import BASELINES, Method
from gpt1.experiments.reproduce.paper import TITLES
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
from gpt1.files.names import TASK_FILE
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tasks.overlap import fit_overlap, has_pairs
from gpt1.tasks.tfidf import fit_tfidf
from gpt1.tasks.weights import example_weights, with_weights


@dataclass(frozen=True)
class Request:
    """The arguments of `reproduce`."""

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
        """The requested halves of figure 2. A table counts as a left half: it is fine-tuned too."""
        if self.what != "figure2":
            return ["left"]
        return [half for half in ("left", "right") if getattr(self, half)] or ["left", "right"]

    def validate(self) -> None:
        """UserError for an invalid request, before any row is read."""
        if self.what not in TITLES:
            problem = f"unknown table or figure '{self.what}'.{did_you_mean(self.what, TITLES)}"
            raise UserError(problem, f"Choose one of: {', '.join(TITLES)}.")
        if self.what != "figure2" and (self.left or self.right):
            raise UserError(f"{self.what} has no left and right half.", "Use --left and --right with figure2 only.")
        require_count(self.seeds, "--seeds", 1)
        require_list(self.tasks, "--tasks", '["rte", "cola"]')
        require_list(self.methods, "--methods", '["full", "tfidf"]')
        for flag, limits in (("--rows", self.rows), ("--test-rows", self.test_rows)):
            if not isinstance(limits, Mapping):
                raise UserError(f"{flag} {limits!r} is not a mapping.", 'Use {"": 500} for all tasks, or {"rte": 500}.')
            for number in limits.values():
                require_count(number, flag, 1)
        if self.halves == ["right"] and self.rows:
            raise UserError("--rows does not apply to the right half of figure2: it trains nothing.", "Remove --rows.")
        if self.what == "figure2" and self.lstm is not None and "right" not in self.halves:
            raise UserError("--lstm does not apply to the left half of figure2.", "Remove --lstm.")
        check_pretrained_model(self.from_, "--from")
        if self.lstm is not None:
            check_pretrained_model(self.lstm, "--lstm")

    def command_line(self) -> str:
        """The shell command that makes this request."""
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
    """The tasks, methods and runs of a table or figure."""

    request: Request
    tasks: list[PaperTask]
    skipped_tasks: list[SkippedTask]
    methods: dict[str, Method]
    zeroshot_runs: list[ZeroShotRun] = field(default_factory=list)
    """Figure 2, right."""
    notes: list[str] = field(default_factory=list)
    """Notes for the report."""

    @cached_property
    def models(self) -> dict[str, dict[str, Any]]:
        """The facts of the pre-trained models: `from` and, if given, `lstm`."""
        models = {"from": self.request.from_, "lstm": self.request.lstm}
        return {name: model_facts(run) for name, run in models.items() if run}

    def runs(self) -> list[tuple[PaperTask, str, int]]:
        """(task, method, seed) of each run, seed by seed: a table that is stopped early has fewer seeds, no gaps."""
        seeds = range(self.request.seeds)
        return [
            (task, method, seed) for seed in seeds for task in self.tasks for method in self.applicable_methods(task)
        ]

    def applicable_methods(self, task: PaperTask) -> list[str]:
        """The methods that apply to a task: a single text has no overlap."""
        return [method for method in self.methods if method != "overlap" or has_pairs(task.name.data.kind)]

    def job_key(self, task: PaperTask, method: str, seed: int) -> str:
        return f"{task.name.text}, {method}, seed {seed}"

    def jobs(self) -> list[Job]:
        jobs = [Job(self.job_key(*run), self.cost(*run[:2]), partial(self.run_job, *run)) for run in self.runs()]
        return [*(run.make_job() for run in self.zeroshot_runs), *jobs]

    def cost(self, task: PaperTask, method: str) -> int:
        """kB of text through the model; training text counts three times (forward and backward pass)."""
        training, test = task.text_sizes(self.models["from"]["config"]["context"])
        if method in BASELINES:
            return 1 + (training + test) // 50_000
        if method == "head":
            return 1 + (training + test) // 1000
        epochs = self.training_settings(task, method)["epochs"]
        return 1 + int(3 * epochs * training + test) // 1000

    def finished_results(self, store: ResultStore, task: PaperTask, method: str) -> dict[int, dict[str, Any]]:
        """Seed → result, of the finished runs."""
        keys = {seed: self.job_key(task, method, seed) for seed in range(self.request.seeds)}
        return {seed: store.results[key] for seed, key in keys.items() if key in store.results}

    def run_settings(self, method: str, seed: int) -> dict[str, Any]:
        return self.methods[method].finetune_settings(self.request.settings, seed)

    def training_settings(self, task: PaperTask, method: str) -> dict[str, Any]:
        if method in BASELINES:
            return {}
        model = self.models["lstm" if method == "lstm" else "from"]["config"]
        kind = task.name.data.kind.name
        return resolve_training_settings(model, self.run_settings(method, 0), len(task.training), kind)

    def provenance(self, task: PaperTask, method: str) -> dict[str, Any]:
        """The inputs of a result: the rows, the weights and the settings."""
        weights = None if method in BASELINES else self.models["lstm" if method == "lstm" else "from"]["weights"]
        return {"rows": task.facts, "weights": weights, "settings": self.training_settings(task, method)}

    def check_stored_results(self, store: ResultStore) -> None:
        """UserError if a finished run used other rows, another model or other settings than this plan."""
        for run in self.zeroshot_runs:
            if run.job_key in store.results and store.results[run.job_key]["made_from"] != run.provenance:
                raise UserError(
                    f"{store.folder} was started with other rows or weights for: {run.job_key}.",
                    "Choose another --out.",
                )
        for task, method, seed in self.runs():
            key = self.job_key(task, method, seed)
            if result := store.results.get(key):
                before, now = result["made_from"], self.provenance(task, method)
                check_same_inputs(store.folder, task, self.methods[method].title, before, now)
                check_same_settings(store.folder, key, before.get("settings"), now["settings"])

    def run_job(self, task: PaperTask, method: str, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        about = {"task": task.name.text, "method": method, "seed": seed, "made_from": self.provenance(task, method)}
        if method in BASELINES:
            return {**about, **baseline_scores(task, method, seed, self.request.settings.get("class_weight", ""))}
        from_ = self.request.lstm if method == "lstm" else self.request.from_
        options = task.finetune_options | self.run_settings(method, seed)
        resolved = self.training_settings(task, method)
        options |= {name: resolved[name] for name in ("epochs", "batch_size")}  # finetune may remove duplicates first
        run = finetune_or_resume(task.training.table, scratch, progress, resolved, from_=from_, **options)
        training = runs.read_results(run)
        scores = evaluate_run(run, task, self.request.settings)
        return {**about, **scores, "cut": training["data"]["cut"], "seconds": training["seconds"]}


def baseline_scores(task: PaperTask, method: str, seed: int, class_weight: str) -> dict[str, Any]:
    """The metrics of a baseline on all test rows and on each subset."""
    examples = task.training.examples
    training = with_weights(examples, example_weights(examples, task.target, class_weight))
    data, metric = (task.name.data.kind, task.target, training, seed), task.metric
    fitted = fit_overlap(*data, metric=metric) if method == "overlap" else fit_tfidf(*data, metric=metric)[1]
    scores = fitted.scores(task.target, task.test.examples)
    subsets = {
        name: fitted.scores(task.target, [task.test.examples[i] for i in rows]) for name, rows in task.subsets.items()
    }
    return {"score": scores[task.metric], "metrics": scores, "subsets": subsets}


def check_same_inputs(
    folder: Path, task: PaperTask, method_title: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    if before["weights"] != now["weights"]:
        raise UserError(
            f"{folder} was started with another model for the method '{method_title}'.",
            "Choose another --out, or use the same model.",
        )
    for flag, split in (("--rows", "train"), ("--test-rows", "test")):
        n_before, n_now = before["rows"][split], now["rows"][split]
        if n_before != n_now:
            raise UserError(
                f"{folder} was started with {n_before:,} {split} rows of {task.name.text}, not {n_now:,}.",
                f"Use {flag} {task.name.data.name}={n_before}, or choose another --out.",
            )
    if before["rows"] != now["rows"]:
        raise UserError(
            f"the rows of {task.name.text} are not those that {folder} was started with: a file has changed.",
            "Choose another --out.",
        )


def evaluate_run(run: Path, task: PaperTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a fine-tuned run on all test rows and on each subset, from one forward pass."""
    from gpt1.devices import resolve_device
    from gpt1.inference.evaluate import compute_metrics
    from gpt1.inference.predictor import load_task_predictor
    from gpt1.tasks.examples import encode_labels

    model = load_task_predictor(run, resolve_device(settings.get("device", "auto")))
    examples = task.test.examples
    targets = encode_labels(model.target, examples, task.test.table.locate_row)
    logits = model.logits(examples)

    def score(rows: list[int]) -> dict[str, float]:
        labels, has_text = [examples[i].label for i in rows], [examples[i].has_text for i in rows]
        scored = compute_metrics(model.target, logits[rows], targets[rows], labels, False, has_text=has_text)
        return dict(scored["metrics"])

    metrics = score(list(range(len(examples))))
    subsets = {name: score(rows) for name, rows in task.subsets.items()}
    return {"score": metrics[task.metric], "metrics": metrics, "subsets": subsets}


def check_pretrained_model(run: str | Path, flag: str) -> None:
    """UserError unless `run` is a pre-trained model of the architecture that `flag` needs."""
    folder = runs.find_model_folder(run)
    if (folder / TASK_FILE).exists():
        raise UserError(f"{flag} {run} is already fine-tuned.", "Use the pre-trained run that it was fine-tuned from.")
    is_lstm = model_facts(run)["config"].get("architecture") == "lstm"
    if flag == "--lstm" and not is_lstm:
        raise UserError(
            f"--lstm {run} is not an LSTM.", "Pre-train one with: gpt1 pretrain CORPUS --model lstm --out NEW"
        )
    if flag == "--from" and is_lstm:
        raise UserError(f"--from {run} is an LSTM.", f"Use a Transformer for --from, and --lstm {run} for the LSTM.")
