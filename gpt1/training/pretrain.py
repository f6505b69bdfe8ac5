"""Stage 1, pre-training: train a GPT on unlabeled text to predict the next token (maximize L1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.config import PretrainConfig
from gpt1.console import default_progress
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.split import CorpusPart
from gpt1.corpus.windows import CorpusWindows, split_corpus, unigram_loss
from gpt1.devices import precision_name, prepare_model, resolve_device, resolve_precision
from gpt1.errors import UserError, require_path
from gpt1.files.output import check_new_folder
from gpt1.formatting import count_noun, count_parameters, format_estimate, format_size
from gpt1.inference.predictor import LanguageModel
from gpt1.inference.task import save_model
from gpt1.kernels.malloc import keep_freed_memory
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.model.weights import fingerprint_weights
from gpt1.progress import MultiProgress, Progress
from gpt1.runs import folder as runs
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.compiling import compile_blocks
from gpt1.training.distributed import Processes, process_group
from gpt1.training.initial_model import inherited_settings, init_model
from gpt1.training.loop import Outcome, Stage, StepBatch, train
from gpt1.training.plan import NEGLIGIBLE_FLOPS, describe_plan, measure_speed, plan_run
from gpt1.training.run import check_validation_source, open_run, resume_run
from gpt1.training.speed import flops_per_token, micro_batch_tokens, peak_flops
from gpt1.training.tracking import check_tracker

CORPUS_FIX = "Create one with: gpt1 tokenize TEXTS --out DIR"


def pretrain(
    corpus: str | Path | None = None,
    *,
    out: str | Path,
    from_: str | Path | None = None,
    valid: str | Path | None = None,
    minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Pre-train a model on a corpus.

    Args:
        corpus: Corpus folder, made by `tokenize`. With `resume` it can be omitted, like every input and setting.
        out: Run folder to create.
        from_: Run or model folder whose model is trained further; by default a new model is initialized.
        valid: Corpus folder for validation, instead of a part of `corpus`.
        minutes: Choose the number of steps, and the size if no setting does, so that the run takes about this time.
        resume: Resume the run `out` from its newest checkpoint.
        overwrite: Replace a run that is there, once everything is checked.
        config: YAML file with settings.
        progress: Receives messages, progress and metrics; by default they are printed in a notebook, else discarded.
        **settings: Fields of PretrainConfig; they override those of `config`.

    Returns:
        The run folder `out`.

    Raises:
        UserError: A setting or an input is invalid. It is raised before anything is written.
        Interrupted: After Ctrl-C; the state is saved.
        Diverged: Training diverged.
    """
    if corpus is None and not resume:
        raise UserError("the corpus is missing.", CORPUS_FIX)
    if corpus is not None:
        require_path(corpus, "the corpus", CORPUS_FIX)
    runs.check_resume(resume, overwrite)
    check_validation_source(valid, settings)
    inputs = {"corpus": corpus, "from": from_, "valid": valid}
    facts = {**{name: str(path) if path else None for name, path in inputs.items()}, "minutes": minutes}
    requested = requested_pretrain_settings(config, settings)
    with process_group() as processes:
        progress = progress or default_progress() if processes.is_rank0 else Progress()
        if resume:
            return resume_pretraining(out, inputs, facts, requested, processes, progress)
        processes.broadcast_from_rank0(lambda: check_new_folder(out, overwrite, (corpus, from_, valid, config)))
        opened, valid_corpus = Corpus.open(str(corpus)), Corpus.open(valid) if valid else None
        chosen = choose_settings(requested, minutes, from_, opened, processes, progress)
        setup, cfg = prepare_pretraining(chosen, opened, from_, valid_corpus, processes, progress)
        if not minutes:
            setup.log_time(cfg, progress)
        if processes.is_rank0:
            runs.create_run(out, cfg, facts, setup.precision, overwrite)
        run_pretraining(setup, cfg, Path(out), progress, resume=False)
    return Path(out)


