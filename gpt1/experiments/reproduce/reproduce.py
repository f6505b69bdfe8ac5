"""`gpt1 reproduce`: run what a table or figure of the paper needs, and compare with the paper in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.console import default_progress
from gpt1.errors import UserError
from gpt1.experiments.methods import select_methods, transfer_methods
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import SkippedTask, TaskName, check_row_limits, read_tasks
from gpt1.experiments.reproduce.plan import ReproductionPlan, Request
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.result_store import ResultStore, model_facts, run_and_write
from gpt1.experiments.zeroshot.over_training import ZeroShotRun, list_checkpoint_models, plan_zeroshot_runs
from gpt1.progress import Progress
from gpt1.runs import folder as runs


def reproduce(
    what: str,
    *,
    from_: str | Path,
    out: str | Path,
    data_dir: str | Path | None = None,
    seeds: int = 3,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    rows: Mapping[str, int] | None = None,
    test_rows: Mapping[str, int] | None = None,
    lstm: str | Path | None = None,
    left: bool = False,
    right: bool = False,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Measure a table or figure 2 of the paper with a pre-trained model. The same call resumes; a later call may add
    seeds and tasks.

    Args:
        what: "table2" to "table5" or "figure2".
        from_: run or model folder of the pre-trained Transformer.
        out: folder for report.html, results.md, results.json and the finished runs, which all tables in it share.
        data_dir: folder with the official files of the data sets.
        seeds: number of random seeds of each run.
        tasks: data sets, such as "rte" or "snli:dev>test" (train on dev, test on test); by default the paper's.
        methods: of "full", "scratch", "scratch-no-aux", "no-aux", "lstm", "head", "tfidf", "overlap"; by default "full"
            and the last two, table 5: all.
        rows, test_rows: maximum numbers of training and test rows by task, `""` for all other tasks.
        lstm: run of a pre-trained LSTM, for table 5 and figure 2.
        left, right: only one half of figure 2: transferred layers, or zero-shot scores over pre-training.
        config, progress: YAML file with settings of `finetune`; shows the progress (default: nothing is printed).
        **settings: settings of `finetune` for every run.

    Returns:
        The folder `out`.

    Raises:
        UserError: an input is invalid, or `out` has results of other inputs.
        Interrupted: after Ctrl-C; finished runs are saved and the report shows them.
    """
    progress = progress or default_progress()
    given = runs.user_settings(FinetuneConfig, config, settings)
    refuse_reserved("reproduce", given)
    resolved = runs.resolve_settings(FinetuneConfig, given)  # checks the ranges
    names = (tasks or (), methods or ())
    limits = ({} if rows is None else rows, {} if test_rows is None else test_rows)
    request = Request(what, from_, out, data_dir, seeds, *names, *limits, lstm, left, right, given)
    request.validate()
    store = ResultStore.open(out, {"analysis": "reproduce", "model": model_facts(from_), "settings": given})
    plan = plan_reproduction(request, resolved, progress)
    plan.check_stored_results(store)
    announce_plan(plan, progress)
    return run_reproduction(plan, store, progress)


def plan_reproduction(request: Request, cfg: FinetuneConfig, progress: Progress) -> ReproductionPlan:
    """Read and check all inputs; nothing is run."""
    notes: list[str] = []
    zeroshot_runs: list[ZeroShotRun] = []
    if request.what == "figure2":
        methods = transfer_methods(request.from_, request.methods)
    else:
        methods, notes = select_methods(request.what, request.methods, request.lstm)
    trained = (request.tasks or default_tasks(request.what)) if "left" in request.halves else ()
    # With both halves, --tasks names those of the left half.
    unseen = (() if trained else request.tasks) or paper.ZERO_SHOT_TASKS if "right" in request.halves else ()
    names = [TaskName.parse(name) for name in dict.fromkeys(trained)]
    known = [text for name in names for text in (name.text, name.data.name)]
    check_row_limits("--rows", request.rows, known)
    check_row_limits("--test-rows", request.test_rows, [*known, *unseen])
    if unseen:
        models = list_checkpoint_models(request.from_)
        if request.lstm:
            models += list_checkpoint_models(request.lstm, "lstm")
        zeroshot_runs, notes = plan_zeroshot_runs(
            models, unseen, request.data_dir, request.test_rows, cfg.device, progress
        )
    tasks, skipped = read_tasks(names, request.data_dir, request.rows, request.test_rows, not cfg.deduplicate)
    if not tasks and not zeroshot_runs:
        raise no_tasks_error(skipped)
    return ReproductionPlan(request, tasks, skipped, methods, zeroshot_runs, notes)


def no_tasks_error(skipped: Sequence[SkippedTask]) -> UserError:
    by_reason: dict[str, list[str]] = {}
    for task in skipped:
        by_reason.setdefault(task.reason, []).append(task.name.title)
    reasons = "; ".join(f"{', '.join(titles)}: {why}" for why, titles in by_reason.items())
    return UserError(f"none of the tasks can be measured. {reasons}.", "Choose the folder of the files: --data-dir DIR")


def run_reproduction(plan: ReproductionPlan, store: ResultStore, progress: Progress) -> Path:
    """Run what is missing and write the report."""
    from gpt1.experiments.reproduce.page import write_reproduction_report

    title, write_report = f"reproduce {plan.request.what}", partial(write_reproduction_report, plan, store)
    return run_and_write(title, plan.jobs(), store, progress, "score", write_report, unit="kB of text")


def announce_plan(plan: ReproductionPlan, progress: Progress) -> None:
    for line in [*(str(task) for task in plan.skipped_tasks), *plan.notes]:
        progress.log(line)
    for task in plan.tasks:
        for note in task.notes:
            progress.log(note)
        progress.log(
            f"{task.name.title}: trained on {task.describe_train_rows()} rows, tested on {task.describe_test_rows()}, "
            f"{task.metric}"
        )


def default_tasks(what: str) -> list[str]:
    if what == "table5":
        return list(paper.ABLATION_COLUMNS)
    if what == "figure2":
        return list(paper.TRANSFER_TASKS)
    return list(dict.fromkeys(column.task for column in paper.TABLES[what]))
