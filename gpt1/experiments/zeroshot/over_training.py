"""Figure 2, right: zero-shot scores of the checkpoints of a pre-training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.datasets import MissingSplit
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.result_store import Job, rows_fingerprint
from gpt1.experiments.zeroshot.heuristics import WINOGRAD, build_zeroshot_task
from gpt1.experiments.zeroshot.task import ZeroShotTask
from gpt1.files.foreign import Fields
from gpt1.files.manifest import file_entry
from gpt1.files.names import RESULTS_FILE
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.training import checkpoints

KB_PER_ROW = {"cola": 0.15, "sst2": 0.2, "race": 2.5, "storycloze": 0.4, WINOGRAD: 0.2, "blimp": 0.1}
"""Approximate text of a row, for the estimate of the remaining time."""
MODEL_NAMES = {"from": "Transformer", "lstm": "LSTM"}


@dataclass(frozen=True)
class CheckpointModel:
    """The model of `run` after `step` pre-training steps: its `weights` (a file) and their SHA-256."""

    model: str
    run: str
    step: int
    weights: Path
    sha256: str


@dataclass(frozen=True)
class ZeroShotRun:
    """One point of the figure: a checkpoint on a task."""

    task: str
    checkpoint: CheckpointModel
    zeroshot_task: ZeroShotTask
    device: str

    @property
    def job_key(self) -> str:  # in cells.json: unchanged, so that older folders resume
        return f"zero-shot {self.task}, {MODEL_NAMES[self.checkpoint.model]}, {self.checkpoint.step} updates"

    @property
    def provenance(self) -> dict[str, Any]:
        task = self.zeroshot_task
        rows = rows_fingerprint([{"name": task.name, "how": task.how, "gold": task.gold}])
        return {"rows": rows, "weights": self.checkpoint.sha256}

    def make_job(self) -> Job:
        return Job(self.job_key, 1 + int(KB_PER_ROW[self.task] * len(self.zeroshot_task.gold)), self.run_job)

    def run_job(self, scratch: Path, progress: Progress) -> dict[str, Any]:
        from gpt1.devices import resolve_device
        from gpt1.inference.predictor import LanguageModel, load_model_and_tokenizer
        from gpt1.model.weights import read_safetensors

        gpt, tokenizer = load_model_and_tokenizer(self.checkpoint.run)
        gpt.load_state_dict(read_safetensors(self.checkpoint.weights))
        model = LanguageModel(gpt.eval().to(resolve_device(self.device)), tokenizer)
        result = self.zeroshot_task.evaluate(model, progress)
        about = {
            "task": self.task,
            "model": self.checkpoint.model,
            "step": self.checkpoint.step,
            "made_from": self.provenance,
        }
        scores = {name: result[name] for name in ("metric", "guess", "how", "metrics", "interval", "rows")}
        return {**about, **scores, "score": result["metrics"][result["metric"]]}


def list_checkpoint_models(run: str | Path, model: str = "from") -> list[CheckpointModel]:
    """The checkpoints of a run in order, and its finished model if it is later than the last checkpoint."""
    folder = Path(run) / "checkpoints"
    steps = checkpoints.list_steps(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(
            f"{run} has no checkpoints.",
            "Pre-train with --keep 100 to keep up to 100 of them, or use --left for the left half only.",
        )
    models = []
    for step in steps:
        checkpoint = checkpoints.checkpoint_path(folder, step)
        sha256 = checkpoints.verify_checkpoint(checkpoint)[checkpoints.MODEL_FILE]["sha256"]
        models.append(CheckpointModel(model, str(run), step, checkpoint / checkpoints.MODEL_FILE, sha256))
    last_step = Fields(runs.read_results(Path(run)), Path(run) / RESULTS_FILE).integer("steps", default=0)
    if last_step > steps[-1]:
        weights = runs.find_model_folder(run) / checkpoints.MODEL_FILE
        models.append(CheckpointModel(model, str(run), last_step, weights, file_entry(weights)["sha256"]))
    return models


def plan_zeroshot_runs(
    models: Sequence[CheckpointModel],
    tasks: Sequence[str],
    data_dir: str | Path | None,
    rows: Mapping[str, int],
    device: str,
    progress: Progress,
) -> tuple[list[ZeroShotRun], list[str]]:
    """(a run for each model and task, notes on tasks whose files are not in `data_dir`)."""
    found: dict[str, ZeroShotTask] = {}
    notes = []
    for name in tasks:
        if name not in KB_PER_ROW:
            raise UserError(
                f"--tasks {name}: no zero-shot heuristic for this task.{did_you_mean(name, KB_PER_ROW)}",
                f"Choose among: {', '.join(KB_PER_ROW)}.",
            )
        try:
            found[name] = build_zeroshot_task(
                name, data_dir=data_dir, rows=rows.get(name, rows.get("", 0)), progress=progress
            )
        except MissingSplit as error:
            notes.append(f"Zero-shot {name} skipped: {error.problem}")
    if not found:
        raise UserError(
            f"no zero-shot task can be measured. {' '.join(notes)}", "Choose the folder of the files: --data-dir DIR"
        )
    return [ZeroShotRun(name, model, task, device) for model in models for name, task in found.items()], notes
