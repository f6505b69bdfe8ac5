"""The baselines of a fine-tuned model on test rows: the trivial answer, and TF-IDF refitted on the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.config import FinetuneConfig, merge_settings
from gpt1.datasets.labeled import TaskData, TaskRequest, load_task_data
from gpt1.errors import UserError
from gpt1.files.names import RUN_CONFIG_FILE
from gpt1.files.reading import is_url
from gpt1.formatting import count_noun
from gpt1.inference.predictor import TaskPredictor
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tasks.baselines import tfidf_baseline, trivial_baseline
from gpt1.tasks.duplicates import content_key
from gpt1.tasks.kinds import Example
from gpt1.tasks.targets import Target
from gpt1.tasks.weights import with_weights


def baselines_on_test_rows(
    model: TaskPredictor, run: str | Path, examples: Sequence[Example], progress: Progress
) -> dict[str, Any]:
    """`trivial` and `tfidf` on `examples`; each is left out where it is not known.

    Models of earlier versions do not have the trivial answer. TF-IDF needs the training rows: those of the run's
    command, if they are still there and have the fingerprint that the run has stored.
    """
    found = {}
    labels = [example.label for example in examples]
    if (answer := model.task.get("trivial_answer")) is not None:
        found["trivial"] = trivial_baseline(model.target, answer, labels)
    if task := read_training_rows(Path(run), model.target):
        known = {content_key(model.kind, example) for example in task.training}
        if repeated := sum(content_key(model.kind, example) in known for example in examples):
            progress.log(
                f"warning: {repeated:,} of {count_noun(len(examples), 'row')} were training rows of this run: "
                "expect lower scores on new rows"
            )
        seed = int(runs.read_run_config(Path(run)).get("seed", 0))
        chosen = stored_choice(Path(run))
        rows = with_weights(task.training, task.weights), examples
        metric = str(model.task.get("metric", ""))
        if tfidf := tfidf_baseline(model.kind, model.target, *rows, seed, progress, chosen, task.validation, metric):
            found["tfidf"] = tfidf
    else:
        progress.log("no TF-IDF baseline: the training rows of this model are not available, or have changed")
    return found


def stored_choice(run: Path) -> Mapping[str, Any] | None:
    """The TF-IDF baseline that `finetune` has stored, whose settings cross-validation chose on the same rows."""
    baselines = runs.read_results(run).get("baselines")
    stored = baselines.get("tfidf") if isinstance(baselines, dict) else None
    return stored if isinstance(stored, dict) else None


def read_training_rows(run: Path, target: Target) -> TaskData | None:
    """The rows that a run was trained on; None if they are not those that its results name.

    `target` is that of the run's model, which is also that of the model before it if its output layer was kept.
    """
    if not (run / RUN_CONFIG_FILE).exists():
        return None
    try:
        fingerprint = runs.read_results(run).get("rows_fingerprint")
        stored = runs.read_run_config(run)
        command = stored.get("command")
        if not fingerprint or not isinstance(command, dict) or not is_local(command):
            return None
        cfg = merge_settings(FinetuneConfig, {k: v for k, v in stored.items() if k not in runs.RUN_KEYS})
        task = load_task_data(TaskRequest.from_command(command), cfg, Progress(), target if cfg.keep_head else None)
    except (UserError, KeyError, TypeError):  # moved, changed, or a table that existed in memory only
        return None
    return task if task.fingerprint() == fingerprint else None


def is_local(command: Mapping[str, Any]) -> bool:
    """Whether the rows of a command can be read without a network: a run folder may come from anyone."""
    sources = [source for name in ("train", "valid") if (source := command.get(name))]
    return command.get("data_dir") != "hub" and not any(is_url(source) for source in sources)