def requested_pretrain_settings(config: str | Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a YAML file and among the keywords of `pretrain`."""
    requested = runs.user_settings(PretrainConfig, config, settings)
    # The config.yaml of a run has both; its steps count.
    if requested.get("steps") and settings.get("epochs") is not None:
        raise UserError("--steps and --epochs contradict each other.", "Use one of them.")
    return requested


def resume_pretraining(
    out: str | Path,
    inputs: Mapping[str, Any],
    facts: Mapping[str, Any],
    requested: Mapping[str, Any],
    processes: Processes,
    progress: Progress,
) -> Path:
    """Train the run `out` to its end, unless it is finished. `inputs` that are None are those of the run."""
    run, stored, command = resume_run(out, PretrainConfig, requested, facts, inputs, progress, processes)
    if command is None:
        return run
    corpus, from_, valid = (command[name] for name in inputs)
    opened, valid_corpus = Corpus.open(str(corpus)), Corpus.open(valid) if valid else None
    setup, cfg = prepare_pretraining(stored, opened, from_, valid_corpus, processes, progress)
    run_pretraining(setup, cfg, run, progress, resume=True)
    return run


def choose_settings(
    requested: Mapping[str, Any],
    minutes: float | None,
    from_: str | Path | None,
    corpus: Corpus,
    processes: Processes,
    progress: Progress,
) -> PretrainConfig:
    """All settings of a new run; those of a plan for `minutes` are plain settings too."""
    inherited = inherited_settings(from_, requested) if from_ else {}
    if minutes is None:
        return runs.resolve_settings(PretrainConfig, requested, extra=inherited)
    measured = plan_run(minutes, requested, inherited, corpus, partial(measure_speed, world_size=processes.world_size))
    plan = processes.broadcast_from_rank0(lambda: measured)
    progress.log(describe_plan(plan, minutes, corpus, f"from {from_}" if from_ else plan.cfg.model))
    return replace(plan.cfg, steps=plan.steps)


@dataclass(frozen=True)
class PretrainSetup:
    """Model and data of a pre-training run, checked and ready to train."""

    model: GPT
    tokenizer: Tokenizer
    corpus: Corpus
    train_windows: CorpusWindows
    validation_windows: CorpusWindows | None
    device: torch.device
    title: str
    fingerprints: dict[str, str]
    unigram_metrics: dict[str, float]
    processes: Processes
    precision: str  # and why it was chosen

    def count_steps(self, cfg: PretrainConfig) -> int:
        return cfg.steps or self.train_windows.count_steps(cfg.epochs, cfg.batch_size)

    def log_time(self, cfg: PretrainConfig, progress: Progress) -> None:
        """Measure this machine and print how long the run will take, unless it takes only seconds anywhere."""
        cfg = replace(cfg, batch_size=min(cfg.batch_size, self.train_windows.n))  # a step has at most all windows
        steps, tokens = self.count_steps(cfg), cfg.batch_size * cfg.context
        if steps * tokens * flops_per_token(self.model.config) < NEGLIGIBLE_FLOPS:
            return
        speed = measure_speed(cfg, self.corpus.vocab_size, self.processes.world_size)
        estimate = format_estimate(speed.run_seconds(cfg, steps))
        length = f"{count_noun(steps, 'step')} of {tokens:,} tokens"
        progress.log(f"{length}: {estimate} on this machine (for a run of N minutes: --minutes N)")

    def make_stage(self, cfg: PretrainConfig) -> Stage:
        steps = self.count_steps(cfg)
        activations = self.model.activation_dtype
        default_size = micro_batch_tokens(self.model.config, self.device, activations) // cfg.context
        micro_batch_size = cfg.micro_batch or max(1, default_size)  # windows

        def step_batch(step: int) -> StepBatch:
            epoch, windows = self.train_windows.training_batch(step, cfg.batch_size, cfg.seed)
            tokens = len(windows) * cfg.context
            ids = to_device(torch.from_numpy(self.processes.shard_samples(windows)), self.device)
            if not len(ids):  # no window for this process: use one with weight 0, since all processes add gradients
                unweighted = PretrainMicroBatch(to_device(torch.from_numpy(windows[:1]), self.device), math.inf)
                return StepBatch(epoch, [unweighted], tokens)
            parts = [PretrainMicroBatch(part, tokens) for part in torch.split(ids, micro_batch_size)]
            return StepBatch(epoch, parts, tokens)

        return Stage(
            title=self.title,
            model=self.model,
            loss_fn=lambda micro_batch: l1(self.model, micro_batch),
            step_batch=step_batch,
            total_steps=steps,
            evaluate=lambda: self.validation_metrics(cfg, micro_batch_size),
            should_evaluate=lambda done: done == steps or bool(cfg.eval_every and done % cfg.eval_every == 0),
            fingerprints=self.fingerprints,
            processes=self.processes,
            flops_per_token=flops_per_token(self.model.config),
            peak_flops=peak_flops(self.device, activations) * self.processes.world_size,
            micro_batch_size=min(micro_batch_size, cfg.batch_size),
        )

    def validation_metrics(self, cfg: PretrainConfig, micro_batch_size: int) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the validation windows; empty if there are none."""
        if self.validation_windows is None:
            return {}
        chosen = self.validation_windows.evenly_spaced(cfg.eval_windows)
        windows = torch.from_numpy(self.validation_windows.read(chosen)).to(self.device)
        tokens = windows[:, 1:].numel()
        parts = torch.split(windows, micro_batch_size)
        loss = sum(float(l1(self.model, PretrainMicroBatch(part, tokens)).total) for part in parts)
        return self.validation_windows.loss_metrics(loss)


def run_pretraining(setup: PretrainSetup, cfg: PretrainConfig, run: Path, progress: Progress, resume: bool) -> None:
    """Train; rank 0 then writes the model, the results and the report, for which all processes wait."""
    if setup.device.type == "cpu":
        keep_freed_memory()
    stage, compiled = setup.make_stage(cfg), cfg.compile and setup.device.type != "cpu"

    def trial_loss() -> Tensor:
        return stage.loss_fn(stage.step_batch(0).micro_batches[0]).total

    watch = UnigramWatch(progress, setup.unigram_metrics.get("loss", math.inf))
    listeners, is_rank0 = MultiProgress([progress, watch]), setup.processes.is_rank0
    with open_run(run, listeners, cfg.track, is_rank0) as (run_progress, metrics):
        with compile_blocks(setup.model, trial_loss, progress.log) if compiled else nullcontext():
            outcome = train(stage, cfg, run, run_progress, metrics, resume)
        if setup.processes.is_rank0:
            finish_pretraining(run, setup, outcome, cfg)
            if not is_below_unigram(setup.unigram_metrics, outcome.history[-1] if outcome.history else {}):
                progress.log(f"warning: {NOT_BELOW_UNIGRAM}")
    setup.processes.barrier()


NOT_BELOW_UNIGRAM = (
    "the validation loss is not clearly below the unigram loss: the model has learned only token frequencies. "
    "Do not fine-tune it: train for more steps (--epochs, --steps) or with a lower --peak-lr first."
)
UNIGRAM_MARGIN = 0.01
"""Share of the unigram loss by which a model that uses the context is below it. One that does not can still be better
by a little, as it also learns where lines end."""


def is_below_unigram(unigram: Mapping[str, float], validation: Mapping[str, float]) -> bool:
    """Whether the validation loss is below the unigram loss, so that the model uses the context; True if unknown."""
    return validation.get("loss", -math.inf) < (1 - UNIGRAM_MARGIN) * unigram.get("loss", math.inf)


class UnigramWatch(Progress):
    """Warns once, after a third of the run, if the validation loss is not below the unigram loss."""

    def __init__(self, progress: Progress, unigram_loss: float) -> None:
        self.progress = progress
        self.unigram_loss = unigram_loss
        self.total_steps = 0
        self.warned = False

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.total_steps = total

    def record(self, **values: Any) -> None:
        if self.warned or values["split"] != "validation":
            return
        # Earlier, the warm-up explains a high loss. After the last step, `run_pretraining` warns.
        watched = self.total_steps / 3 <= values["step"] < self.total_steps
        if watched and not is_below_unigram({"loss": self.unigram_loss}, values):
            self.warned = True
            self.progress.log(
                f"warning: step {values['step']:,}: the validation loss ({values['loss']:.3f}) is not clearly below "
                f"the unigram loss ({self.unigram_loss:.3f}). If it stays there, use a lower --peak-lr."
            )


def prepare_pretraining(
    cfg: PretrainConfig,
    corpus: Corpus,
    from_: str | Path | None,
    valid: Corpus | None,
    processes: Processes,
    progress: Progress,
) -> tuple[PretrainSetup, PretrainConfig]:
    """(model and data, settings with the precision that was chosen) of a run. Nothing is written yet."""
    tokenizer = corpus.load_tokenizer()
    training, validation = split_windows(cfg, corpus, valid)
    check_tracker(cfg.track)
    device = resolve_device(cfg.device)
    model = init_model(cfg, corpus, tokenizer, from_)
    activations, precision = processes.broadcast_from_rank0(lambda: resolve_precision(cfg.precision, device))
    prepare_model(model, device, activations, cfg.activation_checkpointing)
    if cfg.batch_size < processes.world_size:
        raise UserError(
            f"--batch-size {cfg.batch_size} is smaller than the number of processes ({processes.world_size}).",
            f"Start at most {cfg.batch_size} processes, or use --batch-size {processes.world_size}.",
        )
    if cfg.compile and device.type == "cpu":
        progress.log("--compile has no effect on a CPU: torch.compile cannot trace the CPU kernels of gpt1")
    unigram = log_corpus(cfg, corpus, training, validation, progress)
    count = count_parameters(sum(p.numel() for p in model.parameters()))
    title = f"pre-training {f'from {from_}' if from_ else cfg.model}, {count}, {precision}"
    if processes.world_size > 1:
        title += f", {processes.world_size} processes"
    fingerprints = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint, "precision": str(activations)}
    if valid:
        fingerprints["--valid corpus"] = valid.fingerprint
        if valid.fingerprint == corpus.fingerprint:
            progress.log("warning: --valid is the training corpus: its loss does not show overfitting")
    if from_:
        fingerprints["model"] = fingerprint_weights(runs.find_model_folder(from_))
    setup = PretrainSetup(
        model, tokenizer, corpus, training, validation, device, title, fingerprints, unigram, processes, precision
    )
    return setup, replace(cfg, precision=precision_name(activations))


