"""Label efficiency: the score on fixed test rows against the number of labels, with and without pre-training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gpt1 import formatting
from gpt1.config import HEAD_ONLY, FinetuneConfig
from gpt1.corpus.order import updates_per_epoch
from gpt1.errors import UserError
from gpt1.experiments.cells import (
    Cell,
    Kept,
    check_settings,
    digest,
    finetuned,
    learnt_with,
    model_facts,
    run_and_write,
    shape_of,
)
from gpt1.experiments.document import Document, Spread
from gpt1.experiments.methods import CURVE_METHODS, check_methods
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.samples import Labels, fewest, read_labels
from gpt1.experiments.worth import listed, round_to_two_digits, verdict, worth
from gpt1.progress import Progress, Silent
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks.tfidf import tfidf_scores
from gpt1.training.finetune import ROLES

SMALLEST = 8


@dataclass(frozen=True)
class Plan:
    """What a curve is made of."""

    labels: Labels
    from_: str
    n_embd: int
    sizes: list[int]
    seeds: int
    methods: list[str]
    min_updates: int
    settings: dict[str, Any]

    def key(self, method: str, size: int, seed: int) -> str:
        return f"{CURVE_METHODS[method].title}, {size:,} labels, seed {seed}"

    def runs(self) -> list[tuple[str, int, int]]:
        """Seeds in turn, small sizes first: a curve that is stopped early is a whole one with fewer seeds."""
        return [(m, size, seed) for seed in range(self.seeds) for size in self.sizes for m in self.methods]

    def cells(self) -> list[Cell]:
        return [Cell(self.key(*run), self.cost(*run[:2]), partial(self.measure, *run)) for run in self.runs()]

    def cost(self, method: str, size: int) -> int:
        """Rows through the model, a row that is learnt from counting three times (there and back)."""
        test = len(self.labels.test)
        if method == "tfidf":
            return (size + test) // 50 + 1
        if method == "head":
            return size + 2 * test
        return int(3 * self.settings_for(method, size, 0)["epochs"] * size) + test

    def settings_for(self, method: str, size: int, seed: int) -> dict[str, Any]:
        """All labels are learnt from, for a fixed number of updates: none is spent on choosing an epoch."""
        given = CURVE_METHODS[method].finetune_settings(self.settings, seed)
        epochs = given.get("epochs", HEAD_ONLY["epochs"] if method == "head" else FinetuneConfig.epochs)
        per_epoch = updates_per_epoch(size, given.get("batch_size", FinetuneConfig.batch_size))
        return {**given, "deduplicate": False, "epochs": max(epochs, self.min_updates / per_epoch)}

    def measure(self, method: str, size: int, seed: int, scratch: Path, progress: Progress) -> dict[str, Any]:
        from gpt1.inference.evaluate import evaluate

        labels = self.labels
        drawn = labels.draw(size, seed, f"{labels.training.table.name} ({size} labels, seed {seed})")
        if method == "tfidf":
            scores = tfidf_scores(labels.kind, labels.target, drawn.examples, labels.test.examples, seed)
            return {"method": method, "labels": size, "seed": seed, **scores}
        settings = self.settings_for(method, size, seed)
        learnt = learnt_with(self.n_embd, settings)
        run = finetuned(drawn.table, scratch, progress, learnt, from_=self.from_, **labels.options, **settings)
        scores = evaluate(run, labels.test.table)["metrics"]
        return {"method": method, "labels": size, "seed": seed, "settings": learnt, **scores}

    def check(self, kept: Kept) -> None:
        """UserError where a finished cell was made with other settings than it would be now."""
        for method, size, seed in self.runs():
            key = self.key(method, size, seed)
            if method != "tfidf" and key in kept.cells:
                now = learnt_with(self.n_embd, self.settings_for(method, size, seed))
                check_settings(kept.folder, key, kept.cells[key].get("settings"), now)


def curve(
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
    progress = progress or Silent()
    columns = {role: settings.pop(role) for role in ROLES if settings.get(role) is not None}
    asked = runs.chosen_settings(FinetuneConfig, config, {k: v for k, v in settings.items() if k not in ROLES})
    refuse_reserved("curve", asked)
    check_methods(methods, CURVE_METHODS)
    labels = read_labels(train, test, kind, columns, score, data_dir, test_rows)
    model = model_facts(from_)
    wanted = chosen_sizes(sizes, labels)
    plan = Plan(labels, str(from_), model["config"]["n_embd"], wanted, seeds, list(methods), min_updates, asked)
    about = {
        "analysis": "curve",
        "train": labels.training.table.name,
        "test": labels.test.table.name,
        "rows": {"train": digest(labels.training.table.rows), "test": digest(labels.test.table.rows)},
        "task": labels.options,
        "model": model,
        "settings": {"min_updates": min_updates, **asked},
    }
    kept = Kept.open(out, about)
    plan.check(kept)
    for note in labels.notes:
        progress.say(note)
    progress.say(
        f"{labels.training.table.name}: {len(labels.training):,} rows to draw from; test: {len(labels.test):,} rows of "
        f"{labels.test.table.name}; {labels.main} at {', '.join(f'{n:,}' for n in plan.sizes)} labels, {seeds} seeds"
    )
    return run_and_write("curve", plan.cells(), kept, progress, labels.main, lambda failed: write(plan, kept, failed))


def chosen_sizes(sizes: Sequence[int] | None, labels: Labels) -> list[int]:
    """The numbers of labels, ascending; UserError for one that the rows do not have."""
    most, least = len(labels.training), fewest(labels.target)
    if sizes is None:
        doubled = [SMALLEST * 2**k for k in range(40)]
        return [*(n for n in doubled if least <= n < most), most]
    chosen = sorted({n or most for n in sizes})
    for n in chosen:
        if not least <= n <= most:
            raise UserError(
                f"--sizes {n}: {labels.training.table.name} allows {least:,} to {most:,} labels.",
                "Take other sizes; `all` stands for every row.",
            )
    return chosen


def write(plan: Plan, kept: Kept, failed: list[str]) -> list[str]:
    """report.html, results.md, results.json from the finished cells; returns the verdict."""
    main, spreads = plan.labels.main, spreads_of(plan, kept)
    medians = {method: {n: spread.median for n, spread in by.items()} for method, by in spreads.items()}
    said = told(medians, main)
    document = Document(
        said[0] if said else f"{main} against the number of labels",
        f"label efficiency · {plan.labels.training.table.name}",
        " ".join(said[1:]),
    )
    caption = (
        f"{main} on {len(plan.labels.test):,} test rows: medians over seeds, bands from the least to the greatest."
    )
    document.figure("curve", drawn(spreads, main), caption)
    table(document, plan, spreads)
    worths = worth(medians["all"], medians["scratch"]) if {"all", "scratch"} <= set(medians) else []
    if worths:
        document.heading("What pre-training is worth")
        document.table(
            ["labels", f"{main}, pre-trained", "labels that training from scratch needs for it"],
            [(w.labels, w.score, needed(w.needed, min(medians["scratch"]), w.most)) for w in worths],
        )
        document.paragraph(
            "Between two sizes, a straight line over the logarithm of the labels; where the curve crosses a score "
            "twice, the first crossing counts, which favours training from scratch."
        )
    document.how_it_was_made(plan.labels.notes, failed, made_with(plan, kept))
    results = {
        "about": kept.about,
        "metric": main,
        "verdict": said,
        "curves": {CURVE_METHODS[m].title: {str(n): s.json() for n, s in by.items()} for m, by in spreads.items()},
        "worth": [{"labels": w.labels, "score": w.score, "needed": w.needed, "most": w.most} for w in worths],
        "failed": failed,
    }
    document.write(kept.folder, results)
    return said


def spreads_of(plan: Plan, kept: Kept) -> dict[str, dict[int, Spread]]:
    """Method → labels → scores, of what is finished."""
    spreads: dict[str, dict[int, Spread]] = {}
    for method in plan.methods:
        for size in plan.sizes:
            keys = [plan.key(method, size, seed) for seed in range(plan.seeds)]
            if spread := Spread.of(kept.values(keys, plan.labels.main)):
                spreads.setdefault(method, {})[size] = spread
    return spreads


def told(medians: dict[str, dict[int, float]], metric: str) -> list[str]:
    """The verdict: pre-training against none, against TF-IDF, and where the head alone does better."""
    pretrained = medians.get("all") or medians.get("head")
    if not pretrained:
        return []
    said = verdict(pretrained, medians.get("scratch"), medians.get("tfidf"), metric)
    head, whole = medians.get("head", {}), medians.get("all", {})
    if wins := [n for n in sorted(set(head) & set(whole)) if head[n] > whole[n]]:
        said.append(f"The head alone is better than all weights at {listed(wins)} labels.")
    return said


def needed(labels: float | None, least: int, most: int) -> str:
    if labels is None:
        return f"more than {most:,}"
    return f"{least:,} or fewer" if labels <= least else f"{round_to_two_digits(labels):,}"


def table(document: Document, plan: Plan, spreads: dict[str, dict[int, Spread]]) -> None:
    methods = [method for method in plan.methods if method in spreads]
    rows = []
    for size in plan.sizes:
        found = [spreads[method].get(size) for method in methods]
        rows.append([size, *(spread.cell() if spread else None for spread in found)])
    caption = f"{plan.labels.main}: median over {finished(spreads)} [least–greatest]"
    document.table(["labels", *(CURVE_METHODS[method].title for method in methods)], rows, caption=caption)


def finished(spreads: dict[str, dict[int, Spread]]) -> str:
    """The seeds behind each number of the table: a curve that was stopped has fewer than were asked for."""
    seeds = sorted({len(spread.values) for by in spreads.values() for spread in by.values()})
    return f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else formatting.counted(sum(seeds), "seed")


def made_with(plan: Plan, kept: Kept) -> dict[str, Any]:
    config, epochs = kept.about["model"]["config"], plan.settings.get("epochs", FinetuneConfig.epochs)
    return {
        "model": plan.from_,
        "its shape": shape_of(config),
        "its weights": f"SHA-256 {kept.about['model']['weights'][:16]}…",
        "rows to draw from": len(plan.labels.training),
        "test rows": f"{len(plan.labels.test):,} of {plan.labels.test.table.name}",
        "seeds": plan.seeds,
        "updates": f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, {plan.min_updates} updates at least; "
        "all labels are learnt from, none chooses an epoch",
        "settings": plan.settings or "the defaults of gpt1 finetune",
    }


def drawn(spreads: dict[str, dict[int, Spread]], metric: str) -> Any:
    from gpt1.report import charts

    with charts.style():
        figure, axes = charts.chart(metric, "labels, logarithmic", width=640, height=360)
        axes.set_xscale("log", base=2)
        for colour, (method, by) in zip(charts.SERIES, spreads.items(), strict=False):
            title, sizes = CURVE_METHODS[method].title, sorted(by)
            tips = [f"{title}, {n:,} labels: {by[n].median:.3f}" for n in sizes]
            charts.band(axes, sizes, [by[n].values for n in sizes], tips, color=colour, label=title)
        sizes = sorted({n for by in spreads.values() for n in by})
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        charts.legend_below(axes)
    return figure
