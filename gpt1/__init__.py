"""GPT-1: pre-train a Transformer on unlabelled text (stage 1), fine-tune it on labels (stage 2), use it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt1.config import GPTConfig
    from gpt1.finetuning import finetune
    from gpt1.inference import load
    from gpt1.model import GPT
    from gpt1.pretraining import pretrain
    from gpt1.tokenizer import Tokenizer

__version__ = "0.1.0"
__all__ = ["GPT", "GPTConfig", "Tokenizer", "finetune", "load", "pretrain"]

_HOME = {
    "GPT": "gpt1.model",
    "GPTConfig": "gpt1.config",
    "Tokenizer": "gpt1.tokenizer",
    "finetune": "gpt1.finetuning",
    "load": "gpt1.inference",
    "pretrain": "gpt1.pretraining",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import: each name is fetched when it is first used
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gpt1' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