def split_windows(
    cfg: PretrainConfig, corpus: Corpus, valid: Corpus | None
) -> tuple[CorpusWindows, CorpusWindows | None]:
    """Training and validation windows; the latter are those of `valid`, if given."""
    training, validation = split_corpus(corpus, cfg.context, 0.0 if valid else cfg.valid_fraction, cfg.valid_split)
    if valid:
        if valid.tokenizer_fingerprint != corpus.tokenizer_fingerprint:
            raise UserError(
                "the corpus of --valid was created with a different tokenizer.",
                "Tokenize both with the same tokenizer.",
            )
        whole = CorpusPart.from_ranges(valid, [(0, valid.tokens)])
        validation = CorpusWindows(whole, cfg.context, shifted=cfg.valid_split == "end")
        if valid.tokens <= cfg.context:
            problem = f"the corpus of --valid has only {count_noun(valid.tokens, 'token')}."
            raise UserError(problem, f"Use one with more than {cfg.context} tokens, which make one window.")
    return training, validation


def log_corpus(
    cfg: PretrainConfig, corpus: Corpus, training: CorpusWindows, validation: CorpusWindows | None, progress: Progress
) -> dict[str, float]:
    """Print the sizes of the corpus and the unigram baseline, and return the baseline's metrics."""
    size = f"{corpus.tokens:,} tokens in {count_noun(corpus.documents, 'document')}, {format_size(corpus.n_bytes)}"
    windows = f"{count_noun(training.n, 'window')} of {cfg.context}"
    if not validation:
        progress.log(f"{corpus.name}: {size}; {windows}")
        return {}
    places = len(validation.text.starts)
    where = f" from {places:,} places" if places > 1 else ""
    where = where if places <= validation.n else f" ({places:,} short texts)"
    progress.log(f"{corpus.name}: {size}; {windows}, {count_noun(validation.n, 'validation window')}{where}")
    unigram = validation.loss_metrics(unigram_loss(training, validation, cfg.eval_windows, corpus.vocab_size))
    progress.log(
        f"unigram baseline: perplexity {unigram['perplexity']:,.0f} on the validation windows "
        f"({unigram['bits_per_byte']:.2f} bits per byte); an untrained model: about {corpus.vocab_size:,}"
    )
    return unigram


