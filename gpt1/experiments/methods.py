"""The methods that an analysis compares: the rows of table 5 with one's own beside them, the lines of a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.result_store import model_facts


@dataclass(frozen=True)
class Method:
    """What is compared, and the settings of fine-tuning that make it."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        return self.settings.get("train") == "head"

    def finetune_settings(self, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """All labels are learnt from and the last epoch counts, as in the paper: none is spent on choosing one."""
        meant = {name: value for name, value in given.items() if not self.is_head or name in FOR_THE_HEAD}
        return {**meant, "seed": seed, "valid_fraction": 0.0, "keep": 1, **self.settings}


FOR_THE_HEAD = {"recipe", "batch_size", "micro_batch", "precision", "device", "head_dropout", "cut", "long"} | {
    "deduplicate",
    "cache_features",
}
"""Settings that mean the same for a head alone; its rate and epochs are its own."""


ABLATION_METHODS = {
    "full": Method("full"),
    "scratch": Method("no pre-training", {"from_scratch": True}),
    "no-aux": Method("no auxiliary LM", {"lm_coef": 0.0}),
    "lstm": Method("LSTM with auxiliary LM"),
    "head": Method("head only", {"train": "head"}),
    "tfidf": Method("TF-IDF + linear model"),
}
CURVE_METHODS = {
    "all": Method("pre-trained, all weights"),
    "head": Method("pre-trained, head only", ABLATION_METHODS["head"].settings),
    "scratch": Method("from scratch", ABLATION_METHODS["scratch"].settings),
    "tfidf": ABLATION_METHODS["tfidf"],
}
DEFAULT_METHODS = {"table5": ("full", "scratch", "no-aux", "lstm", "head")}
"""Methods of a table where none are named; of the others the paper's own, `full`."""


def check_methods(names: Sequence[str], known: Mapping[str, Method]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"--methods {name}: there is no such method.{did_you_mean(name, known)}",
                f"Methods: {', '.join(known)}.",
            )


def select_methods(what: str, methods: Sequence[str], lstm: str | Path | None) -> tuple[dict[str, Method], list[str]]:
    """(the methods by name, what to say of those that are left out)."""
    names = list(dict.fromkeys(methods or list(DEFAULT_METHODS.get(what, ("full",)))))
    check_methods(names, ABLATION_METHODS)
    said = []
    if lstm and "lstm" not in names:
        names.append("lstm")
    if needs_lstm_run(names, lstm):
        names.remove("lstm")
        said.append(
            "The LSTM's row is left out: it needs one that is pre-trained on the same corpus "
            "(gpt1 pretrain CORPUS --model lstm --out RUN), given with --lstm RUN."
        )
    if not names:
        raise UserError("--methods lstm needs a pre-trained LSTM.", "Give it with --lstm RUN.")
    return {name: ABLATION_METHODS[name] for name in names}, said


def needs_lstm_run(methods: Sequence[str], lstm: str | Path | None) -> bool:
    """Whether the LSTM of table 5 is asked for (as it is where no method is named), and none is given."""
    return "lstm" in (methods or DEFAULT_METHODS["table5"]) and not lstm


def transfer_methods(from_: str | Path, methods: Sequence[str]) -> dict[str, Method]:
    """Figure 2, left: 0 to all of the model's blocks are kept."""
    if methods:
        raise UserError(f"--methods {methods[0]}: figure2 has no methods.", "They are for the tables.")
    blocks = model_facts(from_)["config"]["n_layer"]
    return {f"{k} layers": Method(f"{k} layers", {"transfer_layers": k}) for k in range(blocks + 1)}
