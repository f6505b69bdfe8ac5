"""Label efficiency: the score on fixed test rows against the number of labels, with and without pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpt1 import formatting
from gpt1.console import default_progress
from gpt1.corpus.order import steps_per_epoch
from gpt1.datasets.labeled import TaskRequest
from gpt1.datasets.task_guess import complete_task
from gpt1.errors import UserError, require_count, require_list
from gpt1.experiments.experiment_report import ExperimentReport, SeedScores, describe_spread, single_seed_intervals
from gpt1.experiments.label_savings import LabelSaving, compare_curves, curve_verdict, join_numbers, round_to_two_digits
from gpt1.experiments.methods import CURVE_METHODS, check_methods
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.result_store import (
    Job,
    ResultStore,
    check_same_settings,
    config_dimensions,
    finetune_or_resume,
    model_facts,
    resolve_training_settings,
    rows_fingerprint,
    run_and_write,
)
from gpt1.experiments.train_test_data import TrainTestData, min_labels, read_train_test
from gpt1.intervals import estimate_interval
from gpt1.progress import Progress
from gpt1.runs.folder import log_once
from gpt1.tables.frames import to_table
from gpt1.tasks.tfidf import tfidf_scores
from gpt1.tasks.weights import example_weights, with_weights
from gpt1.training.finetune import named_columns, requested_finetune_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SMALLEST_SIZE = 8


@dataclass(frozen=True)
class CurvePlan:
    """The data, model, methods and settings of a label-efficiency curve."""

    data: TrainTestData
    from_: str
    model: dict[str, Any]
    """Its config."""
    sizes: list[int]
    seeds: int
    methods: list[str]
    min_steps: int
    settings: dict[str, Any]

    def runs(self) -> list[tuple[str, int, int]]:
        """(method, labels, seed) of each run, seed by seed: a curve that is stopped early has fewer seeds, no gaps."""
        return [(method, n, seed) for seed in range(self.seeds) for n in self.sizes for method in self.methods]

    def job_key(self, method: str, size: int, seed: int) -> str:
        return f"{CURVE_METHODS[method].title}, {size:,} labels, seed {seed}"

    def jobs(self) -> list[Job]:
        return [Job(self.job_key(*run), self.cost(*run), partial(self.run_job, *run)) for run in self.runs()]

    def cost(self, method: str, size: int, seed: int) -> int:
        """Rows through the model; a training row counts three times (forward and backward pass)."""
        n_test = len(self.data.test)
        if method == "tfidf":
            return (size + n_test) // 50 + 1
        if method == "head":
            return size + 2 * n_test
        return int(3 * self.run_settings(method, size, seed)["epochs"] * size) + n_test

    def run_settings(self, method: str, size: int, seed: int) -> dict[str, Any]:
        """The settings of `finetune`: all labels are used for training and the last epoch counts."""
        settings = CURVE_METHODS[method].finetune_settings(self.settings, seed)
        resolved = resolve_training_settings(self.model, {**settings, "deduplicate": False}, size, self.data.kind.name)
        per_epoch = steps_per_epoch(size, resolved["batch_size"])
        return {**settings, "deduplicate": False, "epochs": max(resolved["epochs"], self.min_steps / per_epoch)}

    def training_settings(self, method: str, size: int) -> dict[str, Any]:
        return resolve_training_settings(self.model, self.run_settings(method, size, 0), size, self.data.kind.name)

    def run_job(self, method: str, size: int, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        data, about = self.data, {"method": method, "labels": size, "seed": seed}
        rows = data.draw_train_set(size, seed, f"{data.training.table.name} ({size} labels, seed {seed})")
        if method == "tfidf":
            weights = example_weights(rows.examples, data.target, self.settings.get("class_weight", ""))
            training = with_weights(rows.examples, weights)
            test = data.test.examples
            return {**about, **tfidf_scores(data.kind, data.target, training, test, seed, metric=data.main_metric)}
        data.check_learnable(rows)
        options = data.finetune_options | self.run_settings(method, size, seed)
        resolved = self.training_settings(method, size)
        run = finetune_or_resume(rows.table, scratch, progress, resolved, from_=self.from_, **options)
        return {**about, "settings": resolved, **self.test_metrics(run)}

    def test_metrics(self, run: Path) -> dict[str, float]:
        """Metrics on the test rows, on the device that trained the run. Labels that it never saw count as mistakes."""
        from gpt1.inference.evaluate import score_rows
        from gpt1.inference.label_checks import encode_known_labels
        from gpt1.inference.predictor import load_task_predictor

        model, table = load_task_predictor(run, self.settings.get("device", "auto")), self.data.test.table
        targets, _ = encode_known_labels(model.target, self.data.test.examples, table.locate_row, refuse=False)
        found, _ = score_rows(model, table, self.data.test.examples, targets, Progress())
        return dict(found["metrics"])

    def check_stored_settings(self, store: ResultStore) -> None:
        """UserError if a finished run used other settings than it would use now."""
        for method, size, seed in self.runs():
            key = self.job_key(method, size, seed)
            if method != "tfidf" and key in store.results:
                before, now = store.results[key].get("settings"), self.training_settings(method, size)
                check_same_settings(store.folder, key, before, now)

    def collect_scores(self, store: ResultStore) -> dict[str, dict[int, SeedScores]]:
        """Method → labels → scores of the finished runs."""
        scores: dict[str, dict[int, SeedScores]] = {}
        metric = self.data.main_metric
        for method, size in product(self.methods, self.sizes):
            results = (store.results.get(self.job_key(method, size, seed), {}) for seed in range(self.seeds))
            if found := SeedScores.from_values(float(one[metric]) for one in results if metric in one):
                scores.setdefault(method, {})[size] = found
        return scores


def curve(
    train: Any,
    *,
    from_: str | Path,
    out: str | Path,
    kind: str | None = None,
    score: bool = False,
    test: Any = None,
    data_dir: str | Path | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int = 5,
    methods: Sequence[str] = tuple(CURVE_METHODS),
    test_rows: int = 2000,
    min_steps: int = 100,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Measure the score on fixed test rows against the number of labels. The same call resumes; more seeds are added.

    Args:
        train: labeled rows: a file, a DataFrame, a list of rows (dicts), a `Table` or the name of a data set.
        from_: run or model folder of the pre-trained model.
        out: folder for report.html, results.md, results.json and the finished runs (cells.json).
        kind: kind of task; a data set has its own, and that of a table is guessed if its `label` is named.
        score: similarity as a number instead of two classes.
        test, data_dir: test rows (default: the data set's, or a fifth of `train`); folder with files of data sets.
        sizes: numbers of labels, 0 for all rows; by default 8, 16, 32, … and all.
        seeds: number of random seeds; a seed samples the labeled rows and initializes the new weights.
        methods: of "all", "head", "scratch" and "tfidf".
        test_rows: maximum number of test rows, 0 for all.
        min_steps: minimum number of training steps, for small numbers of labels.
        config, progress: YAML file with settings of `finetune`; shows the progress (default: nothing is printed).
        **settings: columns of the task, and settings of `finetune` for all methods that train the model.

    Returns:
        The folder `out`.

    Raises:
        UserError: an input is invalid, or `out` has results of another curve.
        Interrupted: after Ctrl-C; finished runs are saved and the report shows them.
    """
    progress, train = progress or default_progress(), to_table(train)
    test = None if test is None else to_table(test)
    if former := settings.pop("min_updates", None):
        log_once("--min-updates is now called --min-steps.")
        min_steps = former
    for name, count, minimum in (("--seeds", seeds, 1), ("--test-rows", test_rows, 0), ("--min-steps", min_steps, 1)):
        require_count(count, name, minimum)
    require_list(methods, "--methods", '["all", "tfidf"]')
    columns, settings = named_columns(settings), requested_finetune_settings(config, settings)
    refuse_reserved("curve", settings)
    check_methods(methods, CURVE_METHODS)
    task = complete_task(TaskRequest(train, None, kind, columns, score, data_dir), progress)
    data = read_train_test(train, test, task.kind, dict(task.columns), task.score, data_dir, test_rows)
    model = model_facts(from_)
    chosen_sizes = resolve_sizes(sizes, data)
    chosen_methods = list(dict.fromkeys(methods))
    plan = CurvePlan(data, str(from_), model["config"], chosen_sizes, seeds, chosen_methods, min_steps, settings)
    return run_curve(plan, ResultStore.open(out, experiment_facts(plan, model)), progress)


