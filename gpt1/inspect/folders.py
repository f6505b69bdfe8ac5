"""Inspect folders: corpora, runs, models, tokenizers, texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.readers import DOCUMENT_EXTENSIONS, document_format, list_sources, walk
from gpt1.errors import UserError
from gpt1.files.atomic import is_being_written
from gpt1.files.names import (
    DOCUMENTS_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    ONNX_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_CONFIG_FILE,
    TASK_FILE,
)
from gpt1.formatting import count_noun, shell_quote
from gpt1.inference.convert import import_format
from gpt1.inspect.tables import Facts
from gpt1.progress import Progress
from gpt1.report.run_reader import Run, as_dict, is_number
from gpt1.runs import folder as runs
from gpt1.tasks.targets import Target
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training import checkpoints
from gpt1.training.pretrain import is_below_unigram

MAX_UNKNOWN_SHARE = 0.01
"""Warn above this share of unknown tokens."""
MIN_BYTES_PER_TOKEN = 2.0
"""Warn below this: the vocabulary was then probably trained on another language."""


def inspect_texts(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about text files to tokenize."""
    sources = list_sources([path])
    largest = max(sources, key=lambda source: source.size)
    warnings = []
    files = walk(Path(path)) if Path(path).is_dir() else ()
    others = sorted(path.name for path in files if not document_format(path.name))
    if others:
        shown = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
        warnings.append(
            f"{count_noun(len(others), 'file')} would be skipped ({shown}). Supported: {DOCUMENT_EXTENSIONS}."
        )
    if empty := sum(not source.size for source in sources):
        warnings.append(f"{count_noun(empty, 'empty file')}.")
    return {
        "type": "texts",
        "name": path,
        "files": len(sources),
        "bytes": sum(source.size for source in sources),
        "formats": dict(Counter(source.format for source in sources).most_common()),
        "largest": {"name": largest.name, "bytes": largest.size},
        "warnings": warnings,
        "next": [
            f"gpt1 tokenize {shell_quote(path)} --out corpus" + (f" --tokenizer {shell_quote(from_)}" if from_ else "")
        ],
    }


