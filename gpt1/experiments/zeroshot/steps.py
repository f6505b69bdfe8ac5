"""Figure 2, right: what the checkpoints of a pre-training run know of tasks that they were never trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.datasets import MissingSplit
from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.cells import Cell, digest
from gpt1.experiments.zeroshot.heuristics import WINOGRAD, Trial, trial_of
from gpt1.experiments.zeroshot.winograd import find_schemas
from gpt1.progress import Progress
from gpt1.report.run import Run
from gpt1.runs import folder as runs
from gpt1.training import checkpoints

KB_A_ROW = {"cola": 0.15, "sst2": 0.2, "race": 2.5, "storycloze": 0.4, WINOGRAD: 0.2}
"""Text of a row that goes through a model, about, for the time that is left."""
MODELS = {"from": "Transformer", "lstm": "LSTM"}


@dataclass(frozen=True)
class Point:
    """A model on its way: `weights` (a file) after `step` updates; `sha256` is theirs."""

    model: str
    run: str
    step: int
    weights: Path
    sha256: str


@dataclass(frozen=True)
class Shot:
    """One dot of the figure."""

    task: str
    point: Point
    trial: Trial
    device: str

    @property
    def key(self) -> str:
        return f"zero-shot {self.task}, {MODELS[self.point.model]}, {self.point.step} updates"

    @property
    def made_from(self) -> dict[str, Any]:
        rows = digest([{"name": self.trial.name, "how": self.trial.how, "gold": self.trial.gold}])
        return {"rows": rows, "weights": self.point.sha256}

    def cell(self) -> Cell:
        return Cell(self.key, 1 + int(KB_A_ROW[self.task] * len(self.trial.gold)), self.work)

    def work(self, scratch: Path, progress: Progress) -> dict[str, Any]:
        from safetensors.torch import load_file

        from gpt1.devices import device_of
        from gpt1.inference.predictor import LanguageModel, pair

        gpt, tokenizer = pair(self.point.run)
        gpt.load_state_dict(load_file(self.point.weights))
        model = LanguageModel(gpt.eval().to(device_of(self.device)), tokenizer)
        found = self.trial.measure(model, progress)
        about = {"task": self.task, "model": self.point.model, "step": self.point.step, "made_from": self.made_from}
        named = {name: found[name] for name in ("metric", "guess", "how", "metrics", "interval", "rows")}
        return {**about, **named, "score": found["metrics"][found["metric"]]}


def points_of(run: str | Path, model: str = "from") -> list[Point]:
    """The checkpoints of a run in order, and its finished model where that is not the last of them."""
    folder = Path(run) / "checkpoints"
    steps = checkpoints.steps(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(
            f"{run} has no checkpoints to measure on the way.",
            "Pre-train with --keep 100, which keeps them all; or make the left half alone: --left",
        )
    found = []
    for step in steps:
        at = checkpoints.at(folder, step)
        checkpoints.check(at)
        sha256 = json.loads((at / checkpoints.MANIFEST).read_text(encoding="utf-8"))["files"][checkpoints.MODEL]
        found.append(Point(model, str(run), step, at / checkpoints.MODEL, sha256["sha256"]))
    end = Run.open(Path(run)).results.get("steps", 0)
    if end > steps[-1]:
        weights = runs.model_folder(run) / checkpoints.MODEL
        found.append(Point(model, str(run), end, weights, checkpoints.fingerprint(weights)["sha256"]))
    return found


def shots_of(
    points: Sequence[Point],
    tasks: Sequence[str],
    data_dir: str | Path | None,
    rows: Mapping[str, int],
    device: str,
    progress: Progress,
) -> tuple[list[Shot], list[str]]:
    """(a shot for every point and task, early updates first; what to say of tasks that are not in `data_dir`)."""
    trials: dict[str, Trial] = {}
    said = []
    for name in tasks:
        if name not in KB_A_ROW:
            raise UserError(
                f"--tasks {name}: there is no zero-shot heuristic for it.{did_you_mean(name, KB_A_ROW)}",
                f"There are some for: {', '.join(KB_A_ROW)}.",
            )
        try:
            if name == WINOGRAD:
                check_schemas(data_dir)
            trials[name] = trial_of(name, data_dir=data_dir, rows=rows.get(name, rows.get("", 0)), progress=progress)
        except MissingSplit as error:
            said.append(f"Zero-shot, {name}: left out: {error.problem}")
    if not trials:
        raise UserError(f"no task of the right-hand figure can be measured. {' '.join(said)}", "See --data-dir.")
    return [Shot(name, point, trial, device) for point in points for name, trial in trials.items()], said


def check_schemas(data_dir: str | Path | None) -> None:
    """MissingSplit where there are no Winograd schemas."""
    if data_dir is None:
        raise MissingSplit("no folder with Winograd schemas is named.")
    try:
        find_schemas(data_dir, "test")
    except UserError as error:
        raise MissingSplit(error.problem, error.fix) from None
