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
from gpt1.corpus.order import mixed
from gpt1.corpus.windows import Windows, split, unigram_loss
from gpt1.devices import activations_of, device_of, place, precision_of
from gpt1.errors import UserError
from gpt1.files.atomic import lock_dir
from gpt1.files.manifest import file_entry
from gpt1.formatting import counted
from gpt1.inference.predictor import LanguageModel, pair
from gpt1.inference.task import save_model
from gpt1.kernels.memory import keep_freed_memory
from gpt1.kernels.to_device import moved
from gpt1.model.gpt import GPT
from gpt1.model.losses import Windows as Piece
from gpt1.model.losses import l1
from gpt1.model.weights import WEIGHTS
from gpt1.progress import Fanout, MetricsFile, Progress, Silent
from gpt1.report import reported
from gpt1.runs import folder as runs
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.compiling import compiled
from gpt1.training.distributed import Processes, together
from gpt1.training.loop import Outcome, Stage, Update, train
from gpt1.training.speed import flops_a_token, peak_flops, tokens_at_a_time
from gpt1.training.tensorboard import TensorBoard

SHAPE = ("n_layer", "n_head", "n_embd", "architecture", "lstm_units")  # what a model keeps when it is continued


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
    asked = runs.chosen_settings(PretrainConfig, config, settings)
    if asked.get("steps") and "epochs" in asked:
        raise UserError("--steps and --epochs contradict each other.", "Give one of them.")
    with together() as processes:
        progress = (progress if processes.first else None) or Silent()
        run = Path(out)
        if resume:
            run, cfg = processes.of_first(lambda: runs.reopen(out, PretrainConfig, asked, facts))
            if processes.of_first(lambda: runs.is_finished(run)):
                progress.say(f"{run} is finished; nothing is left to do")
                return run
        else:
            processes.of_first(lambda: runs.new_folder(out))
            cfg = runs.settings_of(PretrainConfig, None, asked, extra=shape_of(from_, asked) if from_ else {})
        work = prepare(cfg, Corpus.open(corpus), from_, Corpus.open(valid) if valid else None, processes, progress)
        if processes.first and not resume:
            runs.make(out, replace(cfg, precision=precision_of(work.model.activation_dtype)), facts, work.computes_in)
        trained(work, cfg, run, progress, resume)
        processes.wait()  # the first one has the model yet to write
    return run


