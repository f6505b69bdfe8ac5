"""The training loop of both stages: micro-batches → loss → gradient → optimizer step, evaluation and checkpoints."""

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
from gpt1.files.names import RUN_CONFIG_FILE
from gpt1.formatting import count_noun
from gpt1.kernels.buffers import refresh_buffers
from gpt1.model.losses import Losses
from gpt1.progress import MetricsFile, Progress
from gpt1.runs.folder import describe_setting
from gpt1.training import checkpoints, schedules
from gpt1.training.distributed import SINGLE_PROCESS, Processes
from gpt1.training.guard import Guard, Meter, fixed_settings
from gpt1.training.optimizers import OPTIMIZERS, clip_coefficient, global_norm

LOG_EVERY = 10  # steps per line of metrics.jsonl


@dataclass(frozen=True)
class StepBatch:
    """The data of one step."""

    epoch: int  # from 0
    micro_batches: Sequence[Any]  # of this process, one forward and backward pass each
    tokens: int  # of the whole step in all processes, without padding


@dataclass(frozen=True)
class Stage:
    """The interface between the loop and pre-training or fine-tuning.

    `step_batch` is a pure function of the step, so that a run can be resumed at any step.
    """

    title: str
    model: nn.Module
    loss_fn: Callable[[Any], Losses]
    step_batch: Callable[[int], StepBatch]
    total_steps: int
    evaluate: Callable[[], dict[str, float]]
    should_evaluate: Callable[[int], bool]  # given the number of steps done
    fingerprints: Mapping[str, str]  # of the inputs that must be unchanged when the run is resumed
    main_metric: str = ""  # validation metric that selects the best checkpoint; "": the last one
    processes: Processes = SINGLE_PROCESS
    flops_per_token: float = 0.0
    peak_flops: float = 0.0  # of the GPUs, FLOP/s; 0 if unknown
    micro_batch_size: int = 1  # longest samples per forward pass; 0 if no setting can reduce it

    def trainable_parameters(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


@dataclass
class Outcome:
    """State and result of a run, stored in its checkpoints."""

    step: int = 0  # steps done
    best: int = 0  # step of the best checkpoint, whose weights the model has in the end; 0: the last one
    best_value: float = -math.inf  # of the main metric; with the opposite sign if lower is better
    best_loss: float = math.inf
    epoch: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    train_loss: float = math.nan
    skipped: int = 0  # steps whose loss or gradient norm was NaN or infinite
    skipped_in_row: int = 0  # skipped steps since the last step that was not skipped
    history: list[dict[str, float]] = field(default_factory=list)  # validation metrics, in order


def train(
    stage: Stage, config: TrainingConfig, run: Path, progress: Progress, metrics: MetricsFile | None, resume: bool
) -> Outcome:
    """Train `stage.model`. A step whose loss or gradient norm is not finite is skipped: it changes no weights.

    Args:
        stage: Model, data and evaluation.
        config: Settings of the run.
        run: The run folder; checkpoints go to `run`/checkpoints.
        progress: Receives messages, progress and metrics.
        metrics: The metrics file, if any; a resumed run removes the lines of the steps that it repeats.
        resume: Continue from the newest valid checkpoint.

    Returns:
        The outcome; the model has the weights of the best checkpoint, in eval mode.

    Raises:
        Interrupted: After Ctrl-C or SIGTERM; the state is saved.
        Diverged: See `Guard`.
        ResourceError: Out of memory or disk space.
    """
    with translate_resource_errors(oom_advice(stage, config)), stop_on_signal(progress) as stop:
        optimizer = OPTIMIZERS[config.optimizer](stage.trainable_parameters(), config)
        folder, meter = run / "checkpoints", Meter()
        outcome = resume_from_checkpoint(stage, config, optimizer, meter, folder, progress) if resume else Outcome()
        if metrics:
            metrics.truncate_after(outcome.step)
        guard = Guard(stage, config, optimizer, meter, outcome, folder, progress)
        on_cpu, save_due = stage.trainable_parameters()[0][1].device.type == "cpu", False
        begin(stage, config, outcome, progress)
        while outcome.step < stage.total_steps:
            batch = stage.step_batch(outcome.step)
            lr = config.peak_lr * schedules.lr_factor(config.schedule, config.warmup, outcome.step, stage.total_steps)
            step_metrics = train_step(stage, optimizer, config, batch, outcome.step, lr)
            outcome.step += 1
            outcome.tokens += batch.tokens
            meter.add(outcome.step, step_metrics, batch.tokens)
            log_due = outcome.step % LOG_EVERY == 0 or outcome.step == stage.total_steps
            if on_cpu or log_due:  # on a GPU each check waits for the device
                guard.count_skipped()
            if log_due:
                record_training_metrics(stage, guard, outcome, lr, progress)
            progress.advance(outcome.step)
            flags = stop.is_set(), guard.is_checkpoint_time()  # read once: a later signal waits for the next step
            stopping, time_due = stage.processes.any_rank_each(*flags)
            evaluating = stage.should_evaluate(outcome.step)
            save_due |= evaluating or stopping or is_checkpoint_step(outcome.step, config)
            if save_due or time_due:
                guard.count_skipped()
                proven = evaluating and guard.evaluate(batch.epoch)
                save_due &= not guard.save(batch.micro_batches[0], proven, only_by_time=not save_due)
            if stopping and not save_due and outcome.step < stage.total_steps:
                progress.end()
                raise interruption_error(outcome.step, stage.total_steps, folder)
        progress.end()
        restore_best_weights(stage, outcome, folder)
        stage.model.eval()
        return outcome


def begin(stage: Stage, config: TrainingConfig, outcome: Outcome, progress: Progress) -> None:
    """Show what is trained, and prepare the model for it."""
    if not outcome.step and schedules.never_decays(config.schedule, config.warmup, stage.total_steps):
        progress.log(
            f"warning: the warm-up of {count_noun(config.warmup, 'step')} is at least as long as the run "
            f"({count_noun(stage.total_steps, 'step')}): the learning rate never decays. "
            "Use --warmup 0.1, a share of the steps."
        )
    progress.begin(stage.title, stage.total_steps, outcome.step)
    stage.model.train()


def restore_best_weights(stage: Stage, outcome: Outcome, folder: Path) -> None:
    """Load the weights of the best checkpoint, unless the model has them."""
    if outcome.best not in (0, outcome.step):
        load_weights(stage, checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, outcome.best)).weights)


