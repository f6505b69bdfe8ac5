"""Stage 1: train a GPT on unlabelled text to give every next token a probability (maximise L1)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.config import GPTConfig, PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.order import derive_seed
from gpt1.corpus.windows import CorpusWindows, split_corpus, unigram_loss
from gpt1.devices import precision_name, prepare_model, resolve_device, resolve_precision
from gpt1.errors import UserError
from gpt1.files.atomic import lock_dir
from gpt1.files.manifest import file_entry
from gpt1.formatting import count_noun
from gpt1.inference.predictor import LanguageModel, load_model_and_tokenizer
from gpt1.inference.task import save_model
from gpt1.kernels.malloc import keep_freed_memory
from gpt1.kernels.to_device import to_device
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch as Piece
from gpt1.model.losses import l1
from gpt1.model.weights import WEIGHTS_FILE
from gpt1.progress import MetricsFile, MultiProgress, NullProgress, Progress
from gpt1.report import report_on_exit
from gpt1.runs import folder as runs
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.compiling import compile_blocks
from gpt1.training.distributed import Processes, process_group
from gpt1.training.loop import Outcome, Stage, StepBatch, train
from gpt1.training.speed import flops_per_token, micro_batch_tokens, peak_flops
from gpt1.training.tensorboard import TensorBoard

SHAPE_FIELDS = ("n_layer", "n_head", "n_embd", "architecture", "lstm_units")  # what a model keeps when it is continued


def pretrain(
    corpus: str | Path,
    *,
    out: str | Path,
    from_: str | Path | None = None,
    valid: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Path:
    """Train on the corpus folder `corpus` and leave the run folder `out`, which is returned.

    from_: a run or model folder to continue from. valid: another corpus folder for the held-out figures, instead of the
    tail of this one. settings: fields of PretrainConfig. Raises UserError before anything is written.
    """
    facts = {"corpus": str(corpus), "from": str(from_) if from_ else None, "valid": str(valid) if valid else None}
    asked = runs.user_settings(PretrainConfig, config, settings)
    if asked.get("steps") and "epochs" in asked:
        raise UserError("--steps and --epochs contradict each other.", "Give one of them.")
    with process_group() as processes:
        progress = (progress if processes.is_rank0 else None) or NullProgress()
        run = Path(out)
        if resume:
            run, cfg = processes.broadcast_from_rank0(lambda: runs.open_for_resume(out, PretrainConfig, asked, facts))
            if processes.broadcast_from_rank0(lambda: runs.is_finished(run)):
                progress.log(f"{run} is finished; nothing is left to do")
                return run
        else:
            processes.broadcast_from_rank0(lambda: runs.check_new_folder(out))
            cfg = runs.resolve_settings(
                PretrainConfig, None, asked, extra=inherited_shape(from_, asked) if from_ else {}
            )
        work = prepare_pretraining(
            cfg, Corpus.open(corpus), from_, Corpus.open(valid) if valid else None, processes, progress
        )
        if processes.is_rank0 and not resume:
            runs.create_run(
                out, replace(cfg, precision=precision_name(work.model.activation_dtype)), facts, work.computes_in
            )
        run_training(work, cfg, run, progress, resume)
        processes.barrier()  # the first one has the model yet to write
    return run


@dataclass(frozen=True)
class PretrainSetup:
    """What a pre-training run has in its hands."""

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
    computes_in: str

    def make_stage(self, cfg: PretrainConfig) -> Stage:
        steps = cfg.steps or self.train_windows.count_steps(cfg.epochs, cfg.batch_size)
        activations = self.model.activation_dtype
        piece = cfg.micro_batch or max(
            1, micro_batch_tokens(self.model.config, self.device, activations) // cfg.context
        )

        def update(step: int) -> StepBatch:
            epoch, windows = self.train_windows.training_batch(step, cfg.batch_size, cfg.seed)
            tokens = len(windows) * cfg.context
            ids = to_device(torch.from_numpy(self.processes.shard_samples(windows)), self.device)
            if not len(ids):  # the others have them all: a piece that counts nothing, since all add their gradients up
                return StepBatch(
                    epoch, [Piece(to_device(torch.from_numpy(windows[:1]), self.device), math.inf)], tokens
                )
            return StepBatch(epoch, [Piece(part, tokens) for part in torch.split(ids, piece)], tokens)

        def evaluate_after(done: int) -> bool:
            return done == steps or bool(cfg.eval_every and done % cfg.eval_every == 0)

        def evaluate() -> dict[str, float]:
            return self.validation_metrics(cfg, piece)

        return Stage(
            self.title,
            self.model,
            lambda piece: l1(self.model, piece),
            update,
            steps,
            evaluate,
            evaluate_after,
            self.fingerprints,
            processes=self.processes,
            flops_per_token=flops_per_token(self.model.config),
            peak_flops=peak_flops(self.device, activations) * self.processes.world_size,
            micro_batch_size=min(piece, cfg.batch_size),
        )

    def validation_metrics(self, cfg: PretrainConfig, micro_batch_size: int) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the held-out windows; nothing where none are held out."""
        if self.validation_windows is None:
            return {}
        windows = torch.from_numpy(
            self.validation_windows.read(self.validation_windows.evenly_spaced(cfg.eval_windows))
        ).to(self.device)
        total = windows[:, 1:].numel()
        loss = sum(float(l1(self.model, Piece(part, total)).total) for part in torch.split(windows, micro_batch_size))
        return self.validation_windows.loss_metrics(loss)


