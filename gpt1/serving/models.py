"""The models of a server by name, each with an engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError, did_you_mean
from gpt1.files.names import MODEL_CONFIG_FILE, RUN_CONFIG_FILE
from gpt1.inference.predictor import LanguageModel, TaskPredictor, load
from gpt1.runs.nearby import list_models
from gpt1.serving.engine import Engine
from gpt1.serving.errors import ApiError
from gpt1.serving.metrics import Metrics
from gpt1.serving.model_thread import ModelThread
from gpt1.serving.settings import ServeConfig

OWNER = "gpt1"


@dataclass(eq=False)
class ServedModel:
    """A model of the server."""

    name: str
    folder: Path
    engine: Engine | None = None
    loading: asyncio.Task[None] | None = None
    """Goes on if the client that asked first leaves: the next one waits for the same model, not for a second copy."""

    @property
    def created(self) -> int:
        """When its folder was written, in seconds; 0 for a model that is named without its folder."""
        return int(self.folder.stat().st_mtime) if self.folder.exists() else 0

    def info(self) -> dict[str, Any]:
        """OpenAI's description of a model, and what a client needs to know about it."""
        known = {"id": self.name, "object": "model", "created": self.created, "owned_by": OWNER}
        details = model_capabilities(self.engine.model) if self.engine else None
        return known | {"loaded": self.engine is not None, "details": details}


def model_capabilities(model: LanguageModel) -> dict[str, Any]:
    config = model.gpt.config
    found: dict[str, Any] = {
        "parameters": config.n_parameters,
        "architecture": config.architecture,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "context": config.context,
        "vocab_size": config.vocab_size,
        "pipeline": model.tokenizer.pipeline,
        "task": None,
    }
    if isinstance(model, TaskPredictor):
        thresholds = getattr(model.target, "label_thresholds", None)  # of rows that may have several labels
        found["task"] = {
            "kind": model.kind.name,
            "columns": model.text_columns,
            "labels": model.labels,
            "thresholds": thresholds,
        }
    return found


class ServedModels:
    """The models by name. Those of a folder of runs are loaded on first use.

    Args:
        runs: Run folders, model folders, folders of runs, `starter`, and names on the Hugging Face hub.
        config: The settings.
        metrics: Counts the steps of the models.
        verify: Compare the files with their SHA-256.
        log: Receives a line of JSON for a model that cannot be loaded: why, which clients do not get to know.

    Raises:
        UserError: A folder holds no model, or two models have the same name.
    """

    def __init__(
        self,
        runs: Sequence[str | Path],
        config: ServeConfig,
        metrics: Metrics,
        verify: bool = True,
        log: Callable[[str], None] = print,
    ) -> None:
        self.config, self.metrics, self.verify, self.log = config, metrics, verify, log
        self.thread = ModelThread()
        self.models: dict[str, ServedModel] = {}
        self._loading = asyncio.Lock()
        for run in runs:
            folder = Path(run)
            members = find_models_in(folder)
            for member in members:
                self.add(ServedModel(member.name, member))
            if not members:
                served = ServedModel(folder.resolve().name if folder.exists() else str(run), folder)
                self.add(served)
                served.engine = self.load(served)

    def add(self, served: ServedModel) -> None:
        if served.name in self.models:
            first = self.models[served.name].folder
            problem = f"{first} and {served.folder} have the same name, '{served.name}'."
            raise UserError(problem, "Rename one of the folders.")
        self.models[served.name] = served

    def load(self, served: ServedModel) -> Engine:
        config = self.config
        model = load(served.folder, config.device, config.precision, self.verify)
        engine = Engine(
            model,
            max_batch=config.max_batch,
            step_tokens=config.step_tokens,
            max_queue=config.max_queue,
            thread=self.thread,
            observe=self.metrics.observer(served.name),
        )
        self.metrics.watch_queue(served.name, engine)
        model.tokenizer.encode("the first call loads the language data")
        return engine

    async def get(self, name: str | None) -> tuple[str, Engine]:
        """(name, engine) of a model; by default the first.

        Raises:
            ApiError: 404 for an unknown model, 503 for one that cannot be loaded.
        """
        served = self.models.get(name) if name else next(iter(self.models.values()))
        if served is None:
            hint = did_you_mean(str(name), self.models)
            raise ApiError(404, f"there is no model '{str(name)[:80]}'.{hint}", "model_not_found", "model")
        if served.engine is None:
            if served.loading is None:
                served.loading = asyncio.create_task(self.load_on_demand(served))
                served.loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # all may have left
            await asyncio.shield(served.loading)
        assert served.engine
        return served.name, served.engine

    async def load_on_demand(self, served: ServedModel) -> None:
        try:
            async with self._loading:
                served.engine = await asyncio.to_thread(self.load, served)
        except UserError as error:  # of the operator's, not of the client's
            self.log(json.dumps({"model": served.name, "problem": error.problem, "fix": error.fix}))
            raise ApiError(
                503, f"{served.name} cannot be loaded; the log says why.", "model_unavailable", "model"
            ) from None
        finally:
            served.loading = None

    def close(self) -> None:
        """End the threads."""
        self.thread.close()
        for served in self.models.values():
            if served.engine:
                served.engine.close()


def find_models_in(folder: Path) -> list[Path]:
    """The finished runs and model folders in a folder of runs; none if it is itself a run or a model folder."""
    if (folder / RUN_CONFIG_FILE).exists() or (folder / MODEL_CONFIG_FILE).exists() or not folder.is_dir():
        return []
    found = list_models(folder)
    if not found and any(path.is_dir() for path in folder.iterdir()):
        raise UserError(f"{folder} has no finished run.", "Use a run folder, a model folder, or a folder of runs.")
    return found
