"""The paper's tables and figure 2 from one's own runs: what is missing is run, and a page is laid beside the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.experiments.methods import select_methods, transfer_methods
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.paper_tasks import SkippedTask, TaskName, check_row_limits, read_tasks
from gpt1.experiments.reproduce.plan import ReproductionPlan, Request
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.result_store import ResultStore, model_facts, run_and_write
from gpt1.experiments.zeroshot.over_training import ZeroShotRun, list_checkpoint_models, plan_zeroshot_runs
from gpt1.progress import NullProgress, Progress
from gpt1.runs import folder as runs


def reproduce(
    what: str,
    *,
    from_: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """A table of the paper, or its figure 2, measured with the pre-trained model `from_`; returns the folder `out`.

    Finished runs lie in `out`, are never done again, and serve every table asked for there; more seeds or tasks add to
    them. options: fields of `Request`, and settings of `finetune`, which hold for every run; None stands for none.
    """
    progress = progress or NullProgress()
    names = {one.name for one in fields(Request)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    settings = {name: value for name, value in options.items() if name not in names}
    chosen = runs.user_settings(FinetuneConfig, config, settings)
    refuse_reserved("reproduce", chosen)
    cfg = runs.resolve_settings(FinetuneConfig, None, chosen)  # refuses what is out of range
    asked = Request(what, from_, out, **given, settings=chosen)
    asked.validate()
    kept = ResultStore.open(out, {"analysis": "reproduce", "model": model_facts(from_), "settings": chosen})
    plan = make_plan(asked, cfg, progress)
    plan.check_stored_results(kept)
    announce_plan(plan, progress)
    return execute(plan, kept, progress)


def make_plan(request: Request, cfg: FinetuneConfig, progress: Progress) -> ReproductionPlan:
    """Everything read and checked, nothing run."""
    said: list[str] = []
    shots: list[ZeroShotRun] = []
    if request.what == "figure2":
        methods = transfer_methods(request.from_, request.methods)
    else:
        methods, said = select_methods(request.what, request.methods, request.lstm)
    trained = (request.tasks or default_tasks(request.what)) if "left" in request.halves else ()
    unseen = (() if trained else request.tasks) or paper.ZERO_SHOT_TASKS if "right" in request.halves else ()
    wanted = [TaskName.parse(name) for name in dict.fromkeys(trained)]
    names = [each for one in wanted for each in (one.text, one.data.name)]
    check_row_limits("--rows", request.rows, names)
    check_row_limits("--test-rows", request.test_rows, [*names, *unseen])
    if unseen:
        points = [
            *list_checkpoint_models(request.from_),
            *(list_checkpoint_models(request.lstm, "lstm") if request.lstm else []),
        ]
        shots, said = plan_zeroshot_runs(points, unseen, request.data_dir, request.test_rows, cfg.device, progress)
    found, left_out = read_tasks(wanted, request.data_dir, request.rows, request.test_rows, not cfg.deduplicate)
    if not found and not shots:
        raise no_tasks_error(left_out)
    return ReproductionPlan(request, found, left_out, methods, shots, said)


def no_tasks_error(left_out: Sequence[SkippedTask]) -> UserError:
    by_reason: dict[str, list[str]] = {}
    for one in left_out:
        by_reason.setdefault(one.reason, []).append(one.name.title)
    reasons = "; ".join(f"{', '.join(titles)}: {why}" for why, titles in by_reason.items())
    return UserError(f"none of the tasks can be measured. {reasons}.", "Name the folder of the files: --data-dir DIR")


def execute(plan: ReproductionPlan, store: ResultStore, progress: Progress) -> Path:
    """Run what is missing; the page is written at the end, and after Ctrl-C with what there is."""
    from gpt1.experiments.reproduce.page import write_reproduction_report

    return run_and_write(
        f"reproduce {plan.request.what}", plan.jobs(), store, progress, "score",
        lambda failed: write_reproduction_report(plan, store, failed), unit="kB of text",
    )  # fmt: skip


def announce_plan(plan: ReproductionPlan, progress: Progress) -> None:
    """What will be done."""
    for one in plan.skipped_tasks:
        progress.log(f"{one.name.title}: left out: {one.reason}")
    for line in plan.notes:
        progress.log(line)
    for task in plan.tasks:
        for note in task.notes:
            progress.log(note)
        progress.log(
            f"{task.name.title}: trained on {task.describe_train_rows()} rows, tested on {task.describe_test_rows()}, {task.metric}"
        )


def default_tasks(what: str) -> list[str]:
    if what == "table5":
        return list(paper.ABLATION_COLUMNS)
    if what == "figure2":
        return list(paper.TRANSFER_TASKS)
    return list(dict.fromkeys(column.task for column in paper.TABLES[what]))
