"""Import GPT-1 weights from Hugging Face or OpenAI; export a model for transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from gpt1.config import GPTConfig
from gpt1.console import default_progress
from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_dir, atomic_write_json
from gpt1.files.foreign import short
from gpt1.files.manifest import write_manifest
from gpt1.files.names import HEAD_FILE, HUGGING_FACE_FILES, LIBRARY_FILE, MODEL_FOLDER, OPENAI_FILES, RUN_CONFIG_FILE
from gpt1.files.output import check_new_folder
from gpt1.files.reading import not_found_error
from gpt1.formatting import shell_quote
from gpt1.inference import EXPORT_FORMATS, IMPORT_FORMATS
from gpt1.inference.foreign_task import (
    classifier_settings,
    drop_padding_row,
    is_exportable,
    read_any_task,
    score_matrix,
)
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.inference.task import StoredTask, save_model
from gpt1.model.foreign_weights import is_huggingface, write_huggingface
from gpt1.model.gpt import GPT
from gpt1.model.head import Head
from gpt1.model.weights import MODEL_FILES, is_openai, write_safetensors
from gpt1.progress import Progress
from gpt1.report.card import STARTER_LICENSE, copy_card, write_card
from gpt1.runs import folder as runs
from gpt1.tasks.kinds import DELIMITER, KINDS
from gpt1.tasks.targets import OrdinalBins
from gpt1.tokenization.bpe import END_OF_WORD, UNKNOWN
from gpt1.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def import_model(
    format: str, source: str | Path, out: str | Path, progress: Progress | None = None, overwrite: bool = False
) -> Path:
    """Import GPT-1 weights and tokenizer as a model folder.

    Args:
        format: `huggingface` (openai-gpt of transformers) or `openai` (params_*.npy of the release).
        source: The folder to import.
        out: The model folder to write.
        progress: Receives messages.
        overwrite: Replace a model that is there.

    Returns:
        The path of the model folder.

    Raises:
        UserError: If `source` is not a model of this format; nothing is written then.
    """
    progress = progress or default_progress()
    source, target = Path(source), check_new_folder(out, overwrite, [source], writes="model")
    check_import_source(format, source)
    model, tokenizer = GPT.from_pretrained(source), load_tokenizer(source)
    drop_padding_row(source, model, tokenizer.vocab_size)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{source}: the vocabulary has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}.",
            "Use the model and tokenizer files of the same model.",
        )
    stored = read_any_task(source)
    with atomic_dir(target, replace=overwrite) as folder:
        save_model(folder, model, tokenizer, *head_and_task(stored))
    progress.log(model_summary(target, model, tokenizer))
    return target


def export_model(
    format: str,
    source: str | Path,
    out: str | Path,
    progress: Progress | None = None,
    verify: bool = True,
    dtype: str = "fp32",
    license: str = "unknown",
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Export a model for transformers, or as a self-contained model folder.

    `import_model` restores what was exported for transformers in fp32 bit for bit.

    Args:
        format: `huggingface` (OpenAIGPTLMHeadModel of transformers), or `gpt1` (a model folder with its model card).
        source: A run or model folder, `starter`, or a name on the Hugging Face hub.
        out: The folder to write.
        progress: Receives messages.
        verify: See `load`.
        dtype: `fp32`, or `bf16`: half the size; the weights are rounded, and load as fp32.
        license, name: For the model card: identifier of the license, and name of the model (default: that of `out`).
        overwrite: Replace a folder that gpt1 exported before.

    Returns:
        The path of the written folder.

    Raises:
        UserError: For an LSTM or a fine-tuned model, which the format cannot represent; nothing is written then.
    """
    progress = progress or default_progress()
    check_format_name("export", format, [name for name in EXPORT_FORMATS if name != "onnx"])  # see onnx_model.py
    if dtype not in DTYPES:
        raise UserError(f"--dtype {short(dtype)} is not a type of weights.", f"Types: {', '.join(DTYPES)}.")
    target = check_new_folder(out, overwrite, [source], writes="model")
    if runs.find_model_folder(source) == runs.STARTER_FOLDER and license not in ("unknown", STARTER_LICENSE):
        raise UserError(f"starter has the license {STARTER_LICENSE}, not {short(license)}.", "Omit --license.")
    model, tokenizer = load_model_and_tokenizer(source, verify)
    stored = read_any_task(runs.find_model_folder(source))
    if format == "gpt1":
        with atomic_dir(target, replace=overwrite) as folder:
            save_model(folder, model.to(DTYPES[dtype]), tokenizer, *head_and_task(stored, DTYPES[dtype]))
            shape, task = card_dimensions(model) | {"weights": dtype}, stored.task if stored else None
            run = find_run(Path(source))
            if run or not copy_card(runs.find_model_folder(source), folder, license):
                write_card(folder, name or target.name, run, shape, task, license)
        progress.log(model_summary(target, model, tokenizer))
        return target
    check_exportable(Path(source), model, stored)
    classifier = (classifier_settings(model, stored), score_matrix(str(source), model, stored)) if stored else ()
    with atomic_dir(target, replace=overwrite) as folder:
        write_huggingface(folder, model.config, model.state_dict(), DTYPES[dtype], *classifier)
        if stored and dtype == "fp32":
            write_safetensors(folder / HEAD_FILE, stored.head.state_dict())
        tokenizer.save(folder)
        write_huggingface_tokenizer(folder, tokenizer, model.config)
        write_manifest(folder, MODEL_FILES)
    progress.log(model_summary(target, model, tokenizer))
    log_differences(target, model, tokenizer, stored, progress)
    return target


