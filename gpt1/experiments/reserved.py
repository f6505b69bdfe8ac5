"""Settings of fine-tuning that an analysis decides itself: its command has no flag for them, its function refuses them."""

from __future__ import annotations

from collections.abc import Iterable

from gpt1.config import FinetuneConfig, descriptions, flag
from gpt1.errors import UserError

RESERVED = {
    "curve": ("seed", "train", "from_scratch", "valid_fraction", "deduplicate", "keep"),
    "reproduce": ("seed", "train", "from_scratch", "valid_fraction", "transfer_layers", "keep"),
    "zeroshot": tuple(descriptions(FinetuneConfig)),
}


def refuse_reserved(analysis: str, names: Iterable[str]) -> None:
    """UserError for the first of `names` that `analysis` decides itself, rather than overriding it silently."""
    for name in names:
        if name in RESERVED[analysis]:
            why = "a setting of training, and gpt1 zeroshot trains nothing" if analysis == "zeroshot" else ""
            raise UserError(f"{flag(name)} is {why or 'set by the analysis itself'}.", f"Leave {flag(name)} out.")
