"""Estimate the duration of a pre-training run on this machine, and plan a run for a given time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.devices import prepare_model, resolve_device, resolve_precision, translate_resource_errors
from gpt1.errors import ResourceError, UserError
from gpt1.formatting import count_noun, format_estimate, format_number
from gpt1.kernels.malloc import keep_freed_memory
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.recipes import MODEL_SIZES
from gpt1.runs.folder import resolve_settings
from gpt1.training.initial_model import SHAPE_FIELDS, new_model_config
from gpt1.training.optimizers import OPTIMIZERS
from gpt1.training.speed import flops_per_token, micro_batch_tokens

PLANNED_SIZES = [size for size in MODEL_SIZES if size != "lstm"]  # smallest first
MEASURED_FLOPS, MEASURED_FLOPS_ON_GPU = 4e11, 4e13  # of one pass: about a second
NEGLIGIBLE_FLOPS = 2e12  # a run that takes seconds needs no estimate
RESERVED_SHARE = 0.05  # of the time of a planned run, for the samples, the report and checkpoints
MIN_STEPS = 100  # of all sizes but the smallest
MIN_PLANNED_STEPS = 50
"""Minimum number of steps of a plan. The warm-up takes 7 of them. With fewer, training hardly changes a model, and a
new
one has learned only token frequencies."""
MIN_PLANNED_BATCH = 8  # windows; below this the noise of the gradient costs more than further steps gain
MAX_EPOCHS = 4.0
"""Maximum number of epochs of a plan: up to four are worth almost as much as new text (Muennighoff et al., 2023)."""


@dataclass(frozen=True)
class Speed:
    """How fast this machine trains a model; of several processes together."""

    token_seconds: float  # forward and backward pass of one token
    update_seconds: float  # one optimizer step

    def run_seconds(self, cfg: PretrainConfig, steps: float) -> float:
        """Seconds of `steps` steps and their evaluations; a forward pass is a third of both passes."""
        step = self.token_seconds * cfg.batch_size * cfg.context + self.update_seconds
        evaluation = self.token_seconds * cfg.eval_windows * cfg.context / 3
        evaluations = 1 + (steps / cfg.eval_every if cfg.eval_every else 0)
        return steps * step + evaluations * evaluation


def measure_speed(cfg: PretrainConfig, vocab_size: int, world_size: int) -> Speed:
    """Measure passes and an optimizer step with a model that is then discarded, so the run itself does not change."""
    device = resolve_device(cfg.device)
    activations, _ = resolve_precision(cfg.precision, device)
    if device.type == "cpu":
        keep_freed_memory()  # as in the run
    model = GPT(new_model_config(cfg, vocab_size), cfg.init_std)
    prepare_model(model, device, activations, cfg.activation_checkpointing)
    optimizer = OPTIMIZERS[cfg.optimizer](model.named_parameters(), cfg)
    share = -(-cfg.batch_size // world_size)
    flops = MEASURED_FLOPS if device.type == "cpu" else MEASURED_FLOPS_ON_GPU
    fitting = cfg.micro_batch or micro_batch_tokens(model.config, device, activations) // cfg.context
    windows = max(1, min(share, fitting, int(flops / flops_per_token(model.config) / cfg.context)))
    ids = torch.randint(vocab_size, (windows, cfg.context + 1), device=device)

    def measure_pass() -> float:
        started = time.perf_counter()
        loss = l1(model, PretrainMicroBatch(ids, windows * cfg.context)).total
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())  # waits for a GPU
        return time.perf_counter() - started

    def measure_optimizer_step() -> float:
        started = time.perf_counter()
        optimizer.step(0.0)
        float(next(model.parameters()).detach().sum())
        return time.perf_counter() - started

    model.train()
    with translate_resource_errors("Use a smaller --model."):
        seconds = measure_pass()  # allocates memory, so it is slow
        if seconds < 5:
            seconds = measure_pass()
        measure_optimizer_step()
        return Speed(seconds / (windows * cfg.context * world_size), measure_optimizer_step())


@dataclass(frozen=True)
class Plan:
    """A run that fits a given time."""

    cfg: PretrainConfig
    steps: int
    seconds: float
    expected_loss: float


def plan_run(
    minutes: float,
    requested: Mapping[str, Any],
    inherited: Mapping[str, Any],
    corpus: Corpus,
    measure: Callable[[PretrainConfig, int], Speed],
) -> Plan:
    """The model size and the number of steps with the lowest expected loss after `minutes` on this machine.

    Args:
        minutes: Time of the whole run.
        requested: The user's settings. One that determines the shape of the model leaves the size as it is.
        inherited: Settings of the model of `--from`; {} for a new one.
        corpus: The corpus; a plan repeats it at most MAX_EPOCHS times.
        measure: The speed of a model on this machine, given its settings and the size of the vocabulary.

    Raises:
        UserError: `minutes` is not positive, the number of steps is also given, or fewer than MIN_PLANNED_STEPS fit.
    """
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes {minutes:g} is out of range: it must be above 0.", "For example: --minutes 10")
    if given := [name for name in ("steps", "epochs") if requested.get(name)]:
        raise UserError(f"--minutes and --{given[0]} contradict each other.", "Use one of them.")
    is_fixed = inherited or requested.get("recipe") == "paper" or requested.keys() & {"model", "context", *SHAPE_FIELDS}
    best: Plan | None = None
    best_speed = Speed(0.0, 0.0)
    flops_per_second = 0.0  # of the last size
    for size in (requested.get("model"),) if is_fixed else PLANNED_SIZES:
        cfg = resolve_settings(PretrainConfig, {**requested, **({"model": size} if size else {})}, extra=inherited)
        flops = flops_per_token(new_model_config(cfg, corpus.vocab_size))
        if best:  # a larger model uses the machine better, by less than a factor of 2
            optimistic = plan_for_time(cfg, Speed(flops / flops_per_second / 2, 0.0), minutes, corpus)
            if optimistic.expected_loss >= best.expected_loss or optimistic.steps < MIN_STEPS:
                break
        try:
            speed = measure(cfg, corpus.vocab_size)
        except ResourceError:
            if best:
                break
            raise
        flops_per_second = flops / speed.token_seconds
        plan = plan_for_time(cfg, speed, minutes, corpus)
        if not best or (plan.expected_loss < best.expected_loss and plan.steps >= MIN_STEPS):
            best, best_speed = plan, speed
    assert best
    return ensure_min_steps(best, best_speed, minutes, corpus, requested, bool(inherited))


def ensure_min_steps(
    plan: Plan, speed: Speed, minutes: float, corpus: Corpus, requested: Mapping[str, Any], continues: bool
) -> Plan:
    """The plan, with smaller batches if it has fewer than MIN_PLANNED_STEPS; UserError if that is not enough.

    A batch size that the user or the recipe `paper` sets stays. `continues`: the run has `--from`.
    """
    while plan.steps < MIN_PLANNED_STEPS and "batch_size" not in requested and requested.get("recipe") != "paper":
        if plan.cfg.batch_size // 2 < MIN_PLANNED_BATCH:
            break
        plan = plan_for_time(replace(plan.cfg, batch_size=plan.cfg.batch_size // 2), speed, minutes, corpus)
    if plan.steps >= MIN_PLANNED_STEPS:
        return plan
    cfg, least = plan.cfg, MIN_PLANNED_STEPS
    if (most := max_steps(cfg, corpus)) < least:
        raise UserError(
            f"--minutes {minutes:g}: {MAX_EPOCHS:g} epochs of this corpus are only {count_noun(most, 'step')} of "
            f"{cfg.batch_size * cfg.context:,} tokens. A plan has at least {least}.",
            f"Use more text, or set the length of the run yourself, for example --steps {least}.",
        )
    needed = math.ceil(speed.run_seconds(cfg, least) / 60 / (1 - RESERVED_SHARE) * 1.05)  # the next measurement differs
    smaller = "" if continues or cfg.model == PLANNED_SIZES[0] else f", or --model {PLANNED_SIZES[0]}"
    raise UserError(
        f"--minutes {minutes:g} is too short: {count_noun(plan.steps, 'step')} of {cfg.batch_size * cfg.context:,} "
        f"tokens would fit on this machine, and a useful run has at least {least}.",
        f"Use --minutes {needed}{smaller}.",
    )


def describe_plan(plan: Plan, minutes: float, corpus: Corpus, origin: str) -> str:
    """The plan in a line; `origin`: the model of --from, or the size."""
    tokens = plan.cfg.batch_size * plan.cfg.context
    epochs = plan.steps * tokens / corpus.tokens
    share = f"{format_number(epochs)} epochs" if epochs >= 1 else f"{format_number(100 * epochs, 2)}% of an epoch"
    return (
        f"plan for {minutes:g} min: {origin}, {count_noun(plan.steps, 'step')} of {tokens:,} tokens ({share}), "
        f"{format_estimate(plan.seconds)} on this machine"
    )


def max_steps(cfg: PretrainConfig, corpus: Corpus) -> int:
    """Steps of MAX_EPOCHS epochs."""
    return int(MAX_EPOCHS * corpus.tokens * (1 - cfg.valid_fraction) / (cfg.batch_size * cfg.context))


def plan_for_time(cfg: PretrainConfig, speed: Speed, minutes: float, corpus: Corpus) -> Plan:
    """As many steps as fit into the time, but at most MAX_EPOCHS epochs."""
    tokens = cfg.batch_size * cfg.context
    fixed, with_one_step = speed.run_seconds(cfg, 0), speed.run_seconds(cfg, 1)
    fitting = (60 * minutes * (1 - RESERVED_SHARE) - fixed) / max(with_one_step - fixed, 1e-9)
    steps = max(1, int(min(fitting, max_steps(cfg, corpus))))
    loss = expected_loss(new_model_config(cfg, corpus.vocab_size).n_parameters, steps * tokens)
    return Plan(cfg, steps, speed.run_seconds(cfg, steps), loss)


def expected_loss(parameters: int, tokens: float) -> float:
    """Loss of a model trained on `tokens` tokens, except for a constant (Hoffmann et al., 2022, equation 10).

    Fitted there on models from 70 million parameters on; here it only ranks the sizes.
    """
    return 406.4 / parameters**0.34 + 410.7 / tokens**0.28
