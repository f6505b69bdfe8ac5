"""Import GPT-1 weights from Hugging Face or OpenAI; export a model for transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_dir
from gpt1.files.foreign import read_json_object, short
from gpt1.files.manifest import write_manifest
from gpt1.files.reading import not_found_error
from gpt1.formatting import shell_quote
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.inference.task import TASK, read_finetuned, save_model
from gpt1.model.foreign_weights import write_huggingface
from gpt1.model.gpt import GPT
from gpt1.model.weights import MODEL_CONFIG_FILE, MODEL_FILES
from gpt1.progress import NullProgress, Progress
from gpt1.runs import folder as runs
from gpt1.tokenization.bpe import UNKNOWN
from gpt1.tokenization.tokenizer import HUGGING_FACE_FILES, Tokenizer

HUGGINGFACE_FILE_NAMES = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}
"""File names of the release -> those of Hugging Face."""
EXPORT_FORMATS = ("gpt1", "huggingface")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def import_model(format: str, source: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Import GPT-1 weights and tokenizer as a model folder.

    Args:
        format: `huggingface` (openai-gpt of transformers) or `openai` (params_*.npy of the release).
        source: The folder to import.
        out: The model folder to write.
        progress: Receives messages.

    Returns:
        The path of the model folder.

    Raises:
        UserError: If `source` is not a model of this format; nothing is written then.
    """
    progress = progress or NullProgress()
    source, target = Path(source), runs.check_new_folder(out)
    check_import_source(format, source)
    model, tokenizer = GPT.from_pretrained(source), load_tokenizer(source)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{source}: the vocabulary has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}.",
            "Use the model and tokenizer files of the same model.",
        )
    with atomic_dir(target) as folder:
        save_model(folder, model, tokenizer)
    progress.log(model_summary(target, model, tokenizer))
    return target


def export_model(
    format: str,
    source: str | Path,
    out: str | Path,
    progress: Progress | None = None,
    verify: bool = True,
    dtype: str = "fp32",
) -> Path:
    """Export a model for transformers, or as a model folder of its own.

    `import_model` restores what was exported for transformers in fp32 bit for bit.

    Args:
        format: `huggingface` (OpenAIGPTLMHeadModel of transformers), or `gpt1` (a model folder with its model card).
        source: A run or model folder, `starter`, or a name on the Hugging Face hub.
        out: The folder to write.
        progress: Receives messages.
        verify: See `load`.
        dtype: `fp32`, or `bf16`: half the size; the weights are rounded, and load as fp32.

    Returns:
        The path of the written folder.

    Raises:
        UserError: For an LSTM or a fine-tuned model, which the format cannot represent; nothing is written then.
    """
    progress = progress or NullProgress()
    check_format_name("export", format, EXPORT_FORMATS)
    if dtype not in DTYPES:
        raise UserError(f"--dtype {short(dtype)} is not a type of weights.", f"Types: {', '.join(DTYPES)}.")
    target = runs.check_new_folder(out)
    model, tokenizer = load_model_and_tokenizer(source, verify)
    if format == "gpt1":
        with atomic_dir(target) as folder:
            copy_model(runs.find_model_folder(source), folder, DTYPES[dtype])
        progress.log(model_summary(target, model, tokenizer))
        return target
    check_exportable(Path(source), model)
    with atomic_dir(target) as folder:
        write_huggingface(folder, model.config, model.state_dict(), DTYPES[dtype])
        tokenizer.save(folder)
        write_huggingface_tokenizer(folder, tokenizer, model.config.context)
        write_manifest(folder, MODEL_FILES)
    progress.log(model_summary(target, model, tokenizer))
    if tokenizer.pipeline == "original":
        progress.log(
            "transformers' OpenAIGPTTokenizer gives different ids for many texts (line breaks, accents, contractions); "
            f"for the ids of training use gpt1.Tokenizer.load({str(target)!r}).encode(text)"
        )
    return target