@dataclass(frozen=True)
class Work:
    """What a pre-training run has in its hands."""

    model: GPT
    tokenizer: Tokenizer
    corpus: Corpus
    training: Windows
    held_out: Windows | None
    device: torch.device
    title: str
    fingerprints: dict[str, str]
    unigram: dict[str, float]
    processes: Processes
    computes_in: str

    def stage(self, cfg: PretrainConfig) -> Stage:
        steps = cfg.steps or self.training.steps(cfg.epochs, cfg.batch_size)
        activations = self.model.activation_dtype
        piece = cfg.micro_batch or max(1, tokens_at_a_time(self.model.config, self.device, activations) // cfg.context)

        def update(step: int) -> Update:
            epoch, windows = self.training.update(step, cfg.batch_size, cfg.seed)
            tokens = len(windows) * cfg.context
            ids = moved(torch.from_numpy(self.processes.share(windows)), self.device)
            if not len(ids):  # the others have them all: a piece that counts nothing, since all add their gradients up
                return Update(epoch, [Piece(moved(torch.from_numpy(windows[:1]), self.device), math.inf)], tokens)
            return Update(epoch, [Piece(part, tokens) for part in torch.split(ids, piece)], tokens)

        def evaluate_after(done: int) -> bool:
            return done == steps or bool(cfg.eval_every and done % cfg.eval_every == 0)

        def evaluate() -> dict[str, float]:
            return self.held_out_figures(cfg, piece)

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
            flops_a_token=flops_a_token(self.model.config),
            peak_flops=peak_flops(self.device, activations) * self.processes.count,
            together=min(piece, cfg.batch_size),
        )

    def held_out_figures(self, cfg: PretrainConfig, piece: int) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the held-out windows; nothing where none are held out."""
        if self.held_out is None:
            return {}
        windows = torch.from_numpy(self.held_out.read(self.held_out.spread(cfg.eval_windows))).to(self.device)
        total = windows[:, 1:].numel()
        loss = sum(float(l1(self.model, Piece(part, total)).total) for part in torch.split(windows, piece))
        return self.held_out.figures(loss)


def trained(work: Work, cfg: PretrainConfig, run: Path, progress: Progress, resume: bool) -> None:
    """Train, and leave the model and the page of the run behind; of several processes the first one does."""
    first = work.processes.first
    metrics = MetricsFile(run / runs.METRICS) if first else None
    kept = Fanout([progress, metrics, TensorBoard(run / "events", progress.say)]) if metrics else progress
    if work.device.type == "cpu":
        keep_freed_memory()
    stage, wanted = work.stage(cfg), cfg.compile and work.device.type != "cpu"
    with lock_dir(run) if first else nullcontext(), reported(run) if first else nullcontext():
        with compiled(work.model, lambda: first_loss(stage), kept.say) if wanted else nullcontext():
            outcome = train(stage, cfg, run, kept, metrics, resume)
        if first:
            finish(run, work, outcome, cfg)


def first_loss(stage: Stage) -> Tensor:
    """The loss of the first piece, for a trial."""
    return stage.objective(stage.update(0).pieces[0]).total


def prepare(
    cfg: PretrainConfig,
    corpus: Corpus,
    from_: str | Path | None,
    valid: Corpus | None,
    processes: Processes,
    progress: Progress,
) -> Work:
    """Everything checked and built, nothing written yet."""
    tokenizer = corpus.tokenizer()
    training, held_out = split(corpus, cfg.context, 0.0 if valid else cfg.valid_fraction)
    if valid:
        if valid.tokenizer_fingerprint != corpus.tokenizer_fingerprint:
            raise UserError("the --valid corpus was made with another tokenizer.", "Tokenize both with the same one.")
        held_out = Windows(valid, 0, valid.tokens, cfg.context)
        if valid.tokens <= cfg.context:
            raise UserError(f"the --valid corpus has only {valid.tokens} tokens.", "It needs a window at least.")
    device = device_of(cfg.device)
    model = start(cfg, corpus, tokenizer, from_)
    activations, precision = processes.of_first(lambda: activations_of(cfg.precision, device))
    place(model, device, activations, cfg.recompute)
    if cfg.batch_size < processes.count:
        raise UserError(
            f"--batch-size {cfg.batch_size}: an update has fewer windows than there are processes ({processes.count}).",
            f"Start {cfg.batch_size} or fewer, or use --batch-size {processes.count}.",
        )
    if cfg.compile and device.type == "cpu":
        progress.say("--compile changes nothing on a CPU: torch.compile cannot read the kernels that gpt1 has for it")
    documents = counted(corpus.documents, "document")
    progress.say(
        f"{corpus.name}: {corpus.tokens:,} tokens, {documents}, {corpus.n_bytes / 1e6:,.1f} MB; "
        f"{training.n:,} windows of {cfg.context}" + (f", {held_out.n:,} held out" if held_out else "")
    )
    unigram: dict[str, float] = {}
    if held_out:
        loss = unigram_loss(training, held_out, cfg.eval_windows, corpus.vocab_size)
        unigram = held_out.figures(loss)
        progress.say(
            f"a unigram model has perplexity {unigram['perplexity']:,.0f} on the held-out windows "
            f"({unigram['bits_per_byte']:.2f} bits per byte), a fresh one about {corpus.vocab_size:,}"
        )
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    begun = f"from {from_}" if from_ else cfg.model
    title = f"pre-training {begun}, {millions:.1f} M weights, {precision}"
    if processes.count > 1:
        title += f", {processes.count} processes"
    prints = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint, "precision": str(activations)}
    if valid:
        prints["--valid corpus"] = valid.fingerprint
    if from_ and (weights := runs.model_folder(from_) / WEIGHTS).exists():
        prints["model"] = file_entry(weights)["sha256"]
    return Work(model, tokenizer, corpus, training, held_out, device, title, prints, unigram, processes, precision)


def start(cfg: PretrainConfig, corpus: Corpus, tokenizer: Tokenizer, from_: str | Path | None) -> GPT:
    """A fresh model of the configured size, or the one to continue from; with the run's dropout."""
    if from_ is None:
        torch.manual_seed(mixed(cfg.seed, 2**32))  # apart from the seeds of the updates
        shape = {name: getattr(cfg, name) for name in (*SHAPE, "context", "dropout")}
        return GPT(GPTConfig(corpus.vocab_size, **shape))
    model, theirs = pair(from_)
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


def shape_of(from_: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The dimensions of the model to continue from, as settings; flags that contradict them are refused."""
    config = GPT.from_pretrained(runs.model_folder(from_)).config
    shape = {name: getattr(config, name) for name in SHAPE}
    for name, value in shape.items():
        if settings.get(name, value) != value:
            raise UserError(
                f"--{name.replace('_', '-')} {settings[name]}: {from_} has {value}, and --from keeps its shape.",
                "Leave the flag out.",
            )
    return {**shape, "context": config.context}


def finish(run: Path, work: Work, outcome: Outcome, cfg: PretrainConfig) -> None:
    """The finished model folder, results and manifest of a run."""
    with runs.new_model(run) as folder:
        save_model(folder, work.model, work.tokenizer)
    language_model = LanguageModel(work.model, work.tokenizer)
    samples = [
        {"prompt": prompt, "text": language_model.generate(prompt, max_tokens=60, temperature=0.8, seed=cfg.seed)}
        for prompt in prompts(work)
    ]
    results = {
        "stage": "pretrain",
        "steps": outcome.step,
        "tokens_seen": outcome.tokens,
        "train_loss": outcome.train_loss,
        "validation": outcome.history[-1] if outcome.history else {},
        "unigram": work.unigram,
        "parameters": sum(p.numel() for p in work.model.parameters()),
        "seconds": outcome.seconds,
        "samples": samples,
        "corpus": {
            "tokens": work.corpus.tokens,
            "documents": work.corpus.documents,
            "bytes": work.corpus.n_bytes,
            "unknown": work.corpus.unknown / max(1, work.corpus.tokens),
        },
    }
    runs.write_json(run / runs.RESULTS, results)
    runs.seal_run(run)


def prompts(work: Work, count: int = 3, length: int = 8) -> list[str]:
    """Beginnings of held-out windows (of training ones where nothing is held out), for samples in the report."""
    windows = work.held_out or work.training
    some = windows.read(windows.spread(count))[:, :length]
    return [text for ids in some.tolist() if (text := work.tokenizer.decode(ids).strip())]
