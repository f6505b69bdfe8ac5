"""One loop for both stages: pieces of an update → loss → gradient → step, with held-out figures and checkpoints."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.config import TrainingConfig
from gpt1.corpus.order import mixed
from gpt1.devices import limits_explained, started
from gpt1.errors import Interrupted, UserError
from gpt1.files.foreign import Fields, short
from gpt1.kernels.buffers import settle
from gpt1.model.losses import Losses
from gpt1.progress import MetricsFile, Progress
from gpt1.training import checkpoints, schedules
from gpt1.training.distributed import ALONE, Processes
from gpt1.training.guard import Guard, Meter
from gpt1.training.optimizers import OPTIMIZERS, clipping, global_norm

RECORD_EVERY = 10  # updates that one line of metrics.jsonl stands for


@dataclass(frozen=True)
class Update:
    """One update: the epoch it belongs to, the pieces (forward passes) that this process does of it, and the tokens of
    all of it, padding not counted."""

    epoch: int
    pieces: Sequence[Any]
    tokens: int


@dataclass(frozen=True)
class Stage:
    """What a stage brings to the loop. `update` is a pure function of the step, so a run can go on from any step."""

    title: str
    model: nn.Module
    objective: Callable[[Any], Losses]
    update: Callable[[int], Update]
    steps: int
    evaluate: Callable[[], dict[str, float]]
    evaluate_after: Callable[[int], bool]  # of the number of updates done
    fingerprints: Mapping[str, str]  # of everything that a resumed run must find unchanged
    main: str = ""  # the held-out figure, larger is better, by which the best checkpoint is chosen; "": the last one
    processes: Processes = ALONE
    flops_a_token: float = 0.0
    peak_flops: float = 0.0  # of the card, 0 where it is not known
    together: int = 1  # samples of the longest kind in one forward pass; 0 where no setting makes it smaller

    def trained(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


@dataclass
class Outcome:
    """What a finished run knows of itself; `best` is the step whose weights the model now has."""

    step: int = 0
    best: int = 0
    best_value: float = -math.inf
    best_loss: float = math.inf
    epoch: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    train_loss: float = math.nan
    skipped: int = 0  # steps whose loss or gradient norm was NaN or infinite
    skipped_in_row: int = 0  # of them, those since the last step that was not skipped
    history: list[dict[str, float]] = field(default_factory=list)  # the held-out figures, in order


def train(
    stage: Stage, config: TrainingConfig, run: Path, progress: Progress, metrics: MetricsFile | None, resume: bool
) -> Outcome:
    """Train `stage.model` to `stage.steps` updates, from the newest checkpoint of `run` where `resume` is set.

    `progress` is told everything; `metrics`, one of its listeners, forgets the updates that a resumed run does again.
    Of several processes the first writes checkpoints; all read them.

    A step whose loss or gradient norm is NaN or infinite is skipped: it counts as a step and its data is used up, but
    weights and optimizer state keep their bits.

    Raises Interrupted after Ctrl-C (the state is saved), Diverged after guard.MAX_SKIPPED skipped steps in a row, and
    where the validation loss or the final weights are not finite. No checkpoint ever holds such values.
    """
    with limits_explained(less_memory(stage, config.recompute)), stop_requested() as stop:
        optimizer = OPTIMIZERS[config.optimizer](stage.trained(), config)
        folder, meter = run / "checkpoints", Meter()
        outcome = restore(stage, optimizer, meter, folder, progress) if resume else Outcome()
        if metrics:
            metrics.forget_after(outcome.step)
        guard = Guard(stage, config, optimizer, meter, outcome, folder, progress)
        on_cpu, due = stage.trained()[0][1].device.type == "cpu", False
        progress.begin(stage.title, stage.steps, outcome.step)
        stage.model.train()
        while outcome.step < stage.steps:
            update = stage.update(outcome.step)
            lr = config.peak_lr * schedules.rate(config.schedule, config.warmup, outcome.step, stage.steps)
            parts = one_update(stage, optimizer, config, update, outcome.step, lr)
            outcome.step += 1
            outcome.tokens += update.tokens
            meter.add(outcome.step, parts, update.tokens)
            recorded = outcome.step % RECORD_EVERY == 0 or outcome.step == stage.steps
            if on_cpu or recorded:  # on a GPU each look waits for it
                guard.count_skipped()
            if recorded:
                figures = guard.read()
                outcome.train_loss = figures["loss"]
                if stage.peak_flops:  # model FLOPs utilisation
                    figures["mfu"] = figures["tokens_per_s"] * stage.flops_a_token / stage.peak_flops
                progress.record(step=outcome.step, split="train", lr=lr, tokens=outcome.tokens, **figures)
                progress.advance(outcome.step, **figures)
            stopping = stage.processes.any(stop.is_set())  # asked once: a later signal waits for the next update
            evaluating = stage.evaluate_after(outcome.step)
            due |= evaluating or stopping
            due |= bool(config.checkpoint_every and outcome.step % config.checkpoint_every == 0)
            if due:
                guard.count_skipped()
                proven = evaluating and guard.evaluate(update.epoch)
                due = not guard.save(update.pieces[0], proven)
            if stopping and not due and outcome.step < stage.steps:
                progress.end()
                raise Interrupted(
                    f"stopped after update {outcome.step:,} of {stage.steps:,}; the state is saved in {folder}.",
                    "Go on with the same command and --resume.",
                )
        progress.end()
        if outcome.best and outcome.best != outcome.step:
            put(stage, checkpoints.load(checkpoints.at(folder, outcome.best)).weights)
        stage.model.eval()
        return outcome


def less_memory(stage: Stage, recompute: bool) -> str:
    """What to do where memory does not suffice."""
    if stage.together > 1:
        fits = f"--micro-batch {stage.together // 2} (now {stage.together}) keeps half as much for the backward pass"
        return f"{fits}{'' if recompute else ', --recompute a fraction'}: the update stays the same."
    if not stage.together:
        return "Close other programs."
    if recompute:
        return "Take a smaller model, or shorter texts."
    return "Set --recompute: the update stays the same. Else a smaller model, or shorter texts."


def one_update(
    stage: Stage, optimizer: Any, config: TrainingConfig, update: Update, step: int, lr: float
) -> dict[str, Tensor]:
    """Forward and backward over the pieces, clip, step; the figures to show, still on the device."""
    torch.manual_seed(mixed(config.seed, step, stage.processes.rank))  # dropout: no hidden state to save
    parts: dict[str, Tensor] = {}
    for piece in update.pieces:
        losses = stage.objective(piece)
        losses.total.backward()  # type: ignore[no-untyped-call]
        for name, value in losses.parts.items():
            parts[name] = parts[name] + value if name in parts else value
    stage.processes.add_up([*parts.values(), *(p.grad for _, p in stage.trained() if p.grad is not None)])
    parts["gradient_norm"] = norm = global_norm(p for _, p in stage.trained())
    finite = torch.isfinite(parts["loss"]) & torch.isfinite(norm)  # the same in all processes: both are of their sums
    optimizer.step(lr, clipping(norm, config.clip_norm), finite)
    settle(p for _, p in stage.trained())
    return parts


def restore(stage: Stage, optimizer: Any, meter: Meter, folder: Path, progress: Progress) -> Outcome:
    """Put the newest whole checkpoint into model, optimiser, meter; a damaged one is told, the one before is taken.
    So is one whose best checkpoint is damaged: going on from before that makes the best anew."""
    for step in reversed(checkpoints.steps(folder)):
        try:
            checkpoint = checkpoints.load(checkpoints.at(folder, step))
            outcome = read_outcome(checkpoint, at := checkpoints.at(folder, step))
            if (best := outcome.best) not in (0, step):
                checkpoints.load(checkpoints.at(folder, best))
        except UserError as error:
            progress.say(f"{error.problem} Trying the checkpoint before it.")
            continue
        for name, value in stage.fingerprints.items():
            if checkpoint.state["fingerprints"].get(name, value) != value:  # earlier versions knew fewer
                raise UserError(
                    f"{folder.parent} was trained with another {name} than this one: it cannot be resumed.",
                    "Resume with what it was started with, or start a new run with another --out.",
                )
        check_tensors(checkpoint.weights, dict(stage.trained()), at / checkpoints.MODEL)
        check_tensors(checkpoint.optimizer, optimizer.tensors(), at / checkpoints.OPTIMIZER)
        put(stage, checkpoint.weights)
        optimizer.load(checkpoint.optimizer, outcome.step)
        meter.take_up(checkpoint.state["unread"], stage.trained()[0][1].device)
        progress.say(f"resuming after update {outcome.step:,}")
        return outcome
    progress.say("no whole checkpoint: starting from the beginning")
    return Outcome()


def read_outcome(checkpoint: checkpoints.Checkpoint, path: Path) -> Outcome:
    """The outcome in the state of the checkpoint `path`; UserError where a value of the state has another type."""
    state = Fields(checkpoint.state, path / checkpoints.STATE, checkpoints.REMOVE)
    stored, outcome = state.object("outcome"), Outcome()
    for name, default in vars(outcome).items():
        value = stored.values.get(name, default)
        if type(value) not in ((int, float) if isinstance(default, float) else (type(default),)):
            stored.refuse(f"{name!r} must be of type {type(default).__name__}, not {short(value)}")
        setattr(outcome, name, value)
    for record in stored.items("history", dict, []):
        Fields(record, state.where, state.fix).integer("step")
    unread = state.items("unread", dict)
    if any(record.keys() != unread[0].keys() or {*map(type, record.values())} - {int, float} for record in unread):
        state.refuse("'unread' must be a list of records with the same names and numbers")
    state.object("fingerprints")
    return outcome


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """UserError unless `found` has every expected tensor in its shape."""
    for name, tensor in expected.items():
        if name not in found or found[name].shape != tensor.shape:
            shape = tuple(found[name].shape) if name in found else None
            problem = f"{path}: tensor {name} has the shape {shape}, the model needs {tuple(tensor.shape)}."
            raise UserError(problem, checkpoints.REMOVE)


def put(stage: Stage, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in stage.trained():
            parameter.copy_(weights[name])


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a terminal that closes sets, so that the update at hand ends and is saved; a
    second Ctrl-C or SIGTERM ends at once. Under torchrun it does not: a process gets each signal twice there, from the
    terminal and from torchrun, which kills the processes itself if they take longer than 30 seconds."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != hang_up and started() == 1:  # a terminal and its shell hang up once each
            raise KeyboardInterrupt
        stop.set()

    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hang_up and signal.getsignal(hang_up) != signal.SIG_IGN:  # under nohup it is ignored
        wanted.append(hang_up)
    for number in wanted:
        earlier[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
