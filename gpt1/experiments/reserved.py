"""Settings that an experiment sets itself: its command has no flag for them, and its function refuses them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from gpt1.config import FinetuneConfig, flag_name
from gpt1.errors import UserError

SET_BY_EXPERIMENTS = (
    "seed", "train", "from_scratch", "valid_fraction", "transfer_layers", "keep", "keep_head", "metric",
)  # fmt: skip
RESERVED = {
    "curve": (*SET_BY_EXPERIMENTS, "deduplicate"),
    "reproduce": SET_BY_EXPERIMENTS,
    "zeroshot": tuple(field.name for field in fields(FinetuneConfig)),
}


def refuse_reserved(experiment: str, names: Iterable[str]) -> None:
    """UserError for a setting that `experiment` would otherwise override or ignore silently."""
    for name in names:
        if name in RESERVED[experiment]:
            why = "is a training setting, and gpt1 zeroshot trains nothing"
            if experiment != "zeroshot":
                why = f"is set by gpt1 {experiment} itself"
            raise UserError(f"{flag_name(name)} {why}.", f"Remove {flag_name(name)}.")
