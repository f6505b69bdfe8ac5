"""Label efficiency: the score on fixed test rows against the number of labels, with and without pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import HEAD_ONLY_DEFAULTS, FinetuneConfig
from gpt1.corpus.order import steps_per_epoch
from gpt1.errors import UserError
from gpt1.experiments.experiment_report import ExperimentReport, SeedScores
from gpt1.experiments.label_savings import compare_curves, curve_verdict, join_numbers, round_to_two_digits
from gpt1.experiments.methods import CURVE_METHODS, check_methods
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.result_store import (
    Job,
    ResultStore,
    check_same_settings,
    finetune_or_resume,
    model_facts,
    model_shape,
    resolve_training_settings,
    rows_fingerprint,
    run_and_write,
)
from gpt1.experiments.train_test_data import TrainTestData, min_labels, read_train_test
from gpt1.progress import NullProgress, Progress
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks.tfidf import tfidf_scores
from gpt1.training.finetune import COLUMN_ROLES

SMALLEST_SIZE = 8


@dataclass(frozen=True)
class CurvePlan:
    """What a curve is made of."""

    data: TrainTestData
    from_: str
    n_embd: int
    sizes: list[int]
    seeds: int
    methods: list[str]
    min_updates: int
    settings: dict[str, Any]

    def job_key(self, method: str, size: int, seed: int) -> str:
        return f"{CURVE_METHODS[method].title}, {size:,} labels, seed {seed}"

    def jobs(self) -> list[Job]:
        """Seeds in turn, small sizes first: a curve that is stopped early is a whole one with fewer seeds."""
        return [
            self.make_job(method, size, seed)
            for seed in range(self.seeds)
            for size in self.sizes
            for method in self.methods
        ]

    def make_job(self, method: str, size: int, seed: int) -> Job:
        def work(scratch: Path, progress: Progress) -> dict[str, Any]:
            return self.run_job(method, size, seed, scratch, progress)

        return Job(self.job_key(method, size, seed), self.cost(method, size), work)

    def cost(self, method: str, size: int) -> int:
        """Rows through the model, a row that is learnt from counting three times (there and back)."""
        test = len(self.data.test)
        if method == "tfidf":
            return (size + test) // 50 + 1
        if method == "head":
            return size + 2 * test
        return int(3 * self.run_settings(method, size, 0)["epochs"] * size) + test

    def run_settings(self, method: str, size: int, seed: int) -> dict[str, Any]:
        """All labels are learnt from, for a fixed number of updates: none is spent on choosing an epoch."""
        given = CURVE_METHODS[method].finetune_settings(self.settings, seed)
        epochs = given.get("epochs", HEAD_ONLY_DEFAULTS["epochs"] if method == "head" else FinetuneConfig.epochs)
        per_epoch = steps_per_epoch(size, given.get("batch_size", FinetuneConfig.batch_size))
        return {**given, "deduplicate": False, "epochs": max(epochs, self.min_updates / per_epoch)}

    def run_job(self, method: str, size: int, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        from gpt1.inference.evaluate import evaluate

        labels = self.data
        drawn = labels.draw_train_set(size, seed, f"{labels.training.table.name} ({size} labels, seed {seed})")
        if method == "tfidf":
            scores = tfidf_scores(labels.kind, labels.target, drawn.examples, labels.test.examples, seed)
            return {"method": method, "labels": size, "seed": seed, **scores}
        settings = self.run_settings(method, size, seed)
        learnt = resolve_training_settings(self.n_embd, settings)
        run = finetune_or_resume(
            drawn.table, scratch, progress, learnt, from_=self.from_, **labels.finetune_options, **settings
        )
        scores = evaluate(run, labels.test.table)["metrics"]
        return {"method": method, "labels": size, "seed": seed, "settings": learnt, **scores}

    def check_stored_settings(self, store: ResultStore) -> None:
        """UserError where a finished cell was made with other settings than it would be now."""
        for seed in range(self.seeds):
            for size in self.sizes:
                for method in self.methods:
                    key = self.job_key(method, size, seed)
                    if method != "tfidf" and key in store.results:
                        now = resolve_training_settings(self.n_embd, self.run_settings(method, size, seed))
                        check_same_settings(store.folder, key, store.results[key].get("settings"), now)


def measure_label_efficiency(
    train: str | Path | Table,
    *,
    from_: str | Path,
    out: str | Path,
    kind: str | None = None,
    score: bool = False,
    test: str | Path | Table | None = None,
    data_dir: str | Path | None = None,
    sizes: Sequence[int] | None = None,
    seeds: int = 5,
    methods: Sequence[str] = tuple(CURVE_METHODS),
    test_rows: int = 2000,
    min_updates: int = 100,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Measure the score against the number of labels and leave it in the folder `out`, which is returned.

    A seed draws the labelled rows and the fresh weights. The same call goes on where an earlier one stopped; more seeds
    or sizes add to it. sizes: numbers of labels, 0 for all; else 8, 16, 32, … all. test_rows: test rows at most, 0 for
    all. min_updates: with few labels, updates at least (three epochs over eight rows teach nothing). settings: the
    columns, and fields of FinetuneConfig, which hold for the pre-trained model and from scratch alike.
    """
    progress = progress or NullProgress()
    columns = {role: settings.pop(role) for role in COLUMN_ROLES if settings.get(role) is not None}
    asked = runs.user_settings(FinetuneConfig, config, {k: v for k, v in settings.items() if k not in COLUMN_ROLES})
    refuse_reserved("curve", asked)
    check_methods(methods, CURVE_METHODS)
    labels = read_train_test(train, test, kind, columns, score, data_dir, test_rows)
    model = model_facts(from_)
    wanted = resolve_sizes(sizes, labels)
    plan = CurvePlan(labels, str(from_), model["config"]["n_embd"], wanted, seeds, list(methods), min_updates, asked)
    about = {
        "analysis": "curve",
        "train": labels.training.table.name,
        "test": labels.test.table.name,
        "rows": {
            "train": rows_fingerprint(labels.training.table.rows),
            "test": rows_fingerprint(labels.test.table.rows),
        },
        "task": labels.finetune_options,
        "model": model,
        "settings": {"min_updates": min_updates, **asked},
    }
    kept = ResultStore.open(out, about)
    plan.check_stored_settings(kept)
    for note in labels.notes:
        progress.log(note)
    progress.log(
        f"{labels.training.table.name}: {len(labels.training):,} rows to draw from; test: {len(labels.test):,} rows of "
        f"{labels.test.table.name}; {labels.main_metric} at {', '.join(f'{n:,}' for n in plan.sizes)} labels, {seeds} seeds"
    )
    return run_and_write(
        "curve", plan.jobs(), kept, progress, labels.main_metric, lambda failed: write_curve_report(plan, kept, failed)
    )


