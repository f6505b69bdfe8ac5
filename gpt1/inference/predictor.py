"""Load a model for inference. No training code."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gpt1.devices import resolve_device, resolve_precision
from gpt1.errors import UserError
from gpt1.files.reading import InputFile, open_input
from gpt1.generation.inference_model import for_inference
from gpt1.inference.foreign_task import drop_padding_row, read_any_task
from gpt1.inference.language_model import MAX_PARALLEL_TEXTS, LanguageModel, not_finetuned_error
from gpt1.inference.task_predictor import TaskPredictor
from gpt1.model.gpt import GPT
from gpt1.model.head import TaskModel
from gpt1.model.weights import read_tokenizer_fingerprint, verify_model
from gpt1.runs.folder import find_model_folder, verify_run
from gpt1.tokenization.tokenizer import Tokenizer

__all__ = ["LanguageModel", "TaskPredictor", "load", "load_model_and_tokenizer", "load_task_predictor"]


def load(
    folder: str | Path, device: str | torch.device = "auto", precision: str = "fp32", verify: bool = True
) -> TaskPredictor | LanguageModel:
    """Load the model of a run or model folder. No code from the folder is executed.

    Args:
        folder: A run or model folder, `starter`, or a name on the Hugging Face hub, `owner/name[@revision]`.
        device: `cpu`, `cuda`, ...; `auto`: a GPU if there is one.
        precision: `fp32`; `bf16` (half the memory, twice as fast if the device supports it natively); `auto`: bf16 if
            it is faster.
        verify: Compare the files with the SHA-256 hashes in the manifest.json of the folder, if it has one.

    Returns:
        `TaskPredictor` for a fine-tuned model, else `LanguageModel`.

    Raises:
        UserError: If the folder is not a model folder, or its files are damaged or do not match.
    """
    path = find_model_folder(folder)
    gpt, tokenizer = load_model_and_tokenizer(folder, verify)
    device = resolve_device(str(device))
    gpt.activation_dtype, _ = resolve_precision(precision, device)
    gpt = for_inference(gpt.to(device))
    if (stored := read_any_task(path)) is None:
        return LanguageModel(gpt, tokenizer)
    return TaskPredictor(TaskModel(gpt, stored.head).to(device).eval(), tokenizer, stored.task, stored.target)


def load_model_and_tokenizer(folder: str | Path, verify: bool = True) -> tuple[GPT, Tokenizer]:
    """Load a model and its tokenizer, and check that they belong together. verify: see `load`."""
    path = find_verified_folder(folder) if verify else find_model_folder(folder)
    gpt, tokenizer = GPT.from_pretrained(path, verify=False), Tokenizer.load(path)
    drop_padding_row(path, gpt, tokenizer.vocab_size)
    if tokenizer.vocab_size != gpt.config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {gpt.config.vocab_size:,}.",
            "Copy the tokenizer that the model was trained with into the folder.",
        )
    if (expected := read_tokenizer_fingerprint(path)) and expected != tokenizer.fingerprint:
        raise UserError(
            f"{path}: the tokenizer is not the one that the model was trained with (same size, other tokens).",
            "Copy the model folder again.",
        )
    return gpt, tokenizer


def find_verified_folder(folder: str | Path) -> Path:
    """As `find_model_folder`; UserError if the files of the run or of the model do not match their SHA-256 hashes."""
    path = find_model_folder(folder)
    if path != Path(folder):
        verify_run(Path(folder))
    verify_model(path)
    return path


def load_task_predictor(folder: str | Path, device: str | torch.device = "auto", verify: bool = True) -> TaskPredictor:
    """As `load`; raises UserError if the model is not fine-tuned."""
    model = load(folder, device, verify=verify)
    if not isinstance(model, TaskPredictor):
        raise not_finetuned_error(str(folder), str(folder))
    return model


def generation_oom_advice(n_texts: int, precision: str) -> str:
    """How to reduce the memory of generation, after it ran out."""
    parallel = min(n_texts, MAX_PARALLEL_TEXTS)
    advice = ["Use --precision bf16 to halve the memory of the model."] if precision == "fp32" else []
    if parallel > 1:
        advice.append(f"Pass {parallel // 2} texts at a time (now {parallel}) to halve the memory of the KV cache.")
    return " ".join(advice) or "Close other programs, or use a smaller model."


def read_prompts(path: str) -> tuple[str, ...]:
    """The non-empty lines of a text file (`-`: standard input)."""
    if path == "-":
        lines = [*InputFile("standard input", "txt", sys.stdin.buffer, sys.stdin.buffer, 0).lines()]
    else:
        with open_input(path) as file:
            lines = [*file.lines()]
    return tuple(text for line in lines if (text := line.strip("\r\n")))
