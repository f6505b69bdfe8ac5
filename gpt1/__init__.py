"""GPT-1: pre-train a Transformer on unlabeled text (stage 1), fine-tune it on labels (stage 2), use it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt1.version import __version__

if TYPE_CHECKING:
    from gpt1.config import GPTConfig
    from gpt1.corpus.tokenize import tokenize
    from gpt1.experiments.label_efficiency import curve
    from gpt1.experiments.reproduce.reproduce import reproduce
    from gpt1.experiments.zeroshot.heuristics import zeroshot
    from gpt1.inference.evaluate import evaluate, predict
    from gpt1.inference.predictor import load
    from gpt1.model.gpt import GPT
    from gpt1.tokenization.tokenizer import Tokenizer
    from gpt1.training.finetune import finetune
    from gpt1.training.pretrain import pretrain

__all__ = [
    "GPT",
    "GPTConfig",
    "Tokenizer",
    "__version__",
    "curve",
    "evaluate",
    "finetune",
    "load",
    "predict",
    "pretrain",
    "reproduce",
    "tokenize",
    "zeroshot",
]

_LAZY_IMPORTS = {
    "GPT": "gpt1.model.gpt",
    "GPTConfig": "gpt1.config",
    "Tokenizer": "gpt1.tokenization.tokenizer",
    "curve": "gpt1.experiments.label_efficiency",
    "evaluate": "gpt1.inference.evaluate",
    "finetune": "gpt1.training.finetune",
    "load": "gpt1.inference.predictor",
    "predict": "gpt1.inference.evaluate",
    "pretrain": "gpt1.training.pretrain",
    "reproduce": "gpt1.experiments.reproduce.reproduce",
    "tokenize": "gpt1.corpus.tokenize",
    "zeroshot": "gpt1.experiments.zeroshot.heuristics",
}


def __getattr__(name: str) -> Any:  # lazy, because importing torch takes seconds
    if name in _LAZY_IMPORTS:
        return getattr(import_module(_LAZY_IMPORTS[name]), name)
    raise AttributeError(f"module 'gpt1' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