def log_differences(
    target: Path, model: GPT, tokenizer: Tokenizer, stored: StoredTask | None, progress: Progress
) -> None:
    """Log what transformers computes differently from gpt1 with the exported model."""
    if stored and stored.task.get("long", "cut") != "cut":
        progress.log(f"transformers truncates texts of more than {model.config.context} tokens; gpt1 does not")
    if tokenizer.pipeline == "original":
        progress.log(
            "transformers' tokenizer of GPT-1 gives different ids for many texts (line breaks, accents, contractions); "
            f"for the ids of training use gpt1.Tokenizer.load({str(target)!r}).encode(text)"
        )


def head_and_task(
    stored: StoredTask | None, dtype: torch.dtype = torch.float32
) -> tuple[Head, dict[str, Any]] | tuple[()]:
    """Head and task of a fine-tuned model, the last arguments of `save_model`; empty for a pre-trained one."""
    return (stored.head.to(dtype), stored.task) if stored else ()


def card_dimensions(model: GPT) -> dict[str, int]:
    """The sizes that a model card names."""
    shape = {key: getattr(model.config, key) for key in ("n_layer", "n_head", "n_embd", "context", "vocab_size")}
    return shape | {"parameters": sum(p.numel() for p in model.parameters())}


def model_summary(target: Path, model: GPT, tokenizer: Tokenizer) -> str:
    return f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.vocab_size:,} tokens"


def check_exportable(source: Path, model: GPT, stored: StoredTask | None) -> None:
    """Raise UserError for a model that transformers' openai-gpt cannot represent."""
    if model.recurrent:
        raise UserError(
            f"{source} is an LSTM; transformers' openai-gpt is a Transformer.",
            "Export a model that was pre-trained without --architecture lstm.",
        )
    if stored is None and model.config.special_tokens:
        problem = f"{source} has a fine-tuned model's special tokens, but no task.json and no head."
        raise UserError(problem, "Copy the model folder again.")
    if stored and not is_exportable(kind := KINDS[stored.task["kind"]], stored.target):
        origin = shell_quote(pretrained_source(source) or "RUN")
        of_one_sequence = "scores in bins" if isinstance(stored.target, OrdinalBins) else "several labels per row"
        what = "several sequences per row" if kind.sequences > 1 or kind.multiple_choice else of_one_sequence
        raise UserError(
            f"{source} is fine-tuned for {kind.name} ({what}). transformers' openai-gpt classifier cannot represent "
            "that.",
            f"Export the pre-trained model instead: gpt1 export huggingface {origin} --out DIR",
        )


def find_run(source: Path) -> Path | None:
    """The run folder that is `source`, or whose model is `source`; None for a model folder outside a run."""
    run = source.parent if source.name == MODEL_FOLDER else source
    return run if (run / RUN_CONFIG_FILE).exists() else None


def pretrained_source(source: Path) -> str | None:
    """The --from of the fine-tuning run that `source` belongs to; None for a model folder outside a run."""
    run = find_run(source)
    command = runs.read_run_config(run).get("command") if run else None
    return (command.get("from") or None) if isinstance(command, dict) else None