def experiment_facts(plan: CurvePlan, model: dict[str, Any]) -> dict[str, Any]:
    """All inputs of the results. A file may be moved: its rows count, not its name."""
    train, test = plan.data.training.table, plan.data.test.table
    return {
        "analysis": "curve",
        "rows": {"train": rows_fingerprint(train.rows), "test": rows_fingerprint(test.rows)},
        "task": plan.data.finetune_options,
        "model": model,
        "settings": {"min_updates": plan.min_steps, **plan.settings},  # the former name, so that older folders resume
    }


def run_curve(plan: CurvePlan, store: ResultStore, progress: Progress) -> Path:
    """Run what is missing and write the report."""
    data = plan.data
    plan.check_stored_settings(store)
    for note in data.notes:
        progress.log(note)
    progress.log(
        f"{data.training.table.name}: {len(data.training):,} rows to sample from; test: {len(data.test):,} rows of "
        f"{data.test.table.name}; {data.main_metric} at {', '.join(f'{n:,}' for n in plan.sizes)} labels, "
        f"{formatting.count_noun(plan.seeds, 'seed')}"
    )
    return run_and_write(
        "curve", plan.jobs(), store, progress, data.main_metric, partial(write_curve_report, plan, store)
    )


def resolve_sizes(sizes: Sequence[int] | None, data: TrainTestData) -> list[int]:
    """The numbers of labels, ascending; UserError for one that the rows do not allow."""
    fewest, most = min_labels(data.target), len(data.training)
    if sizes is None:
        doubled = [SMALLEST_SIZE * 2**k for k in range(40)]
        return [*(n for n in doubled if fewest <= n < most), most]
    require_list(sizes, "--sizes", "[8, 64, 512]")
    for n in sizes:
        require_count(n, "--sizes")
    chosen = sorted({n or most for n in sizes})
    for n in chosen:
        if not fewest <= n <= most:
            raise UserError(
                f"--sizes {n} is out of range: {data.training.table.name} allows {fewest:,} to {most:,} labels.",
                "Choose other sizes; `all` uses every row.",
            )
    return chosen