def inspect_corpus(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about a corpus, after all its files were verified (SHA-256)."""
    corpus = Corpus.open(path)
    progress.begin("checking SHA-256", len(corpus.manifest["files"]), unit="files")
    corpus.verify(progress.advance)
    progress.end()
    tokenizer = corpus.load_tokenizer()
    starts = np.append(corpus.array(DOCUMENTS_FILE)[0], corpus.tokens + 1)
    lengths = np.sort(np.diff(starts) - 1)  # without the newline token between documents
    bytes_per_token = corpus.n_bytes / max(1, corpus.tokens)
    facts: Facts = {
        "type": "corpus",
        "name": path,
        "tokens": corpus.tokens,
        "documents": corpus.documents,
        "empty_documents": corpus.empty_documents,
        "bytes": corpus.n_bytes,
        "bytes_per_token": bytes_per_token,
        "unknown_share": corpus.unknown / max(1, corpus.tokens),
        "document_tokens": {"min": int(lengths[0]), "median": int(np.median(lengths)), "max": int(lengths[-1])},
        "sources": len(corpus.sources),
        "files": len(corpus.manifest["files"]),
        "tokenizer": tokenizer_facts(tokenizer),
        "fingerprint": corpus.fingerprint,
    }
    warnings = []
    if facts["unknown_share"] > MAX_UNKNOWN_SHARE:
        warnings.append(f"{facts['unknown_share']:.1%} of the tokens are unknown: train a vocabulary on these texts.")
    if bytes_per_token < MIN_BYTES_PER_TOKEN:
        warnings.append(
            f"only {bytes_per_token:.1f} bytes per token: the vocabulary was probably trained on other texts."
        )
    if corpus.empty_documents:
        warnings.append(f"{count_noun(corpus.empty_documents, 'empty document')} removed.")
    if corpus.tokens <= PretrainConfig.context:
        warnings.append(f"the corpus is shorter than one window of --context {PretrainConfig.context}.")
    if from_ is not None:
        same = Tokenizer.load(runs.find_model_folder(from_)).fingerprint == tokenizer.fingerprint
        facts["same_tokenizer_as"] = {str(from_): same}
        if not same:
            warnings.append(f"{from_} has a different tokenizer and cannot be trained on this corpus.")
    start = f" --from {shell_quote(from_)}" if from_ is not None and not warnings else ""
    return {**facts, "warnings": warnings, "next": [f"gpt1 pretrain {shell_quote(path)} --out runs/NAME{start}"]}


def inspect_run(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about a run: stage, settings, progress, results."""
    folder = Path(path)
    runs.verify_run(folder)
    run = Run.open(folder)
    steps = checkpoints.list_steps(folder / "checkpoints")
    not_written_yet = () if run.is_finished else (RESULTS_FILE, METRICS_FILE)
    warnings = [problem for problem in run.problems if not problem.startswith(not_written_yet)]
    if warning := run.results.get("warning"):
        warnings.append(str(warning))
    verified = None
    for step in reversed(steps):
        try:
            checkpoints.verify_checkpoint(checkpoints.checkpoint_path(folder / "checkpoints", step))
        except UserError as error:
            warnings.append(error.problem)
            continue
        verified = step
        break
    losses = {name: as_dict(run.results.get(name)).get("loss") for name in ("unigram", "validation")}
    known = {name: {"loss": loss} if is_number(loss) else {} for name, loss in losses.items()}
    if not is_below_unigram(known["unigram"], known["validation"]):
        warnings.append(
            "the validation loss is not below that of a unigram model: only token frequencies were learned."
        )
    has_model = (folder / MODEL_FOLDER).is_dir()
    if run.is_finished and not has_model:
        warnings.append("the model folder is missing. Restore it with the command of the run and --resume.")
    facts: Facts = {
        "type": "run",
        "name": path,
        "stage": run.stage,
        "version": run.settings.get("version"),
        "command": as_dict(run.settings.get("command")),
        "settings": non_default_settings(run),
        "precision": str(run.settings.get("computes_in") or run.settings.get("precision", "")),
        "finished": run.is_finished,
        "in_progress": not run.is_finished and is_being_written(folder),
        "steps": max([run.last_step, *steps]),
        "checkpoints": steps,
        "latest_verified_checkpoint": verified,
        "train_loss": run.last_value("train", "loss"),
        "validation": next((line for line in reversed(run.metrics) if line.get("split") == "validation"), {}),
        "results": {name: value for name, value in run.results.items() if name not in OMITTED_RESULTS},
        "report": str(folder / REPORT_FILE) if (folder / REPORT_FILE).exists() else None,
        "warnings": warnings,
    }
    if facts["in_progress"]:
        return {**facts, "next": []}
    if not (run.is_finished and has_model):
        return {**facts, "next": [run.resume_command] * bool(run.resume_command)}
    if run.stage == "pretrain":
        return {**facts, "next": runs.pretrained_commands(path)}
    return {**facts, "next": [f"gpt1 predict {shell_quote(path)} new.csv --out predictions.csv"]}


def inspect_runs(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about a folder of runs."""
    folders = sorted(path.parent for path in Path(path).glob(f"*/{RUN_CONFIG_FILE}"))
    inspected, damaged = [], []
    for folder in folders:
        try:
            inspected.append(inspect_run(str(folder), None, progress))
        except UserError as error:
            if len(folders) == 1:
                raise
            damaged.append(error.problem)
    return {
        "type": "runs",
        "name": path,
        "runs": inspected,
        "warnings": [*damaged, *(f"{run['name']}: {sentence}" for run in inspected for sentence in run["warnings"])],
        "next": [f"gpt1 inspect {shell_quote(folders[-1])}"],
    }


OMITTED_RESULTS = ("samples", "history", "calibration")


def non_default_settings(run: Run) -> Facts:
    """Settings that differ from the defaults with the recipe, --model and --train of the run."""
    always_shown = ("recipe", "model", "train")
    return {
        name: value
        for name, value in run.settings.items()
        if name not in runs.RUN_KEYS
        and (name in always_shown or name not in run.default_settings or run.default_settings[name] != value)
    }


def inspect_model(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about a model: shape, size, tokenizer, task. Also checks that its weights can be loaded."""
    from gpt1.inference.foreign_task import read_any_task
    from gpt1.inference.predictor import load
    from gpt1.model.gpt import GPT

    folder = runs.find_model_folder(path)
    gpt = GPT.from_pretrained(folder)
    facts: Facts = {
        "type": "model",
        "name": path,
        "shape": {name: getattr(gpt.config, name) for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size")},
        "parameters": sum(p.numel() for p in gpt.parameters()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "warnings": [],
    }
    if format := import_format(folder):
        facts["format"] = format
    if stored := read_any_task(folder):
        facts["task"] = task_facts(stored.task, stored.target)
    if format and folder == Path(path):  # a name on the hub is used as it is
        return {**facts, "next": [f"gpt1 import {format} {shell_quote(path)} --out models/gpt1"]}
    facts["tokenizer"] = tokenizer_facts(load(folder).tokenizer)
    if not stored:
        return {**facts, "next": runs.pretrained_commands(path)}
    return {**facts, "next": [f"gpt1 predict {shell_quote(path)} new.csv --out predictions.csv"]}


def task_facts(task: Facts, target: Target) -> Facts:
    """Facts about the task of a fine-tuned model, from its task.json."""
    return {
        "kind": task["kind"],
        "columns": task["columns"],
        "labels": list(map(str, getattr(target, "values", ()) or getattr(target, "labels", ()))),
        "train": task.get("train"),
        "long": task.get("long", "cut"),
        "temperature": float(task.get("temperature", 1.0)),
    }


def inspect_onnx(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    """Facts about an ONNX export, from the files next to the model."""
    from gpt1.inference.task import read_task

    folder = Path(path)
    facts: Facts = {"type": "onnx", "name": path, "bytes": (folder / ONNX_FILE).stat().st_size, "warnings": []}
    facts["tokenizer"] = tokenizer_facts(Tokenizer.load(folder))
    if (folder / TASK_FILE).exists():
        facts["task"] = task_facts(*read_task(folder / TASK_FILE))
    return {**facts, "next": [f"in Python, onnxruntime.InferenceSession({str(folder / ONNX_FILE)!r})"]}


def inspect_tokenizer(path: str, from_: str | Path | None, progress: Progress) -> Facts:
    tokenizer = Tokenizer.load(path)
    facts = {"type": "tokenizer", "name": path, "tokenizer": tokenizer_facts(tokenizer)}
    note = tokenizer.version_warning()
    return {
        **facts,
        "warnings": [note] if note else [],
        "next": [f"gpt1 tokenize TEXTS --out corpus --tokenizer {shell_quote(path)}"],
    }


def tokenizer_facts(tokenizer: Tokenizer) -> Facts:
    return {"vocab_size": tokenizer.vocab_size, "pipeline": tokenizer.pipeline, "fingerprint": tokenizer.fingerprint}
