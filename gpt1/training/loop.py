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
from gpt1.corpus.order import derive_seed
from gpt1.devices import translate_resource_errors, world_size
from gpt1.errors import Interrupted, UserError
from gpt1.files.foreign import Fields, short
from gpt1.kernels.buffers import refresh_buffers
from gpt1.model.losses import Losses
from gpt1.progress import MetricsFile, Progress
from gpt1.training import checkpoints, schedules
from gpt1.training.distributed import SINGLE_PROCESS, Processes
from gpt1.training.guard import Guard, Meter
from gpt1.training.optimizers import OPTIMIZERS, clip_coefficient, global_norm

LOG_EVERY = 10  # updates that one line of metrics.jsonl stands for


@dataclass(frozen=True)
class StepBatch:
    """One update: the epoch it belongs to, the pieces (forward passes) that this process does of it, and the tokens of
    all of it, padding not counted."""

    epoch: int
    micro_batches: Sequence[Any]
    tokens: int


@dataclass(frozen=True)
class Stage:
    """What a stage brings to the loop. `step_batch` is a pure function of the step, so a run can go on from any step."""

    title: str
    model: nn.Module
    loss_fn: Callable[[Any], Losses]
    step_batch: Callable[[int], StepBatch]
    total_steps: int
    evaluate: Callable[[], dict[str, float]]
    should_evaluate: Callable[[int], bool]  # of the number of updates done
    fingerprints: Mapping[str, str]  # of everything that a resumed run must find unchanged
    main_metric: str = (
        ""  # the held-out figure, larger is better, by which the best checkpoint is chosen; "": the last one
    )
    processes: Processes = SINGLE_PROCESS
    flops_per_token: float = 0.0
    peak_flops: float = 0.0  # of the card, 0 where it is not known
    micro_batch_size: int = 1  # samples of the longest kind in one forward pass; 0 where no setting makes it smaller

    def trainable_parameters(self) -> list[tuple[str, Tensor]]:
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
    with translate_resource_errors(oom_advice(stage, config.activation_checkpointing)), stop_on_signal() as stop:
        optimizer = OPTIMIZERS[config.optimizer](stage.trainable_parameters(), config)
        folder, meter = run / "checkpoints", Meter()
        outcome = resume_from_checkpoint(stage, optimizer, meter, folder, progress) if resume else Outcome()
        if metrics:
            metrics.truncate_after(outcome.step)
        guard = Guard(stage, config, optimizer, meter, outcome, folder, progress)
        on_cpu, due = stage.trainable_parameters()[0][1].device.type == "cpu", False
        progress.begin(stage.title, stage.total_steps, outcome.step)
        stage.model.train()
        while outcome.step < stage.total_steps:
            update = stage.step_batch(outcome.step)
            lr = config.peak_lr * schedules.lr_factor(config.schedule, config.warmup, outcome.step, stage.total_steps)
            parts = train_step(stage, optimizer, config, update, outcome.step, lr)
            outcome.step += 1
            outcome.tokens += update.tokens
            meter.add(outcome.step, parts, update.tokens)
            recorded = outcome.step % LOG_EVERY == 0 or outcome.step == stage.total_steps
            if on_cpu or recorded:  # on a GPU each look waits for it
                guard.count_skipped()
            if recorded:
                figures = guard.read()
                outcome.train_loss = figures["loss"]
                if stage.peak_flops:  # model FLOPs utilisation
                    figures["mfu"] = figures["tokens_per_s"] * stage.flops_per_token / stage.peak_flops
                progress.record(step=outcome.step, split="train", lr=lr, tokens=outcome.tokens, **figures)
                progress.advance(outcome.step, **figures)
            stopping = stage.processes.any_rank(stop.is_set())  # asked once: a later signal waits for the next update
            evaluating = stage.should_evaluate(outcome.step)
            due |= evaluating or stopping
            due |= bool(config.checkpoint_every and outcome.step % config.checkpoint_every == 0)
            if due:
                guard.count_skipped()
                proven = evaluating and guard.evaluate(update.epoch)
                due = not guard.save(update.micro_batches[0], proven)
            if stopping and not due and outcome.step < stage.total_steps:
                progress.end()
                raise Interrupted(
                    f"stopped after update {outcome.step:,} of {stage.total_steps:,}; the state is saved in {folder}.",
                    "Go on with the same command and --resume.",
                )
        progress.end()
        if outcome.best and outcome.best != outcome.step:
            load_weights(stage, checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, outcome.best)).weights)
        stage.model.eval()
        return outcome


