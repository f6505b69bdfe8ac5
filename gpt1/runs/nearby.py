"""The models of a folder of runs, and those of the current directory."""

from __future__ import annotations

from pathlib import Path

from gpt1.files.names import MODEL_CONFIG_FILE
from gpt1.runs.folder import STARTER, has_starter, is_finished

MAX_LISTED_MODELS = 8


def list_models(folder: Path) -> list[Path]:
    """The finished runs and the model folders in `folder`, by name."""
    return [path for path in sorted(folder.iterdir()) if is_model(path)] if folder.is_dir() else []


def is_model(path: Path) -> bool:
    """Whether it is a finished run or a model folder; False if it may not be read, as lost+found of a volume."""
    try:
        return path.is_dir() and (is_finished(path) or (path / MODEL_CONFIG_FILE).exists())
    except PermissionError:
        return False


def describe_models_here() -> str:
    """The models in the current directory and in runs/, and `starter`; for a message about a missing RUN."""
    found = [str(path) for folder in (Path("runs"), Path()) for path in list_models(folder)]
    more = [f"{len(found) - MAX_LISTED_MODELS} more"] if len(found) > MAX_LISTED_MODELS else []
    return ", ".join([*found[:MAX_LISTED_MODELS], *more, *([STARTER] if has_starter() else [])])