def write_curve_report(plan: CurvePlan, store: ResultStore, failed: list[str]) -> list[str]:
    """Write report.html, results.md and results.json from the finished runs; returns the verdict."""
    metric, scores = plan.data.main_metric, plan.collect_scores(store)
    medians = {method: {n: one.median for n, one in by_size.items()} for method, by_size in scores.items()}
    verdict = summarize_curves(medians, metric)
    report = ExperimentReport(
        verdict[0] if verdict else f"{metric} against the number of labels",
        f"label efficiency · {plan.data.training.table.name}",
        " ".join(verdict[1:]),
    )
    rows = len(plan.data.test)
    report.figure("curve", draw_score_curves(scores, metric, rows), curve_caption(scores, metric, rows))
    add_score_table(report, plan, scores)
    savings = compare_curves(medians["all"], medians["scratch"]) if {"all", "scratch"} <= set(medians) else []
    if savings:
        add_savings_table(report, savings, min(medians["scratch"]), metric)
    report.add_provenance(plan.data.notes, failed, curve_facts(plan, store))
    results = {
        "about": store.about | {"train": plan.data.training.table.name, "test": plan.data.test.table.name},
        "metric": metric,
        "verdict": verdict,
        "curves": {CURVE_METHODS[m].title: {str(n): s.to_json() for n, s in by.items()} for m, by in scores.items()},
        "worth": [
            {"labels": one.labels, "score": one.score, "needed": one.labels_needed, "most": one.max_labels}
            for one in savings
        ],
        "failed": failed,
    }
    report.write(store.folder, results)
    return verdict


def summarize_curves(medians: dict[str, dict[int, float]], metric: str) -> list[str]:
    """The verdict: pre-training against none, against TF-IDF, and where the head alone does better."""
    pretrained = medians.get("all") or medians.get("head")
    if not pretrained:
        return []
    verdict = curve_verdict(pretrained, medians.get("scratch"), medians.get("tfidf"), metric)
    head, all_weights = medians.get("head", {}), medians.get("all", {})
    if wins := [n for n in sorted(set(head) & set(all_weights)) if head[n] > all_weights[n]]:
        verdict.append(f"Training only the head is better than training all weights at {join_numbers(wins)} labels.")
    return verdict


