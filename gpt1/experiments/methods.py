"""The methods that an experiment compares: the rows of table 5 (paper), head only, and two baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.result_store import model_facts


@dataclass(frozen=True)
class Method:
    """A method and its fine-tuning settings."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        return self.settings.get("train") == "head"

    def finetune_settings(self, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The user's `settings` and the method's own. As in the paper, all rows are used for training and the last
        epoch counts: no validation rows are split off."""
        applicable = {name: value for name, value in settings.items() if not self.is_head or name in HEAD_SETTINGS}
        return {**applicable, "seed": seed, "valid_fraction": 0.0, "keep": 1, **self.settings}


HEAD_SETTINGS = {
    "recipe", "batch_size", "micro_batch", "precision", "device", "head_dropout", "cut", "long", "deduplicate",
    "cache_features", "class_weight",
}  # fmt: skip
"""Settings that also apply to training the head alone; its learning rate and epochs are its own."""


ABLATION_METHODS = {
    "full": Method("full"),
    "scratch": Method("no pre-training", {"from_scratch": True}),
    "scratch-no-aux": Method("no pre-training, no auxiliary LM", {"from_scratch": True, "lm_coef": 0.0}),
    "no-aux": Method("no auxiliary LM", {"lm_coef": 0.0}),
    "lstm": Method("LSTM with auxiliary LM"),
    "head": Method("head only", {"train": "head"}),
    "tfidf": Method("TF-IDF + linear model"),
    "overlap": Method("word overlap + linear model"),
}
BASELINES = ("tfidf", "overlap")
"""Methods without a neural network."""
CURVE_METHODS = {
    "all": Method("pre-trained, all weights"),
    "head": Method("pre-trained, head only", ABLATION_METHODS["head"].settings),
    # A language-model loss on random weights only hurts: see the lab log, 2026-11-29.
    "scratch": Method("from scratch", ABLATION_METHODS["scratch-no-aux"].settings),
    "tfidf": ABLATION_METHODS["tfidf"],
}
DEFAULT_METHODS = {"table5": ("full", "scratch", "scratch-no-aux", "no-aux", "lstm", "head", *BASELINES)}
"""Methods of a table if none are named; `full` and the baselines for the other tables."""


def check_methods(names: Sequence[str], known: Mapping[str, Method]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"--methods {name}: unknown method.{did_you_mean(name, known)}", f"Methods: {', '.join(known)}."
            )


def select_methods(what: str, methods: Sequence[str], lstm: str | Path | None) -> tuple[dict[str, Method], list[str]]:
    """(the methods by name, a note on a method that is skipped)."""
    names = list(dict.fromkeys(methods or list(DEFAULT_METHODS.get(what, ("full", *BASELINES)))))
    check_methods(names, ABLATION_METHODS)
    notes = []
    if lstm and "lstm" not in names:
        names.append("lstm")
    if needs_lstm_run(names, lstm):
        names.remove("lstm")
        notes.append(
            "The LSTM row is skipped. It needs an LSTM that is pre-trained on the same corpus "
            "(gpt1 pretrain CORPUS --model lstm --out RUN): add --lstm RUN."
        )
    if not names:
        raise UserError("--methods lstm needs a pre-trained LSTM.", "Add --lstm RUN.")
    return {name: ABLATION_METHODS[name] for name in names}, notes


def needs_lstm_run(methods: Sequence[str], lstm: str | Path | None) -> bool:
    """Whether table 5 has the LSTM (it does if no methods are named), but no --lstm."""
    return "lstm" in (methods or DEFAULT_METHODS["table5"]) and not lstm


def transfer_methods(from_: str | Path, methods: Sequence[str]) -> dict[str, Method]:
    """Figure 2, left: 0 to all blocks of the pre-trained model are transferred."""
    if methods:
        raise UserError(f"--methods {methods[0]}: figure2 has no methods.", "Remove --methods, or reproduce a table.")
    blocks = model_facts(from_)["config"]["n_layer"]
    return {f"{k} layers": Method(f"{k} layers", {"transfer_layers": k}) for k in range(blocks + 1)}
