"""BLiMP: does a model give the acceptable sentence of a minimal pair the higher probability (Warstadt et al. 2020)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.corpus.corpus import Corpus
from gpt1.corpus.windows import unigram_log_probabilities
from gpt1.datasets.blimp import PHENOMENA
from gpt1.errors import UserError
from gpt1.experiments.zeroshot.scoring import sentence_log_probabilities
from gpt1.experiments.zeroshot.task import ZeroShotTask
from gpt1.files.names import RUN_CONFIG_FILE
from gpt1.inference.predictor import LanguageModel
from gpt1.progress import Progress
from gpt1.runs import folder as runs
from gpt1.tables.table import Table
from gpt1.tasks import metrics
from gpt1.tokenization.tokenizer import Tokenizer

BLIMP = "blimp"
PUBLISHED = {"n-gram": 0.612, "LSTM": 0.698, "Transformer-XL": 0.696, "GPT-2": 0.815, "humans": 0.886}
"""Accuracies on the full set (Warstadt et al. 2020)."""
HOW = "a pair is correct if the acceptable sentence has the higher summed log-probability; mean over the paradigms"


@dataclass(frozen=True)
class MinimalPairsTask(ZeroShotTask):
    """Minimal pairs. `gold` has the acceptable sentences, `predict` answers with the more likely ones.

    Args:
        bad: the other sentences.
        paradigm_of: the paradigm of each pair.
        corpus: training text of the model, for the unigram baseline; None if it is not there.
    """

    bad: tuple[str, ...] = ()
    paradigm_of: tuple[str, ...] = ()
    corpus: Corpus | None = None

    @cached_property
    def pairs_by_paradigm(self) -> dict[str, list[int]]:
        """Paradigm → positions of its pairs."""
        found: dict[str, list[int]] = {}
        for position, paradigm in enumerate(self.paradigm_of):
            found.setdefault(paradigm, []).append(position)
        return found

    def evaluate(self, model: LanguageModel, progress: Progress | None = None) -> dict[str, Any]:
        """The result of `zeroshot`: the whole, each phenomenon and each paradigm, with the baselines."""
        answers = self.predict(model, progress or Progress())
        scores = {"accuracy": np.array([a == g for a, g in zip(answers, self.gold, strict=True)], dtype=np.float64)}
        scores |= self.baseline_scores(model)
        groups = {name: [p for p in group if p in self.pairs_by_paradigm] for name, group in PHENOMENA.items()}
        whole = self.summarize(scores, list(self.pairs_by_paradigm))
        return {
            "task": self.name,
            "metric": self.metric,
            "guess": self.guess,
            "how": self.how,
            "metrics": {"accuracy": whole["accuracy"]},
            "interval": {"accuracy": whole["interval"]},
            "rows": len(self.gold),
            "baselines": {name: whole[name] for name in scores if name != "accuracy"},
            "published": PUBLISHED,
            "phenomena": {name: self.summarize(scores, group) for name, group in groups.items() if group},
            "paradigms": {name: self.summarize(scores, [name]) for name in self.pairs_by_paradigm},
        }

    def summarize(self, scores: dict[str, Any], paradigms: Sequence[str]) -> dict[str, Any]:
        """The mean over some paradigms of each of `scores` ([pairs] each), with the interval of the accuracy."""
        positions = [self.pairs_by_paradigm[name] for name in paradigms]
        right = [int(scores["accuracy"][rows].sum()) for rows in positions]
        _, interval = metrics.mean_accuracy(right, [len(rows) for rows in positions])
        means = {name: float(np.mean([values[rows].mean() for rows in positions])) for name, values in scores.items()}
        return {**means, "interval": list(interval), "rows": sum(map(len, positions))}

    def baseline_scores(self, model: LanguageModel) -> dict[str, Any]:
        """Score of each pair by two trivial rules; equal sentences count half."""
        good, bad = (model.tokenizer.encode_batch(sentences) for sentences in (self.gold, self.bad))
        found = {"shorter": preference([-len(ids) for ids in good], [-len(ids) for ids in bad])}
        if self.corpus is not None:
            log_p = unigram_log_probabilities(self.corpus, model.gpt.config.vocab_size)
            found["unigram"] = preference(*([float(log_p[ids].sum()) for ids in side] for side in (good, bad)))
        return found


def preference(good: Sequence[float], bad: Sequence[float]) -> Any:  # → [pairs]
    """1 where `good` is higher, 1/2 where both are equal, else 0."""
    return (np.sign(np.subtract(good, bad)) + 1) / 2


def minimal_pairs_task(table: Table, rows: int) -> MinimalPairsTask:
    """The pairs of BLiMP, at most `rows` of them (0: all), equally many of each paradigm."""
    by_paradigm: dict[str, list[dict[str, Any]]] = {}
    for row in table.rows:
        by_paradigm.setdefault(row["subset"], []).append(row)
    if 0 < rows < len(by_paradigm):
        raise UserError(
            f"--rows {rows} is less than one pair of each of the {len(by_paradigm)} paradigms.",
            f"Use --rows {len(by_paradigm)} or more.",
        )
    each = rows // len(by_paradigm) if rows else len(table)
    chosen = [row for group in by_paradigm.values() for row in group[:each]]
    name = table.name if len(chosen) == len(table) else f"{table.name} ({len(chosen):,} rows of {len(table):,})"
    good, bad = zip(*(row["choices"] for row in chosen), strict=True)

    def predict(model: LanguageModel, progress: Progress) -> list[str | None]:
        pairs = list(zip(good, bad, strict=True))
        scores = sentence_log_probabilities(model, pairs, progress)
        return [None if g == b else pair[g < b] for pair, (g, b) in zip(pairs, scores, strict=True)]

    paradigm_of = tuple(row["subset"] for row in chosen)
    return MinimalPairsTask(name, HOW, "accuracy", list(good), predict, 0.5, (), bad, paradigm_of)


def find_training_corpus(run: str | Path, tokenizer: Tokenizer) -> Corpus | None:
    """The corpus that a run was pre-trained on; None for a model folder, or if the corpus is gone."""
    if not (Path(run) / RUN_CONFIG_FILE).exists():
        return None
    folder = runs.read_run_config(Path(run)).get("command", {}).get("corpus")
    try:
        corpus = Corpus.open(str(folder)) if folder else None
    except UserError:
        return None
    return corpus if corpus and corpus.tokenizer_fingerprint == tokenizer.fingerprint else None
