"""The rows of table 5, and one's own beside them: what each takes away from the paper's method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.experiments.cells import model_facts


@dataclass(frozen=True)
class Method:
    """A row of table 5, or one of ours beside it."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS = {
    "full": Method("full"),
    "scratch": Method("no pre-training", {"from_scratch": True}),
    "no-aux": Method("no auxiliary LM", {"lm_coef": 0.0}),
    "lstm": Method("LSTM with auxiliary LM"),
    "head": Method("head only", {"train": "head"}),
    "tfidf": Method("TF-IDF + linear model"),
}
USUAL = {"table5": ("full", "scratch", "no-aux", "lstm", "head")}
"""Methods of a table where none are named; of the others the paper's own, `full`."""


def chosen_methods(what: str, methods: Sequence[str], lstm: str | Path | None) -> tuple[dict[str, Method], list[str]]:
    """(the methods by name, what to say of those that are left out)."""
    names = list(dict.fromkeys(methods or list(USUAL.get(what, ("full",)))))
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"--methods {name}: there is no such method.{did_you_mean(name, METHODS)}",
                f"Methods: {', '.join(METHODS)}.",
            )
    said = []
    if lstm and "lstm" not in names:
        names.append("lstm")
    if lstm_is_missing(names, lstm):
        names.remove("lstm")
        said.append(
            "The LSTM's row is left out: it needs one that is pre-trained on the same corpus "
            "(gpt1 pretrain CORPUS --model lstm --out RUN), given with --lstm RUN."
        )
    if not names:
        raise UserError("--methods lstm needs a pre-trained LSTM.", "Give it with --lstm RUN.")
    return {name: METHODS[name] for name in names}, said


def lstm_is_missing(methods: Sequence[str], lstm: str | Path | None) -> bool:
    """Whether the LSTM of table 5 is asked for (as it is where no method is named), and none is given."""
    return "lstm" in (methods or USUAL["table5"]) and not lstm


def transfers(from_: str | Path, methods: Sequence[str]) -> dict[str, Method]:
    """Figure 2, left: 0 to all of the model's blocks are kept."""
    if methods:
        raise UserError(f"--methods {methods[0]}: figure2 has no methods.", "They are for the tables.")
    blocks = model_facts(from_)["config"]["n_layer"]
    return {f"{k} layers": Method(f"{k} layers", {"transfer_layers": k}) for k in range(blocks + 1)}