def resolve_sizes(sizes: Sequence[int] | None, labels: TrainTestData) -> list[int]:
    """The numbers of labels, ascending; UserError for one that the rows do not have."""
    most, least = len(labels.training), min_labels(labels.target)
    if sizes is None:
        doubled = [SMALLEST_SIZE * 2**k for k in range(40)]
        return [*(n for n in doubled if least <= n < most), most]
    chosen = sorted({n or most for n in sizes})
    for n in chosen:
        if not least <= n <= most:
            raise UserError(
                f"--sizes {n}: {labels.training.table.name} allows {least:,} to {most:,} labels.",
                "Take other sizes; `all` stands for every row.",
            )
    return chosen


def write_curve_report(plan: CurvePlan, store: ResultStore, failed: list[str]) -> list[str]:
    """report.html, results.md, results.json from the finished cells; returns the verdict."""
    main, spreads = plan.data.main_metric, collect_seed_scores(plan, store)
    medians = {method: {n: spread.median for n, spread in by.items()} for method, by in spreads.items()}
    said = summarise_curves(medians, main)
    document = ExperimentReport(
        said[0] if said else f"{main} against the number of labels",
        f"label efficiency · {plan.data.training.table.name}",
        " ".join(said[1:]),
    )
    caption = f"{main} on {len(plan.data.test):,} test rows: medians over seeds, bands from the least to the greatest."
    document.figure("curve", draw_score_curves(spreads, main), caption)
    add_score_table(document, plan, spreads)
    worths = compare_curves(medians["all"], medians["scratch"]) if {"all", "scratch"} <= set(medians) else []
    if worths:
        document.heading("What pre-training is worth")
        document.table(
            ["labels", f"{main}, pre-trained", "labels that training from scratch needs for it"],
            [
                (w.labels, w.score, format_labels_needed(w.labels_needed, min(medians["scratch"]), w.max_labels))
                for w in worths
            ],
        )
        document.paragraph(
            "Between two sizes, a straight line over the logarithm of the labels; where the curve crosses a score "
            "twice, the first crossing counts, which favours training from scratch."
        )
    document.how_it_was_made(plan.data.notes, failed, curve_facts(plan, store))
    results = {
        "about": store.about,
        "metric": main,
        "verdict": said,
        "curves": {CURVE_METHODS[m].title: {str(n): s.to_json() for n, s in by.items()} for m, by in spreads.items()},
        "worth": [
            {"labels": w.labels, "score": w.score, "needed": w.labels_needed, "most": w.max_labels} for w in worths
        ],
        "failed": failed,
    }
    document.write(store.folder, results)
    return said


