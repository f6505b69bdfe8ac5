"""Models from and for other homes: Hugging Face's openai-gpt both ways, OpenAI's release as a model folder of ours."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.files.atomic import atomic_dir
from gpt1.files.foreign import read_json_object
from gpt1.files.manifest import write_manifest
from gpt1.files.reading import not_found_error
from gpt1.formatting import shell_quote
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.inference.task import TASK, save_model
from gpt1.model.foreign_weights import write_huggingface
from gpt1.model.gpt import GPT
from gpt1.model.weights import MODEL_CONFIG_FILE, MODEL_FILES
from gpt1.progress import NullProgress, Progress
from gpt1.runs import folder as runs
from gpt1.tokenization.bpe import UNKNOWN
from gpt1.tokenization.tokenizer import HUGGING_FACE_FILES, Tokenizer

# Hugging Face keeps the released vocabulary under other names.
HUGGINGFACE_FILE_NAMES = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}
EXPORT_FORMATS = ("huggingface",)


def import_model(format: str, source: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Write `source` as the model folder `out`. format: `huggingface` (an openai-gpt folder of transformers) or `openai`
    (the released folder of arrays). Raises UserError for anything else, and then nothing is written."""
    progress = progress or NullProgress()
    source, target = Path(source), runs.check_new_folder(out)
    check_import_source(format, source)
    model, tokenizer = GPT.from_pretrained(source), load_tokenizer(source)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{source}: the vocabulary has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}.",
            "Model and tokenizer files are of two different models.",
        )
    with atomic_dir(target) as folder:
        save_model(folder, model, tokenizer)
    progress.log(model_summary(target, model, tokenizer))
    return target


def export_model(
    format: str, source: str | Path, out: str | Path, progress: Progress | None = None, verify: bool = True
) -> Path:
    """Write the pre-trained Transformer of a run or model folder as the folder `out`, which transformers'
    OpenAIGPTLMHeadModel opens and `import_model` brings back bit for bit. UserError for what has no place there: an
    LSTM, a fine-tuned model; then nothing is written. verify: see `load`."""
    progress = progress or NullProgress()
    check_format_name("export", format, EXPORT_FORMATS)
    target = runs.check_new_folder(out)
    model, tokenizer = load_model_and_tokenizer(source, verify)
    check_exportable(Path(source), model)
    with atomic_dir(target) as folder:
        write_huggingface(folder, model.config, model.state_dict())
        tokenizer.save(folder)
        write_huggingface_tokenizer(folder, tokenizer, model.config.context)
        write_manifest(folder, MODEL_FILES)
    progress.log(model_summary(target, model, tokenizer))
    if tokenizer.pipeline == "original":
        progress.log(
            "transformers' OpenAIGPTTokenizer gives other ids for many texts (line breaks, accents, contractions); "
            f"those that the model was trained with: gpt1.Tokenizer.load({str(target)!r}).encode(text)"
        )
    return target


def model_summary(target: Path, model: GPT, tokenizer: Tokenizer) -> str:
    return f"{target}: {sum(p.numel() for p in model.parameters()):,} weights, {tokenizer.vocab_size:,} tokens"


def check_exportable(source: Path, model: GPT) -> None:
    """UserError for a model that is more, or other, than OpenAIGPTLMHeadModel can hold."""
    if model.recurrent:
        raise UserError(
            f"{source} is an LSTM; transformers' openai-gpt is a Transformer.",
            "Export a model that was pre-trained without --architecture lstm.",
        )
    if model.config.special_tokens or (runs.find_model_folder(source) / TASK).exists():
        origin = shell_quote(pretrained_source(source) or "RUN")
        raise UserError(
            f"{source} is fine-tuned: its head, special tokens and calibration have no place in transformers' "
            "openai-gpt.",
            f"Export the pre-trained model that it came from: gpt1 export huggingface {origin} --out DIR",
        )


def pretrained_source(source: Path) -> str | None:
    """The --from of the run that the model `source` is in; None for a model folder that stands alone."""
    run = source if (source / runs.RUN_CONFIG_FILE).exists() else source.parent
    command = runs.read_run_config(run).get("command") if (run / runs.RUN_CONFIG_FILE).exists() else None
    return (command.get("from") or None) if isinstance(command, dict) else None


def write_huggingface_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """What transformers' AutoTokenizer needs beside the vocabulary and merges that `tokenizer` has saved in `folder`.

    original: their class for GPT-1, which comes near. lossless: tokenizer.json, which gives the same ids."""
    about: dict[str, Any] = {"model_max_length": context}
    if tokenizer.pipeline == "original":
        about |= {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": UNKNOWN}
    else:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary, merges = ((folder / name).read_text(encoding="utf-8") for name in HUGGING_FACE_FILES)
        pairs = (line.split(" ") for line in merges.rstrip("\n").split("\n")[1:])  # the first line is a header
        library = Library(models.BPE(vocab=json.loads(vocabulary), merges=[(a, b) for a, b in pairs]))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        library.save(str(folder / "tokenizer.json"))
        about |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def check_format_name(command: str, format: str, formats: Iterable[str]) -> None:
    if format not in formats:
        raise UserError(
            f"{command} {format}: there is no such home.{did_you_mean(format, formats)}",
            f"Homes: {', '.join(formats)}.",
        )


def check_import_source(format: str, source: Path) -> None:
    """UserError unless `source` is what `format` hands out."""
    check_format_name("import", format, IMPORT_FORMATS)
    if not source.exists():
        raise not_found_error(source)
    found = next((name for name, of_home in IMPORT_FORMATS.items() if of_home(source)), None)
    if found != format:
        what = f"it is what gpt1 import {found} takes" if found else "it is neither Hugging Face's nor OpenAI's"
        raise UserError(
            f"{source} is no model of {format}: {what}.",
            "huggingface: config.json (model_type openai-gpt), model.safetensors, vocab.json, merges.txt. "
            "openai: params_0.npy …, params_shapes.json, encoder_bpe_40000.json, vocab_40000.bpe.",
        )


def is_huggingface(folder: Path) -> bool:
    return (folder / MODEL_CONFIG_FILE).exists() and read_json_object(folder / MODEL_CONFIG_FILE).get(
        "model_type"
    ) == "openai-gpt"


def is_openai(folder: Path) -> bool:
    return (folder / "params_0.npy").exists()


IMPORT_FORMATS = {"huggingface": is_huggingface, "openai": is_openai}


def load_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer beside the weights, under the release's names or Hugging Face's."""
    for released, theirs in HUGGINGFACE_FILE_NAMES.items():
        if not (source / released).exists() and not (source / theirs).exists():
            raise UserError(
                f"{source} has neither {released} nor {theirs}.", "Put the vocabulary files beside the weights."
            )
    return Tokenizer.load(source)
