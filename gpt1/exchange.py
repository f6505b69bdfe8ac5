"""Models of other homes as model folders of ours: Hugging Face's openai-gpt, OpenAI's release."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpt1.data.files import missing
from gpt1.errors import UserError, did_you_mean
from gpt1.model import GPT
from gpt1.runs import new_folder
from gpt1.tokenizer import Tokenizer
from gpt1.training.progress import Progress, Silent
from gpt1.weights import CONFIG, read_json

# Hugging Face keeps the released vocabulary under other names.
RELEASED = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}


def import_model(home: str, source: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Write `source` as the model folder `out`. home: `huggingface` (an openai-gpt folder of transformers) or `openai`
    (the released folder of arrays). Raises UserError for anything else, and then nothing is written."""
    progress = progress or Silent()
    source, target = Path(source), new_folder(out)
    check_home(home, source)
    model = GPT.from_pretrained(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        tokenizer = read_tokenizer(source)
        if tokenizer.vocab_size != model.config.vocab_size:
            raise UserError(
                f"{source}: the vocabulary has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}.",
                "Model and tokenizer files are of two different models.",
            )
        model.save(aside, tokenizer=tokenizer.fingerprint)
        tokenizer.save(aside)
        if target.exists():
            target.rmdir()
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    progress.say(f"{target}: {sum(p.numel() for p in model.parameters()):,} weights, {tokenizer.vocab_size:,} tokens")
    return target


def check_home(home: str, source: Path) -> None:
    """UserError unless `source` is what `home` hands out."""
    if home not in HOMES:
        raise UserError(
            f"import {home}: there is no such home.{did_you_mean(home, HOMES)}", f"Homes: {', '.join(HOMES)}."
        )
    if not source.exists():
        raise missing(source)
    found = next((name for name, of_home in HOMES.items() if of_home(source)), None)
    if found != home:
        what = f"it is what gpt1 import {found} takes" if found else "it is neither Hugging Face's nor OpenAI's"
        raise UserError(
            f"{source} is no model of {home}: {what}.",
            "huggingface: config.json (model_type openai-gpt), model.safetensors, vocab.json, merges.txt. "
            "openai: params_0.npy …, params_shapes.json, encoder_bpe_40000.json, vocab_40000.bpe.",
        )


def is_huggingface(folder: Path) -> bool:
    return (folder / CONFIG).exists() and read_json(folder / CONFIG).get("model_type") == "openai-gpt"


def is_openai(folder: Path) -> bool:
    return (folder / "params_0.npy").exists()


HOMES = {"huggingface": is_huggingface, "openai": is_openai}


def read_tokenizer(source: Path) -> Tokenizer:
    """The tokenizer beside the weights, under the release's names or Hugging Face's."""
    for released, theirs in RELEASED.items():
        if not (source / released).exists() and not (source / theirs).exists():
            raise UserError(
                f"{source} has neither {released} nor {theirs}.", "Put the vocabulary files beside the weights."
            )
    return Tokenizer.load(source)
