"""The paper's tables and figure 2 from one's own runs: what is missing is run, and a page is laid beside the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.experiments.cells import Kept, model_facts, run_and_write
from gpt1.experiments.methods import chosen_methods, transfers
from gpt1.experiments.reproduce import paper
from gpt1.experiments.reproduce.plan import Asked, Plan
from gpt1.experiments.reproduce.tasks import LeftOut, Name, check_limits, read_tasks
from gpt1.experiments.reserved import refuse_reserved
from gpt1.experiments.zeroshot.steps import Shot, points_of, shots_of
from gpt1.progress import Progress, Silent
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
    them. options: fields of `Asked`, and settings of `finetune`, which hold for every run; None stands for none.
    """
    progress = progress or Silent()
    names = {one.name for one in fields(Asked)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    settings = {name: value for name, value in options.items() if name not in names}
    chosen = runs.chosen_settings(FinetuneConfig, config, settings)
    refuse_reserved("reproduce", chosen)
    cfg = runs.settings_of(FinetuneConfig, None, chosen)  # refuses what is out of range
    asked = Asked(what, from_, out, **given, settings=chosen)
    asked.check()
    kept = Kept.open(out, {"analysis": "reproduce", "model": model_facts(from_), "settings": chosen})
    plan = planned(asked, cfg, progress)
    plan.check(kept)
    tell(plan, progress)
    return carried_out(plan, kept, progress)


def planned(asked: Asked, cfg: FinetuneConfig, progress: Progress) -> Plan:
    """Everything read and checked, nothing run."""
    said: list[str] = []
    shots: list[Shot] = []
    if asked.what == "figure2":
        methods = transfers(asked.from_, asked.methods)
    else:
        methods, said = chosen_methods(asked.what, asked.methods, asked.lstm)
    trained = (asked.tasks or tasks_of(asked.what)) if "left" in asked.halves else ()
    unseen = (() if trained else asked.tasks) or paper.ZERO_SHOT_TASKS if "right" in asked.halves else ()
    wanted = [Name.parse(name) for name in dict.fromkeys(trained)]
    names = [each for one in wanted for each in (one.text, one.data.name)]
    check_limits("--rows", asked.rows, names)
    check_limits("--test-rows", asked.test_rows, [*names, *unseen])
    if unseen:
        points = [*points_of(asked.from_), *(points_of(asked.lstm, "lstm") if asked.lstm else [])]
        shots, said = shots_of(points, unseen, asked.data_dir, asked.test_rows, cfg.device, progress)
    found, left_out = read_tasks(wanted, asked.data_dir, asked.rows, asked.test_rows, not cfg.deduplicate)
    if not found and not shots:
        raise nothing_to_measure(left_out)
    return Plan(asked, found, left_out, methods, shots, said)


def nothing_to_measure(left_out: Sequence[LeftOut]) -> UserError:
    by_reason: dict[str, list[str]] = {}
    for one in left_out:
        by_reason.setdefault(one.why, []).append(one.name.title)
    reasons = "; ".join(f"{', '.join(titles)}: {why}" for why, titles in by_reason.items())
    return UserError(f"none of the tasks can be measured. {reasons}.", "Name the folder of the files: --data-dir DIR")


def carried_out(plan: Plan, kept: Kept, progress: Progress) -> Path:
    """Run what is missing; the page is written at the end, and after Ctrl-C with what there is."""
    from gpt1.experiments.reproduce.page import write

    return run_and_write(
        f"reproduce {plan.asked.what}", plan.cells(), kept, progress, "score",
        lambda failed: write(plan, kept, failed), unit="kB of text",
    )  # fmt: skip


def tell(plan: Plan, progress: Progress) -> None:
    """What will be done."""
    for one in plan.left_out:
        progress.say(f"{one.name.title}: left out: {one.why}")
    for line in plan.said:
        progress.say(line)
    for task in plan.tasks:
        for note in task.notes:
            progress.say(note)
        progress.say(
            f"{task.name.title}: trained on {task.trained_on()} rows, tested on {task.tested_on()}, {task.metric}"
        )


def tasks_of(what: str) -> list[str]:
    if what == "table5":
        return list(paper.ABLATION_COLUMNS)
    if what == "figure2":
        return list(paper.TRANSFER_TASKS)
    return list(dict.fromkeys(column.task for column in paper.TABLES[what]))