def write_huggingface_tokenizer(folder: Path, tokenizer: Tokenizer, config: GPTConfig) -> None:
    """Add what transformers' AutoTokenizer needs to the vocabulary and merges that are already in `folder`.

    original: same ids for most texts. lossless: same ids for all texts. With special tokens, it adds them to texts.
    """
    tokenizer_config: dict[str, Any] = {"model_max_length": config.context}
    if tokenizer.pipeline == "original":
        tokenizer_config |= {"unk_token": UNKNOWN}
    if tokenizer.pipeline == "original" and not config.special_tokens:
        tokenizer_config |= {"tokenizer_class": "OpenAIGPTTokenizer"}
    else:
        library = library_tokenizer(folder, tokenizer.pipeline)
        if config.special_tokens:
            add_special_tokens(library, tokenizer.vocab_size)
            # a text that contains the name of a special token must not become that token
            tokenizer_config |= {"pad_token": SPECIAL_TOKENS[DELIMITER], "split_special_tokens": True}
        library.save(str(folder / LIBRARY_FILE))
        # no token_type_ids, which transformers' GPT-1 would add to the embeddings
        names = ["input_ids", "attention_mask"]
        tokenizer_config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    atomic_write_json(folder / "tokenizer_config.json", tokenizer_config)


def library_tokenizer(folder: Path, pipeline: str) -> Any:
    """The vocabulary and merges in `folder` as a tokenizer of the library `tokenizers`, as transformers uses it."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary, merges = ((folder / name).read_text(encoding="utf-8") for name in HUGGING_FACE_FILES)
    pairs = (line.split(" ") for line in merges.rstrip("\n").split("\n")[1:])  # the first line is a header
    options = {"unk_token": UNKNOWN, "end_of_word_suffix": END_OF_WORD} if pipeline == "original" else {}
    library = Library(models.BPE(vocab=json.loads(vocabulary), merges=[(a, b) for a, b in pairs], **options))
    if pipeline == "original":  # as in transformers' OpenAIGPTTokenizer
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
    return library


def add_special_tokens(library: Any, vocab_size: int) -> None:
    """Let a tokenizer of the library make the sequences of figure 1: <start> text <extract>, and of two texts."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    start, delimiter, extract = SPECIAL_TOKENS
    library.post_processor = TemplateProcessing(
        single=f"{start} $A {extract}",
        pair=f"{start} $A {delimiter} $B {extract}",
        special_tokens=[(name, vocab_size + i) for i, name in enumerate(SPECIAL_TOKENS)],
    )


def check_format_name(command: str, format: str, formats: Iterable[str]) -> None:
    if format not in formats:
        raise UserError(
            f"{command} {format}: unknown format.{did_you_mean(format, formats)}", f"Formats: {', '.join(formats)}."
        )


def check_import_source(format: str, source: Path) -> None:
    """Raise UserError unless `source` is a model folder of `format`."""
    check_format_name("import", format, IMPORT_FORMATS)
    if not source.exists():
        raise not_found_error(source)
    if (found := import_format(source)) != format:
        what = f"use gpt1 import {found}" if found else "it has neither Hugging Face's nor OpenAI's files"
        raise UserError(
            f"{source} is not a model in the {format} format: {what}.",
            "Files of huggingface: config.json (model_type openai-gpt), model.safetensors, vocab.json, merges.txt. "
            "Files of openai: params_0.npy …, params_shapes.json, encoder_bpe_40000.json, vocab_40000.bpe.",
        )


def import_format(folder: Path) -> str | None:
    """The format of IMPORT_FORMATS that a folder has, if any."""
    checks = zip(IMPORT_FORMATS, (is_huggingface, is_openai), strict=True)
    return next((name for name, is_format in checks if is_format(folder)), None)


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer of a folder with the file names of the release or of Hugging Face."""
    if (source / LIBRARY_FILE).exists():
        return Tokenizer.load(source)
    for released, huggingface in zip(OPENAI_FILES, HUGGING_FACE_FILES, strict=True):
        if not (source / released).exists() and not (source / huggingface).exists():
            raise UserError(
                f"{source} has neither {released} nor {huggingface}.", "Copy the vocabulary files into the same folder."
            )
    return Tokenizer.load(source)
