"""What a folder that gpt1 knows is: a corpus, a run, a model, a tokenizer, texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.readers import ENDINGS, known_kind, list_sources, walk
from gpt1.corpus.shards import DOCUMENTS
from gpt1.errors import UserError
from gpt1.formatting import counted, shell_quote
from gpt1.inference.convert import HOMES
from gpt1.progress import Progress
from gpt1.report.run import Run, is_number, mapping
from gpt1.runs import folder as runs
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import checkpoints

Facts = dict[str, Any]
MUCH_UNKNOWN = 0.01
FEW_BYTES = 2.0
"""Bytes of text that a token stands for; fewer say that the vocabulary was learnt from another language."""


def of_texts(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Files of text that nobody has tokenized yet."""
    sources = list_sources([what])
    largest = max(sources, key=lambda source: source.size)
    odd = []
    files = walk(Path(what), set()) if Path(what).is_dir() else ()
    others = sorted(path.name for path in files if not known_kind(path.name))
    if others:
        shown = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
        odd.append(f"{counted(len(others), 'file')} would be passed over ({shown}): text is read from {ENDINGS}.")
    if empty := sum(not source.size for source in sources):
        odd.append(f"{counted(empty, 'file')} without a byte.")
    return {
        "what": "texts",
        "name": what,
        "files": len(sources),
        "bytes": sum(source.size for source in sources),
        "formats": dict(Counter(source.kind for source in sources).most_common()),
        "largest": {"name": largest.name, "bytes": largest.size},
        "odd": odd,
        "next": [
            f"gpt1 tokenize {shell_quote(what)} --out corpus" + (f" --tokenizer {shell_quote(from_)}" if from_ else "")
        ],
    }