def oom_advice(stage: Stage, activation_checkpointing: bool) -> str:
    """What to do where memory does not suffice."""
    if stage.micro_batch_size > 1:
        fits = f"--micro-batch {stage.micro_batch_size // 2} (now {stage.micro_batch_size}) keeps half as much for the backward pass"
        return f"{fits}{'' if activation_checkpointing else ', --activation-checkpointing a fraction'}: the update stays the same."
    if not stage.micro_batch_size:
        return "Close other programs."
    if activation_checkpointing:
        return "Take a smaller model, or shorter texts."
    return "Set --activation-checkpointing: the update stays the same. Else a smaller model, or shorter texts."


def train_step(
    stage: Stage, optimizer: Any, config: TrainingConfig, batch: StepBatch, step: int, lr: float
) -> dict[str, Tensor]:
    """Forward and backward over the pieces, clip, step; the figures to show, still on the device."""
    torch.manual_seed(derive_seed(config.seed, step, stage.processes.rank))  # dropout: no hidden state to save
    parts: dict[str, Tensor] = {}
    for piece in batch.micro_batches:
        losses = stage.loss_fn(piece)
        losses.total.backward()  # type: ignore[no-untyped-call]
        for name, value in losses.metrics.items():
            parts[name] = parts[name] + value if name in parts else value
    stage.processes.all_reduce(
        [*parts.values(), *(p.grad for _, p in stage.trainable_parameters() if p.grad is not None)]
    )
    parts["gradient_norm"] = norm = global_norm(p for _, p in stage.trainable_parameters())
    finite = torch.isfinite(parts["loss"]) & torch.isfinite(norm)  # the same in all processes: both are of their sums
    optimizer.step(lr, clip_coefficient(norm, config.clip_norm), finite)
    refresh_buffers(p for _, p in stage.trainable_parameters())
    return parts


def resume_from_checkpoint(stage: Stage, optimizer: Any, meter: Meter, folder: Path, progress: Progress) -> Outcome:
    """Put the newest whole checkpoint into model, optimiser, meter; a damaged one is told, the one before is taken.
    So is one whose best checkpoint is damaged: going on from before that makes the best anew."""
    for step in reversed(checkpoints.list_steps(folder)):
        try:
            checkpoint = checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, step))
            outcome = read_outcome(checkpoint, at := checkpoints.checkpoint_path(folder, step))
            if (best := outcome.best) not in (0, step):
                checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, best))
        except UserError as error:
            progress.log(f"{error.problem} Trying the checkpoint before it.")
            continue
        for name, value in stage.fingerprints.items():
            if checkpoint.state["fingerprints"].get(name, value) != value:  # earlier versions knew fewer
                raise UserError(
                    f"{folder.parent} was trained with another {name} than this one: it cannot be resumed.",
                    "Resume with what it was started with, or start a new run with another --out.",
                )
        check_tensors(checkpoint.weights, dict(stage.trainable_parameters()), at / checkpoints.MODEL_FILE)
        check_tensors(checkpoint.optimizer, optimizer.state_tensors(), at / checkpoints.OPTIMIZER_FILE)
        load_weights(stage, checkpoint.weights)
        optimizer.load_state_tensors(checkpoint.optimizer, outcome.step)
        meter.take_up(checkpoint.state["unread"], stage.trainable_parameters()[0][1].device)
        progress.log(f"resuming after update {outcome.step:,}")
        return outcome
    progress.log("no whole checkpoint: starting from the beginning")
    return Outcome()


def read_outcome(checkpoint: checkpoints.Checkpoint, path: Path) -> Outcome:
    """The outcome in the state of the checkpoint `path`; UserError where a value of the state has another type."""
    state = Fields(checkpoint.state, path / checkpoints.STATE_FILE, checkpoints.REMOVE)
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


def load_weights(stage: Stage, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in stage.trainable_parameters():
            parameter.copy_(weights[name])


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a terminal that closes sets, so that the update at hand ends and is saved; a
    second Ctrl-C or SIGTERM ends at once. Under torchrun it does not: a process gets each signal twice there, from the
    terminal and from torchrun, which kills the processes itself if they take longer than 30 seconds."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != hang_up and world_size() == 1:  # a terminal and its shell hang up once each
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