def run_training(setup: PretrainSetup, cfg: PretrainConfig, run: Path, progress: Progress, resume: bool) -> None:
    """Train, and leave the model and the page of the run behind; of several processes the first one does."""
    first = setup.processes.is_rank0
    metrics = MetricsFile(run / runs.METRICS_FILE) if first else None
    kept = MultiProgress([progress, metrics, TensorBoard(run / "events", progress.log)]) if metrics else progress
    if setup.device.type == "cpu":
        keep_freed_memory()
    stage, wanted = setup.make_stage(cfg), cfg.compile and setup.device.type != "cpu"
    with lock_dir(run) if first else nullcontext(), report_on_exit(run) if first else nullcontext():
        with compile_blocks(setup.model, lambda: first_batch_loss(stage), kept.log) if wanted else nullcontext():
            outcome = train(stage, cfg, run, kept, metrics, resume)
        if first:
            finish_pretraining(run, setup, outcome, cfg)


def first_batch_loss(stage: Stage) -> Tensor:
    """The loss of the first piece, for a trial."""
    return stage.loss_fn(stage.step_batch(0).micro_batches[0]).total


def prepare_pretraining(
    cfg: PretrainConfig,
    corpus: Corpus,
    from_: str | Path | None,
    valid: Corpus | None,
    processes: Processes,
    progress: Progress,
) -> PretrainSetup:
    """Everything checked and built, nothing written yet."""
    tokenizer = corpus.load_tokenizer()
    training, held_out = split_corpus(corpus, cfg.context, 0.0 if valid else cfg.valid_fraction)
    if valid:
        if valid.tokenizer_fingerprint != corpus.tokenizer_fingerprint:
            raise UserError("the --valid corpus was made with another tokenizer.", "Tokenize both with the same one.")
        held_out = CorpusWindows(valid, 0, valid.tokens, cfg.context)
        if valid.tokens <= cfg.context:
            raise UserError(f"the --valid corpus has only {valid.tokens} tokens.", "It needs a window at least.")
    device = resolve_device(cfg.device)
    model = init_model(cfg, corpus, tokenizer, from_)
    activations, precision = processes.broadcast_from_rank0(lambda: resolve_precision(cfg.precision, device))
    prepare_model(model, device, activations, cfg.activation_checkpointing)
    if cfg.batch_size < processes.world_size:
        raise UserError(
            f"--batch-size {cfg.batch_size}: an update has fewer windows than there are processes ({processes.world_size}).",
            f"Start {cfg.batch_size} or fewer, or use --batch-size {processes.world_size}.",
        )
    if cfg.compile and device.type == "cpu":
        progress.log("--compile changes nothing on a CPU: torch.compile cannot read the kernels that gpt1 has for it")
    documents = count_noun(corpus.documents, "document")
    progress.log(
        f"{corpus.name}: {corpus.tokens:,} tokens, {documents}, {corpus.n_bytes / 1e6:,.1f} MB; "
        f"{training.n:,} windows of {cfg.context}" + (f", {held_out.n:,} held out" if held_out else "")
    )
    unigram: dict[str, float] = {}
    if held_out:
        loss = unigram_loss(training, held_out, cfg.eval_windows, corpus.vocab_size)
        unigram = held_out.loss_metrics(loss)
        progress.log(
            f"a unigram model has perplexity {unigram['perplexity']:,.0f} on the held-out windows "
            f"({unigram['bits_per_byte']:.2f} bits per byte), a fresh one about {corpus.vocab_size:,}"
        )
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    begun = f"from {from_}" if from_ else cfg.model
    title = f"pre-training {begun}, {millions:.1f} M weights, {precision}"
    if processes.world_size > 1:
        title += f", {processes.world_size} processes"
    prints = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint, "precision": str(activations)}
    if valid:
        prints["--valid corpus"] = valid.fingerprint
    if from_ and (weights := runs.find_model_folder(from_) / WEIGHTS_FILE).exists():
        prints["model"] = file_entry(weights)["sha256"]
    return PretrainSetup(
        model, tokenizer, corpus, training, held_out, device, title, prints, unigram, processes, precision
    )


