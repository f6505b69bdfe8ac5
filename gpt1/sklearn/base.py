"""Base classes of the estimators: a model held by value, and fine-tuning on rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gpt1.console import Console
from gpt1.errors import Interrupted, UserError, require_path
from gpt1.files.atomic import atomic_dir
from gpt1.files.output import check_new_folder
from gpt1.inference.predictor import load
from gpt1.runs.folder import find_model_folder
from gpt1.sklearn.inputs import check_column_order, text_rows, training_column_names
from gpt1.tables.table import Table

WEIGHT = "gpt1 weight"
NEW_FOLDER = "Use the path of a new or empty folder."
SETTINGS = ("epochs", "train", "peak_lr", "batch_size", "long", "valid_fraction", "device", "precision")
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".bpe", ".npy")
"""Files of a model folder, ours or a foreign one, that are read; other formats of the same weights are not kept."""


class ModelHolder(BaseEstimator):
    """A model held by value: the files of its folder. The loaded model is not part of a pickle."""

    def _keep_model(self, folder: Path) -> None:
        files = [file for file in sorted(folder.iterdir()) if file.suffix in MODEL_SUFFIXES and file.is_file()]
        self.model_files_ = {file.name: file.read_bytes() for file in files}
        self._loaded = self._load()

    def _load(self) -> Any:
        with tempfile.TemporaryDirectory(prefix="gpt1-") as name:
            for file, content in self.model_files_.items():
                (Path(name) / file).write_bytes(content)
            return load(name, self.device, "fp32" if self.precision == "auto" else self.precision, verify=False)

    @property
    def model_(self) -> Any:
        """The model, as `gpt1.load` returns it: `explain`, `features`, `score`, … ."""
        check_is_fitted(self, "model_files_")
        if "_loaded" not in self.__dict__:  # after unpickling
            self._loaded = self._load()
        return self._loaded

    def save(self, folder: str | Path) -> Path:
        """Write the model as a new model folder, for `gpt1.load` and the commands."""
        check_is_fitted(self, "model_files_")
        require_path(folder, "the folder", NEW_FOLDER)
        if Path(folder).is_file() or (Path(folder).is_dir() and any(Path(folder).iterdir())):
            raise UserError(f"{folder} exists.", NEW_FOLDER)
        path = check_new_folder(folder, writes="model")
        with atomic_dir(path) as temporary:
            for file, content in self.model_files_.items():
                (temporary / file).write_bytes(content)
        return path

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class FineTunedEstimator(ModelHolder):
    """Base class of the estimators that fine-tune a model.

    Args:
        pretrained: The pre-trained model: a run or model folder, or another name that `gpt1 finetune --from` takes.
        epochs: Passes over the training rows; None: by their number, as in `gpt1 finetune`.
        train: `all` weights, only the `head`, or `last:K` blocks and the head.
        peak_lr: Learning rate after warm-up; None: by the width of the model.
        batch_size: Rows per step; None: by their number.
        long: Texts longer than the context: `cut`, `head-tail` or `windows`.
        valid_fraction: Share of the rows that chooses the best epoch and calibrates the probabilities.
        device: `auto`, `cpu`, `cuda`, …
        precision: `auto`, `fp32` or `bf16`, of training; predictions are in fp32 unless this is `bf16`.
        random_state: Seed of the head, the order of the rows, dropout and the validation split.
        settings: Further settings of `gpt1 finetune`, by name.
        verbose: Print the progress.
    """

    pretrained: Any = field(default="starter", kw_only=False)
    epochs: float | None = None
    train: str = "all"
    peak_lr: float | None = None
    batch_size: int | None = None
    long: str = "cut"
    valid_fraction: float = 0.1
    device: str = "auto"
    precision: str = "auto"
    random_state: Any = None
    settings: Mapping[str, Any] | None = None
    verbose: bool = False

    def pretrain(
        self, texts: Sequence[str], out: str | Path | None = None, *, vocab_size: int = 8000, **settings: Any
    ) -> Any:
        """Pre-train a model on texts, from which `fit` then starts: stage 1 of the paper.

        Args:
            texts: Unlabeled texts, the more the better.
            out: Folder for the run; by default a new temporary one, which stays until you remove it.
            vocab_size: Tokens of the new vocabulary.
            **settings: Settings of `gpt1 pretrain`, such as `model="tiny"` and `epochs=2`.

        Returns:
            The estimator, whose `pretrained` is now the run folder.
        """
        from gpt1.corpus.tokenize import tokenize
        from gpt1.training.pretrain import pretrain

        progress = Console() if self.verbose else None
        run = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="gpt1-pretrained-")) / "run"
        with tempfile.TemporaryDirectory(prefix="gpt1-") as name:
            lines = "".join(json.dumps({"text": text}) + "\n" for text in text_rows(texts, 1)[:, 0])
            (Path(name) / "texts.jsonl").write_text(lines, encoding="utf-8")
            corpus = Path(name) / "corpus"
            # One process: more would import the user's script again, which without a main guard starts them anew.
            tokenize([str(Path(name) / "texts.jsonl")], out=corpus, vocab_size=vocab_size, workers=1, progress=progress)
            pretrain(corpus, out=run, device=self.device, precision=self.precision, progress=progress, **settings)
        self.pretrained = str(run)
        return self

    def _roles(self) -> tuple[str, ...]:
        """The roles of the columns of X in the kind of task, in order."""
        return ("text",)

    def _finetune(self, rows: Table, kind: str, weights: NDArray[Any], **how: Any) -> None:
        """Fine-tune on rows, of which those with weight 0 are left out, and keep the model.

        The columns of the table are those of `_roles`, then that of the labels.
        """
        from gpt1.training.finetune import finetune

        if not weights.any():
            raise ValueError("all sample weights are 0: there is nothing to learn.")
        kept = rows.select(np.flatnonzero(weights).tolist())
        weighted = [{**row, WEIGHT: w} for row, w in zip(kept.rows, weights[weights > 0].tolist(), strict=True)]
        if weights.min() < weights.max():
            how["weight"] = WEIGHT
        for name in self.settings or {}:
            if name in {"out", "from_", "kind", "progress", "resume", "label", "weight", *self._roles()}:
                raise ValueError(f"settings has {name!r}, which the estimator sets itself. Remove it.")
        chosen = {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = {
            "deduplicate": False,
            "checkpoint_every": 0,
            "baselines": False,
            **chosen,
            **how,
            "seed": seed,
            **(self.settings or {}),
        }
        with tempfile.TemporaryDirectory(prefix="gpt1-") as name:
            try:
                run = finetune(
                    replace(kept, columns=[*rows.columns, WEIGHT], rows=weighted),
                    from_=self.pretrained,
                    out=Path(name) / "run",
                    kind=kind,
                    progress=Console() if self.verbose else None,
                    **{**dict(zip((*self._roles(), "label"), rows.columns, strict=True)), **settings},
                )
            except Interrupted:  # an Exception, after which a search fits its next model; and the run is deleted
                raise KeyboardInterrupt from None
            self._keep_model(find_model_folder(run))

    def _rows(self, X: Any) -> list[dict[str, Any]]:
        """X as rows for the model, with the names that the columns had in training."""
        names = [self.model_.task["columns"][role] for role in self._roles()]
        check_column_order(X, names)
        return [dict(zip(names, row, strict=True)) for row in text_rows(X, len(names)).tolist()]

    def _training_table(self, X: Any, y: Any, texts: NDArray[np.object_], labels: Sequence[Any]) -> Table:
        """`texts` and `labels` of X and y, under the names that X and y have if they are DataFrames or Series."""
        names = training_column_names(X, y, self._roles())
        rows = [dict(zip(names, (*row, label), strict=True)) for row, label in zip(texts, labels, strict=True)]
        return Table("X", names, rows, unit="position")
