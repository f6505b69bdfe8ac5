"""Models of other homes as model folders of ours: Hugging Face's openai-gpt, OpenAI's release."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpt1.errors import UserError
from gpt1.model import GPT
from gpt1.runs import new_folder
from gpt1.tokenizer import Tokenizer
from gpt1.training.progress import Progress, Silent

# Hugging Face keeps the released vocabulary under other names.
RELEASED = {"encoder_bpe_40000.json": "vocab.json", "vocab_40000.bpe": "merges.txt"}


def import_model(source: str | Path, out: str | Path, progress: Progress | None = None) -> Path:
    """Write `source` (an openai-gpt folder of transformers, or the released model folder) as the model folder `out`."""
    progress = progress or Silent()
    source, target = Path(source), new_folder(out)
    model = GPT.from_pretrained(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        tokenizer = read_tokenizer(source, aside)
        if tokenizer.vocab_size != model.config.vocab_size:
            raise UserError(
                f"{source}: the vocabulary has {tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}.",
                "Model and tokenizer files are of two different models.",
            )
        model.save(aside)
        tokenizer.save(aside)
        if target.exists():
            target.rmdir()
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    progress.say(f"{target}: {sum(p.numel() for p in model.parameters()):,} weights, {tokenizer.vocab_size:,} tokens")
    return target


def read_tokenizer(source: Path, scratch: Path) -> Tokenizer:
    """The tokenizer beside the weights, under the release's names or Hugging Face's."""
    folder = scratch / "vocabulary"
    folder.mkdir(parents=True)
    for released, theirs in RELEASED.items():
        found = next((source / name for name in (released, theirs) if (source / name).exists()), None)
        if found is None:
            raise UserError(
                f"{source} has neither {released} nor {theirs}.", "Put the vocabulary files beside the weights."
            )
        shutil.copyfile(found, folder / released)
    tokenizer = Tokenizer.load(folder)
    shutil.rmtree(folder)
    return tokenizer