def init_model(cfg: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer, from_: str | Path | None) -> GPT:
    """A fresh model of the configured size, or the one to continue from; with the run's dropout."""
    if from_ is None:
        torch.manual_seed(derive_seed(cfg.seed, 2**32))  # apart from the seeds of the updates
        shape = {name: getattr(cfg, name) for name in (*SHAPE_FIELDS, "context", "dropout")}
        return GPT(GPTConfig(corpus.vocab_size, **shape))
    model, theirs = load_model_and_tokenizer(from_)
    if theirs.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the corpus was made with another tokenizer than {from_}.",
            f"Make it again with: gpt1 tokenize TEXTS --out NEW --tokenizer {from_}",
        )
    if cfg.context > model.config.context:
        raise UserError(
            f"--context {cfg.context} is longer than the {model.config.context} positions of {from_}.",
            f"Use --context {model.config.context}, or pre-train with --context {cfg.context}.",
        )
    model.set_dropout(cfg.dropout)
    return model


def inherited_shape(from_: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The dimensions of the model to continue from, as settings; flags that contradict them are refused."""
    config = GPT.from_pretrained(runs.find_model_folder(from_)).config
    shape = {name: getattr(config, name) for name in SHAPE_FIELDS}
    for name, value in shape.items():
        if settings.get(name, value) != value:
            raise UserError(
                f"--{name.replace('_', '-')} {settings[name]}: {from_} has {value}, and --from keeps its shape.",
                "Leave the flag out.",
            )
    return {**shape, "context": config.context}


def finish_pretraining(run: Path, setup: PretrainSetup, outcome: Outcome, cfg: PretrainConfig) -> None:
    """The finished model folder, results and manifest of a run."""
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
    runs.write_json(run / runs.RESULTS_FILE, results)
    runs.seal_run(run)


def sample_prompts(setup: PretrainSetup, count: int = 3, length: int = 8) -> list[str]:
    """Beginnings of held-out windows (of training ones where nothing is held out), for samples in the report."""
    windows = setup.validation_windows or setup.train_windows
    some = windows.read(windows.evenly_spaced(count))[:, :length]
    return [text for ids in some.tolist() if (text := setup.tokenizer.decode(ids).strip())]