def copy_model(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write the model folder `source`, of any format, as one of gpt1 with weights of this type."""
    gpt, tokenizer, stored = GPT.from_pretrained(source), Tokenizer.load(source), read_finetuned(source)
    save_model(folder, gpt.to(dtype), tokenizer, *((stored.head.to(dtype), stored.task) if stored else ()))


def model_summary(target: Path, model: GPT, tokenizer: Tokenizer) -> str:
    return f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size:,} tokens"


def check_exportable(source: Path, model: GPT) -> None:
    """Raise UserError for a model that OpenAIGPTLMHeadModel cannot represent."""
    if model.recurrent:
        raise UserError(
            f"{source} is an LSTM; transformers' openai-gpt is a Transformer.",
            "Export a model that was pre-trained without --architecture lstm.",
        )
    if model.config.special_tokens or (runs.find_model_folder(source) / TASK).exists():
        origin = shell_quote(pretrained_source(source) or "RUN")
        raise UserError(
            f"{source} is fine-tuned: transformers' openai-gpt cannot store its head, special tokens and calibration.",
            f"Export the pre-trained model instead: gpt1 export huggingface {origin} --out DIR",
        )


def pretrained_source(source: Path) -> str | None:
    """The --from of the fine-tuning run that `source` belongs to; None for a model folder outside a run."""
    run = source if (source / runs.RUN_CONFIG_FILE).exists() else source.parent
    command = runs.read_run_config(run).get("command") if (run / runs.RUN_CONFIG_FILE).exists() else None
    return (command.get("from") or None) if isinstance(command, dict) else None


def write_huggingface_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """Add what transformers' AutoTokenizer needs to the vocabulary and merges that are already in `folder`.

    original: OpenAIGPTTokenizer, same ids for most texts. lossless: tokenizer.json, same ids for all texts.
    """
    tokenizer_config: dict[str, Any] = {"model_max_length": context}
    if tokenizer.pipeline == "original":
        tokenizer_config |= {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": UNKNOWN}
    else:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary, merges = ((folder / name).read_text(encoding="utf-8") for name in HUGGING_FACE_FILES)
        pairs = (line.split(" ") for line in merges.rstrip("\n").split("\n")[1:])  # the first line is a header
        library = Library(models.BPE(vocab=json.loads(vocabulary), merges=[(a, b) for a, b in pairs]))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        library.save(str(folder / "tokenizer.json"))
        tokenizer_config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n", encoding="utf-8")


def check_format_name(command: str, format: str, formats: Iterable[str]) -> None:
    if format not in formats:
        raise UserError(
            f"{command} {format}: there is no such format.{did_you_mean(format, formats)}",
            f"Formats: {', '.join(formats)}.",
        )


def check_import_source(format: str, source: Path) -> None:
    """Raise UserError unless `source` is a model folder of `format`."""
    check_format_name("import", format, IMPORT_FORMATS)
    if not source.exists():
        raise not_found_error(source)
    found = next((name for name, is_format in IMPORT_FORMATS.items() if is_format(source)), None)
    if found != format:
        what = f"use gpt1 import {found}" if found else "it has neither Hugging Face's nor OpenAI's files"
        raise UserError(
            f"{source} is not a model in the {format} format: {what}.",
            "Files of huggingface: config.json (model_type openai-gpt), model.safetensors, vocab.json, merges.txt. "
            "Files of openai: params_0.npy …, params_shapes.json, encoder_bpe_40000.json, vocab_40000.bpe.",
        )


def is_huggingface(folder: Path) -> bool:
    return (folder / MODEL_CONFIG_FILE).exists() and read_json_object(folder / MODEL_CONFIG_FILE).get(
        "model_type"
    ) == "openai-gpt"


def is_openai(folder: Path) -> bool:
    return (folder / "params_0.npy").exists()


IMPORT_FORMATS = {"huggingface": is_huggingface, "openai": is_openai}


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer of a folder with the file names of the release or of Hugging Face."""
    for released, huggingface in HUGGINGFACE_FILE_NAMES.items():
        if not (source / released).exists() and not (source / huggingface).exists():
            raise UserError(
                f"{source} has neither {released} nor {huggingface}.", "Copy the vocabulary files into the same folder."
            )
    return Tokenizer.load(source)
