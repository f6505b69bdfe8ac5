"""Figure 2, right: what the checkpoints of a pre-training run know of tasks that they were never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.datasets import MissingSplit
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.result_store import Job, rows_fingerprint
from gpt1.experiments.zeroshot.heuristics import WINOGRAD, ZeroShotTask, build_zeroshot_task
from gpt1.experiments.zeroshot.winograd import find_schemas
from gpt1.files.foreign import Fields
from gpt1.files.manifest import file_entry
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.training import checkpoints

KB_PER_ROW = {"cola": 0.15, "sst2": 0.2, "race": 2.5, "storycloze": 0.4, WINOGRAD: 0.2}
"""Text of a row that goes through a model, about, for the time that is left."""
MODEL_NAMES = {"from": "Transformer", "lstm": "LSTM"}


@dataclass(frozen=True)
class CheckpointModel:
    """A model on its way: `weights` (a file) after `step` updates; `sha256` is theirs."""

    model: str
    run: str
    step: int
    weights: Path
    sha256: str


@dataclass(frozen=True)
class ZeroShotRun:
    """One dot of the figure."""

    task: str
    checkpoint: CheckpointModel
    zeroshot_task: ZeroShotTask
    device: str

    @property
    def job_key(self) -> str:
        return f"zero-shot {self.task}, {MODEL_NAMES[self.checkpoint.model]}, {self.checkpoint.step} updates"

    @property
    def provenance(self) -> dict[str, Any]:
        rows = rows_fingerprint(
            [{"name": self.zeroshot_task.name, "how": self.zeroshot_task.how, "gold": self.zeroshot_task.gold}]
        )
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
        found = self.zeroshot_task.evaluate(model, progress)
        about = {
            "task": self.task,
            "model": self.checkpoint.model,
            "step": self.checkpoint.step,
            "made_from": self.provenance,
        }
        named = {name: found[name] for name in ("metric", "guess", "how", "metrics", "interval", "rows")}
        return {**about, **named, "score": found["metrics"][found["metric"]]}


def list_checkpoint_models(run: str | Path, model: str = "from") -> list[CheckpointModel]:
    """The checkpoints of a run in order, and its finished model where that is not the last of them."""
    folder = Path(run) / "checkpoints"
    steps = checkpoints.list_steps(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(
            f"{run} has no checkpoints to measure on the way.",
            "Pre-train with --keep 100, which keeps them all; or make the left half alone: --left",
        )
    found = []
    for step in steps:
        at = checkpoints.checkpoint_path(folder, step)
        sha256 = checkpoints.verify_checkpoint(at)[checkpoints.MODEL_FILE]["sha256"]
        found.append(CheckpointModel(model, str(run), step, at / checkpoints.MODEL_FILE, sha256))
    end = Fields(runs.read_results(Path(run)), Path(run) / runs.RESULTS_FILE).integer("steps", default=0)
    if end > steps[-1]:
        weights = runs.find_model_folder(run) / checkpoints.MODEL_FILE
        found.append(CheckpointModel(model, str(run), end, weights, file_entry(weights)["sha256"]))
    return found


def plan_zeroshot_runs(
    models: Sequence[CheckpointModel],
    tasks: Sequence[str],
    data_dir: str | Path | None,
    rows: Mapping[str, int],
    device: str,
    progress: Progress,
) -> tuple[list[ZeroShotRun], list[str]]:
    """(a shot for every point and task, early updates first; what to say of tasks that are not in `data_dir`)."""
    trials: dict[str, ZeroShotTask] = {}
    said = []
    for name in tasks:
        if name not in KB_PER_ROW:
            raise UserError(
                f"--tasks {name}: there is no zero-shot heuristic for it.{did_you_mean(name, KB_PER_ROW)}",
                f"There are some for: {', '.join(KB_PER_ROW)}.",
            )
        try:
            if name == WINOGRAD:
                require_schemas(data_dir)
            trials[name] = build_zeroshot_task(
                name, data_dir=data_dir, rows=rows.get(name, rows.get("", 0)), progress=progress
            )
        except MissingSplit as error:
            said.append(f"Zero-shot, {name}: left out: {error.problem}")
    if not trials:
        raise UserError(f"no task of the right-hand figure can be measured. {' '.join(said)}", "See --data-dir.")
    return [ZeroShotRun(name, point, trial, device) for point in models for name, trial in trials.items()], said


def require_schemas(data_dir: str | Path | None) -> None:
    """MissingSplit where there are no Winograd schemas."""
    if data_dir is None:
        raise MissingSplit("no folder with Winograd schemas is named.")
    try:
        find_schemas(data_dir, "test")
    except UserError as error:
        raise MissingSplit(error.problem, error.fix) from None