def interruption_error(step: int, total_steps: int, folder: Path) -> Interrupted:
    problem = f"stopped after step {step:,} of {total_steps:,}; the state is saved in {folder}."
    return Interrupted(problem, "Resume with the same command and --resume, without --overwrite.")


def is_checkpoint_step(step: int, config: TrainingConfig) -> bool:
    return bool(config.checkpoint_every and step % config.checkpoint_every == 0)


def record_training_metrics(stage: Stage, guard: Guard, outcome: Outcome, lr: float, progress: Progress) -> None:
    """Record the mean metrics of the steps since the last record, unless all of them were skipped."""
    if not (means := guard.read()):
        return
    outcome.train_loss = means["loss"]
    if stage.peak_flops:  # model FLOPs utilization
        means["mfu"] = means["tokens_per_s"] * stage.flops_per_token / stage.peak_flops
    progress.record(step=outcome.step, split="train", lr=lr, tokens=outcome.tokens, **means)
    progress.advance(outcome.step, **means)


def oom_advice(stage: Stage, config: TrainingConfig) -> str:
    """How to use less memory."""
    size = stage.micro_batch_size
    if size > 1:
        halve = f"Use --micro-batch {size // 2} (now {size}) to halve the memory of activations"
        if not config.activation_checkpointing:
            halve += ", or --activation-checkpointing to keep a fraction of them"
        return f"{halve}: the step stays the same."
    if not size:
        return "Close other programs."
    if config.activation_checkpointing:
        return "Use a smaller model, or shorter texts."
    return "Use --activation-checkpointing: the step stays the same. Otherwise use a smaller model, or shorter texts."


def train_step(
    stage: Stage, optimizer: Any, config: TrainingConfig, batch: StepBatch, step: int, lr: float
) -> dict[str, Tensor]:
    """One step: forward and backward over the micro-batches, all-reduce, gradient clipping, optimizer step.

    Args:
        stage: Model and loss.
        optimizer: Its `step` is skipped if the loss or the gradient norm is not finite.
        config: Settings of the run.
        batch: The data of the step.
        step: The step, from 0; decides the dropout masks, together with the random seed and the rank.
        lr: Learning rate of the step.

    Returns:
        The step's losses and its gradient norm, scalars on the device.
    """
    torch.manual_seed(derive_seed(config.seed, step, stage.processes.rank))  # dropout: no generator state to save
    metrics: dict[str, Tensor] = {}
    for micro_batch in batch.micro_batches:
        losses = stage.loss_fn(micro_batch)
        losses.total.backward()  # type: ignore[no-untyped-call]
        for name, value in losses.metrics.items():
            metrics[name] = metrics[name] + value if name in metrics else value
    gradients = [p.grad for _, p in stage.trainable_parameters() if p.grad is not None]
    stage.processes.all_reduce([*metrics.values(), *gradients])
    metrics["gradient_norm"] = norm = global_norm(p for _, p in stage.trainable_parameters())
    finite = torch.isfinite(metrics["loss"]) & torch.isfinite(norm)  # computed from sums, so equal in all processes
    optimizer.step(lr, clip_coefficient(norm, config.clip_norm), finite)
    refresh_buffers(p for _, p in stage.trainable_parameters())
    return metrics