def add_score_table(report: ExperimentReport, plan: CurvePlan, scores: dict[str, dict[int, SeedScores]]) -> None:
    columns = [scores.get(method, {}) for method in plan.methods]  # a method whose runs all failed has a column, too
    rows = [
        [size, *(one.to_cell() if (one := by_size.get(size)) else None for by_size in columns)] for size in plan.sizes
    ]
    caption = f"{plan.data.main_metric}: {format_seed_count(scores)}"
    report.table(["labels", *(CURVE_METHODS[method].title for method in plan.methods)], rows, caption=caption)


def add_savings_table(report: ExperimentReport, savings: list[LabelSaving], fewest: int, metric: str) -> None:
    report.heading("What pre-training is worth")
    report.table(
        ["labels", f"{metric}, pre-trained", "labels that training from scratch needs for it"],
        [(one.labels, one.score, format_labels_needed(one.labels_needed, fewest, one.max_labels)) for one in savings],
    )
    report.paragraph(
        "Between two sizes the curve is a straight line over the logarithm of the labels. If it crosses a score "
        "twice, the first crossing counts, which favors training from scratch."
    )


def format_labels_needed(labels: float | None, fewest: int, most: int) -> str:
    if labels is None:
        return f"more than {most:,}"
    return f"{fewest:,} or fewer" if labels <= fewest else f"{round_to_two_digits(labels):,}"


def format_seed_count(scores: dict[str, dict[int, SeedScores]]) -> str:
    """Finished seeds behind the numbers of the table; fewer than --seeds if the curve was stopped."""
    seeds = sorted({len(one.values) for by_size in scores.values() for one in by_size.values()})
    if seeds[-1:] == [1]:
        return "one seed"
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else formatting.count_noun(sum(seeds), "seed")
    return f"median over {count} [min–max]"


def curve_facts(plan: CurvePlan, store: ResultStore) -> dict[str, Any]:
    model = store.about["model"]
    return {
        "model": plan.from_,
        "shape": config_dimensions(model["config"]),
        "weights": f"SHA-256 {model['weights'][:16]}…",
        "rows to sample from": len(plan.data.training),
        "test rows": f"{len(plan.data.test):,} of {plan.data.test.table.name}",
        "seeds": plan.seeds,
        "training": f"epochs and batch size as gpt1 finetune chooses them, at least {plan.min_steps} steps; "
        "all labels are used for training and the last epoch counts",
        "settings": plan.settings or "the defaults of gpt1 finetune",
    }


def curve_caption(scores: dict[str, dict[int, SeedScores]], metric: str, test_rows: int) -> str:
    """Caption of the chart, with the uncertainty from the number of test rows."""
    groups = [one for by_size in scores.values() for one in by_size.values()]
    caption = f"{metric} on {test_rows:,} test rows: {describe_spread(groups)}"
    if interval := estimate_interval(metric, median(one.median for one in groups or [SeedScores((0.5,))]), test_rows):
        what = "bars: 95% intervals" if any(len(one.values) == 1 for one in groups) else "a score has a 95% interval"
        caption += f"; {what} of about ±{(interval[1] - interval[0]) / 2:.2f} from the number of test rows"
    return caption + "."


def draw_score_curves(scores: dict[str, dict[int, SeedScores]], metric: str, test_rows: int) -> Figure:
    """A line per method over the number of labels; a point of a single seed has its confidence interval."""
    from gpt1.report import charts

    with charts.chart_style():
        figure, axes = charts.new_chart(metric, "labels, logarithmic")
        axes.set_xscale("log", base=2)
        for style, (method, by_size) in zip(charts.series_styles(), scores.items(), strict=False):
            title, sizes = CURVE_METHODS[method].title, sorted(by_size)
            tooltips = [f"{title}, {n:,} labels: {by_size[n].to_cell()}" for n in sizes]
            values = [by_size[n].values for n in sizes]
            intervals = single_seed_intervals((by_size[n] for n in sizes), metric, test_rows)
            charts.plot_band(axes, sizes, values, tooltips, style=style, label=title, intervals=intervals)
        sizes = sorted({n for by_size in scores.values() for n in by_size})
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        charts.add_legend(axes)
    return figure