def finish_pretraining(run: Path, setup: PretrainSetup, outcome: Outcome, cfg: PretrainConfig) -> None:
    """Write the model folder, the results and the manifest of a finished run."""
    with runs.new_model(run) as folder:
        save_model(folder, setup.model, setup.tokenizer)
    language_model = LanguageModel(setup.model, setup.tokenizer)
    samples = [
        {"prompt": prompt, "text": language_model.generate(prompt, max_tokens=60, temperature=0.8, seed=cfg.seed)}
        for prompt in sample_prompts(setup)
    ]
    results = {
        "stage": "pretrain",
        "steps": outcome.step,
        "tokens_seen": outcome.tokens,
        "train_loss": outcome.train_loss,
        "validation": outcome.history[-1] if outcome.history else {},
        "unigram": setup.unigram_metrics,
        "parameters": sum(p.numel() for p in setup.model.parameters()),
        "seconds": outcome.seconds,
        "samples": samples,
        "corpus": {
            "tokens": setup.corpus.tokens,
            "documents": setup.corpus.documents,
            "bytes": setup.corpus.n_bytes,
            "unknown": setup.corpus.unknown / max(1, setup.corpus.tokens),
        },
    }
    runs.write_results(run, results)


def sample_prompts(setup: PretrainSetup) -> list[str]:
    """The first eight tokens of three validation windows (or training windows), for the samples in the report."""
    windows = setup.validation_windows or setup.train_windows
    starts = windows.read(windows.evenly_spaced(3))[:, :8]
    return [text for ids in starts.tolist() if (text := setup.tokenizer.decode(ids).strip())]