def resume_from_checkpoint(
    stage: Stage, config: TrainingConfig, optimizer: Any, meter: Meter, folder: Path, progress: Progress
) -> Outcome:
    """Restore model, optimizer and meter from the newest valid checkpoint; damaged ones are reported.

    A checkpoint is also rejected if the best checkpoint that it refers to is damaged: the run is then resumed before
    that one and creates it again.
    """
    for step in reversed(checkpoints.list_steps(folder)):
        try:
            path = checkpoints.checkpoint_path(folder, step)
            outcome = read_outcome(checkpoint := checkpoints.load_checkpoint(path), path)
            if (best := outcome.best) not in (0, step):
                checkpoints.load_checkpoint(checkpoints.checkpoint_path(folder, best))
        except UserError as error:
            progress.log(f"{error.problem} Trying the previous checkpoint.")
            continue
        for name, value in stage.fingerprints.items():
            if checkpoint.state["fingerprints"].get(name, value) != value:  # earlier versions stored fewer
                what = {"data": "rows", "--valid corpus": "corpus of --valid"}.get(name, name)
                problem = f"{folder.parent} was trained with {'other' if what == 'rows' else 'another'} {what}."
                raise UserError(problem, f"Use the same {what}, or start a new run with another --out.")
        check_settings(checkpoint.state.get("settings", {}), config, folder.parent)
        check_tensors(checkpoint.weights, dict(stage.trainable_parameters()), path / checkpoints.MODEL_FILE)
        check_tensors(checkpoint.optimizer, optimizer.state_tensors(), path / checkpoints.OPTIMIZER_FILE)
        load_weights(stage, checkpoint.weights)
        optimizer.load_state_tensors(checkpoint.optimizer, outcome.step)
        meter.restore_unread_metrics(checkpoint.state["unread"], stage.trainable_parameters()[0][1].device)
        progress.log(f"resuming after step {outcome.step:,}")
        return outcome
    progress.log("no valid checkpoint: starting at step 1")
    return Outcome()


def check_settings(trained_with: Mapping[str, Any], config: TrainingConfig, run: Path) -> None:
    """Raise UserError for a setting that was changed in config.yaml since the checkpoint, and cannot change."""
    for name, now in fixed_settings(config).items():
        before = trained_with.get(name, now)  # earlier versions stored none
        if before != now:
            raise UserError(
                f"{run / RUN_CONFIG_FILE} was changed: {describe_setting(name, now)}, but the run was trained with "
                f"{describe_setting(name, before)}. Settings cannot change on --resume.",
                "Undo the change, or start a new run with another --out.",
            )


def read_outcome(checkpoint: checkpoints.Checkpoint, path: Path) -> Outcome:
    """The outcome stored in a checkpoint. Raises UserError if a value in its state has the wrong type."""
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
        state.refuse("'unread' must be a list of records of numbers, all with the same names")
    state.object("fingerprints")
    state.object("settings", {})
    return outcome


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless `found` has every expected tensor, with the same shape."""
    for name, tensor in expected.items():
        if name not in found or found[name].shape != tensor.shape:
            shape = tuple(found[name].shape) if name in found else None
            problem = f"{path}: tensor {name} has shape {shape}, but the model needs {tuple(tensor.shape)}."
            raise UserError(problem, checkpoints.REMOVE)


def load_weights(stage: Stage, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in stage.trainable_parameters():
            parameter.copy_(weights[name])


@contextmanager
def stop_on_signal(progress: Progress) -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closing terminal sets, so that the current step is finished and saved.

    A second Ctrl-C or SIGTERM ends the process immediately, except under torchrun: there each process gets a signal
    twice, from the terminal and from torchrun, which kills processes that take longer than 30 seconds.
    """
    stop = threading.Event()
    answer = threading.Thread(target=progress.log, args=["Finishing this step…"], daemon=True)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous_handlers = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number != sighup and world_size() == 1:  # the terminal and the shell send SIGHUP each
            raise KeyboardInterrupt
        if not stop.is_set():
            answer.start()  # not in this thread, which the signal may have interrupted while it printed
        stop.set()

    sighup = getattr(signal, "SIGHUP", None)  # not on Windows
    signals = [signal.SIGINT, signal.SIGTERM]
    if sighup and signal.getsignal(sighup) != signal.SIG_IGN:  # nohup ignores it
        signals.append(sighup)
    for number in signals:
        previous_handlers[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        if stop.is_set():
            answer.join()