def of_corpus(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    """What the manifest says, after every file has been found to be what it says (SHA-256)."""
    corpus = Corpus.open(what)
    progress.begin("checking SHA-256", len(corpus.manifest["files"]), unit="files")
    corpus.verify(progress.advance)
    progress.end()
    tokenizer = corpus.tokenizer()
    starts = np.append(corpus.array(DOCUMENTS)[0], corpus.tokens + 1)
    lengths = np.sort(np.diff(starts) - 1)  # a newline token stands between two documents
    bytes_a_token = corpus.n_bytes / max(1, corpus.tokens)
    facts: Facts = {
        "what": "corpus",
        "name": what,
        "tokens": corpus.tokens,
        "documents": corpus.documents,
        "empty_documents": corpus.empty_documents,
        "bytes": corpus.n_bytes,
        "bytes_a_token": bytes_a_token,
        "unknown": corpus.unknown / max(1, corpus.tokens),
        "document_tokens": {"least": int(lengths[0]), "median": int(np.median(lengths)), "greatest": int(lengths[-1])},
        "sources": len(corpus.sources),
        "files": len(corpus.manifest["files"]),
        "tokenizer": about(tokenizer),
        "fingerprint": corpus.fingerprint,
    }
    odd = []
    if facts["unknown"] > MUCH_UNKNOWN:
        odd.append(f"{facts['unknown']:.1%} of the tokens are unknown to the vocabulary: train one on these texts.")
    if bytes_a_token < FEW_BYTES:
        odd.append(f"a token stands for {bytes_a_token:.1f} bytes of text: the vocabulary was learnt from other texts.")
    if corpus.empty_documents:
        odd.append(f"{counted(corpus.empty_documents, 'document')} without text left out.")
    if corpus.tokens <= PretrainConfig.context:
        odd.append(f"it is shorter than one window of --context {PretrainConfig.context}.")
    if from_ is not None:
        same = Tokenizer.load(runs.model_folder(from_)).fingerprint == tokenizer.fingerprint
        facts["same_tokenizer_as"] = {str(from_): same}
        if not same:
            odd.append(f"{from_} has another tokenizer: it cannot be trained further on this corpus.")
    start = f" --from {shell_quote(from_)}" if from_ is not None and not odd else ""
    return {**facts, "odd": odd, "next": [f"gpt1 pretrain {shell_quote(what)} --out runs/NAME{start}"]}


def of_run(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Stage, settings, how far it is, what came out."""
    folder = Path(what)
    runs.verify_run(folder)
    run = Run.open(folder)
    done = checkpoints.steps(folder / "checkpoints")
    odd = [problem for problem in run.problems if run.finished or not problem.startswith("results.json")]
    whole = None
    for step in reversed(done):
        try:
            checkpoints.check(checkpoints.at(folder / "checkpoints", step))
        except UserError as error:
            odd.append(error.problem)
            continue
        whole = step
        break
    unigram = mapping(run.results.get("unigram")).get("loss")
    held_out = mapping(run.results.get("validation")).get("loss")
    if is_number(unigram) and is_number(held_out) and held_out >= unigram:
        odd.append("held out, it is no better than a unigram model: it knows no more than how frequent tokens are.")
    has_model = (folder / runs.MODEL).is_dir()
    if run.finished and not has_model:
        odd.append("its model folder is gone; the command that started it makes it again with --resume.")
    facts: Facts = {
        "what": "run",
        "name": what,
        "stage": run.stage,
        "version": run.settings.get("version"),
        "command": mapping(run.settings.get("command")),
        "settings": changed(run),
        "precision": str(run.settings.get("computes_in") or run.settings.get("precision", "")),
        "finished": run.finished,
        "updates": run.last_step,
        "checkpoints": done,
        "newest_whole_checkpoint": whole,
        "train_loss": run.last("train", "loss"),
        "validation": next((line for line in reversed(run.metrics) if line.get("split") == "validation"), {}),
        "results": {name: value for name, value in run.results.items() if name not in LONG},
        "report": str(folder / "report.html") if (folder / "report.html").exists() else None,
        "odd": odd,
    }
    if not (run.finished and has_model):
        return {**facts, "next": [run.resume_command] * bool(run.resume_command)}
    if run.stage == "pretrain":
        return {**facts, "next": [f'gpt1 next {shell_quote(what)} "once upon a"', FINETUNE.format(shell_quote(what))]}
    return {**facts, "next": [f"gpt1 predict {shell_quote(what)} new.csv --out predictions.csv"]}


def of_runs(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    """A folder with runs in it."""
    folders = sorted(path.parent for path in Path(what).glob("*/config.yaml"))
    found, damaged = [], []
    for folder in folders:
        try:
            found.append(of_run(str(folder), None, progress))
        except UserError as error:
            if len(folders) == 1:
                raise
            damaged.append(error.problem)
    return {
        "what": "runs",
        "name": what,
        "runs": found,
        "odd": [*damaged, *(f"{one['name']}: {sentence}" for one in found for sentence in one["odd"])],
        "next": [f"gpt1 inspect {shell_quote(folders[-1])}"],
    }


LONG = ("samples", "history", "calibration")
FINETUNE = "gpt1 finetune TABLE --from {} --out runs/NAME --kind classification --text COLUMN --label COLUMN"


def changed(run: Run) -> Facts:
    """The settings that are not what the recipe, the size or the trained part of the model would have given."""
    shown = ("recipe", "model", "train")
    return {
        name: value
        for name, value in run.settings.items()
        if name not in runs.RUN_KEYS and (name in shown or name not in run.usual or run.usual[name] != value)
    }


def of_model(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Shape, size, tokenizer and task of a model folder, after its weights have been read."""
    from gpt1.inference.predictor import Model, load
    from gpt1.model.gpt import GPT

    folder = Path(what)
    gpt = GPT.from_pretrained(folder)
    facts: Facts = {
        "what": "model",
        "name": what,
        "shape": {name: getattr(gpt.config, name) for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size")},
        "parameters": sum(p.numel() for p in gpt.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "odd": [],
    }
    if home := next((name for name, is_its in HOMES.items() if is_its(folder)), None):
        return {**facts, "home": home, "next": [f"gpt1 import {home} {shell_quote(what)} --out models/gpt1"]}
    model = load(folder)
    facts["tokenizer"] = about(model.tokenizer)
    if not isinstance(model, Model):
        return {**facts, "next": [f'gpt1 next {shell_quote(what)} "once upon a"', FINETUNE.format(shell_quote(what))]}
    facts["task"] = {
        "kind": model.kind.name,
        "columns": model.task["columns"],
        "labels": model.labels if not model.kind.each else [],
        "trained": model.task.get("train"),
        "long": model.long,
        "temperature": model.temperature,
    }
    return {**facts, "next": [f"gpt1 predict {shell_quote(what)} new.csv --out predictions.csv"]}


def of_tokenizer(what: str, from_: str | Path | None, progress: Progress) -> Facts:
    tokenizer = Tokenizer.load(what)
    facts = {"what": "tokenizer", "name": what, "tokenizer": about(tokenizer)}
    note = tokenizer.note()
    return {
        **facts,
        "odd": [note] if note else [],
        "next": [f"gpt1 tokenize TEXTS --out corpus --tokenizer {shell_quote(what)}"],
    }


def about(tokenizer: Tokenizer) -> Facts:
    return {
        "vocab_size": tokenizer.vocab_size,
        "pipeline": tokenizer.pipeline,
        "fingerprint": tokenizer.fingerprint,
    }