def collect_seed_scores(plan: CurvePlan, store: ResultStore) -> dict[str, dict[int, SeedScores]]:
    """Method → labels → scores, of what is finished."""
    spreads: dict[str, dict[int, SeedScores]] = {}
    for method in plan.methods:
        for size in plan.sizes:
            keys = [plan.job_key(method, size, seed) for seed in range(plan.seeds)]
            if spread := SeedScores.from_values(store.values(keys, plan.data.main_metric)):
                spreads.setdefault(method, {})[size] = spread
    return spreads


def summarise_curves(medians: dict[str, dict[int, float]], metric: str) -> list[str]:
    """The verdict: pre-training against none, against TF-IDF, and where the head alone does better."""
    pretrained = medians.get("all") or medians.get("head")
    if not pretrained:
        return []
    said = curve_verdict(pretrained, medians.get("scratch"), medians.get("tfidf"), metric)
    head, whole = medians.get("head", {}), medians.get("all", {})
    if wins := [n for n in sorted(set(head) & set(whole)) if head[n] > whole[n]]:
        said.append(f"The head alone is better than all weights at {join_numbers(wins)} labels.")
    return said


def format_labels_needed(labels: float | None, min_labels: int, max_labels: int) -> str:
    if labels is None:
        return f"more than {max_labels:,}"
    return f"{min_labels:,} or fewer" if labels <= min_labels else f"{round_to_two_digits(labels):,}"


def add_score_table(report: ExperimentReport, plan: CurvePlan, spreads: dict[str, dict[int, SeedScores]]) -> None:
    methods = [method for method in plan.methods if method in spreads]
    rows = []
    for size in plan.sizes:
        found = [spreads[method].get(size) for method in methods]
        rows.append([size, *(spread.to_cell() if spread else None for spread in found)])
    caption = f"{plan.data.main_metric}: median over {format_seed_count(spreads)} [least–greatest]"
    report.table(["labels", *(CURVE_METHODS[method].title for method in methods)], rows, caption=caption)


def format_seed_count(spreads: dict[str, dict[int, SeedScores]]) -> str:
    """The seeds behind each number of the table: a curve that was stopped has fewer than were asked for."""
    seeds = sorted({len(spread.values) for by in spreads.values() for spread in by.values()})
    return f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else formatting.count_noun(sum(seeds), "seed")


def curve_facts(plan: CurvePlan, store: ResultStore) -> dict[str, Any]:
    config, epochs = store.about["model"]["config"], plan.settings.get("epochs", FinetuneConfig.epochs)
    return {
        "model": plan.from_,
        "its shape": model_shape(config),
        "its weights": f"SHA-256 {store.about['model']['weights'][:16]}…",
        "rows to draw from": len(plan.data.training),
        "test rows": f"{len(plan.data.test):,} of {plan.data.test.table.name}",
        "seeds": plan.seeds,
        "updates": f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, {plan.min_updates} updates at least; "
        "all labels are learnt from, none chooses an epoch",
        "settings": plan.settings or "the defaults of gpt1 finetune",
    }


def draw_score_curves(spreads: dict[str, dict[int, SeedScores]], metric: str) -> Any:
    from gpt1.report import charts

    with charts.chart_style():
        figure, axes = charts.new_chart(metric, "labels, logarithmic", width=640, height=360)
        axes.set_xscale("log", base=2)
        for colour, (method, by) in zip(charts.SERIES_COLORS, spreads.items(), strict=False):
            title, sizes = CURVE_METHODS[method].title, sorted(by)
            tips = [f"{title}, {n:,} labels: {by[n].median:.3f}" for n in sizes]
            charts.band(axes, sizes, [by[n].values for n in sizes], tips, color=colour, label=title)
        sizes = sorted({n for by in spreads.values() for n in by})
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        charts.legend_below(axes)
    return figure
