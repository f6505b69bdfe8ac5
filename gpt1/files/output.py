"""The folder that a command writes: where it may be, and what --overwrite may replace."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from gpt1.errors import UserError, require_path
from gpt1.files.atomic import ensure_writable, is_being_written
from gpt1.files.foreign import read_json_object
from gpt1.files.names import DOCUMENTS_FILE, MANIFEST, RUN_CONFIG_FILE

FolderKind = Literal["run", "corpus", "model"]
OTHER_OUT = "Choose another --out."


def check_new_folder(
    out: str | Path,
    overwrite: bool = False,
    inputs: Iterable[object] = (),
    name: str = "",
    writes: FolderKind = "run",
) -> Path:
    """`out`, if it is free or empty, except for leftovers of a process that was killed while it created a run.

    Args:
        out: The folder.
        overwrite: It may also be a folder of the kind `writes` that gpt1 wrote and that holds none of the `inputs`.
        inputs: What the command reads.
        name: What it is called in messages, for example `--out runs/a`; by default its path.
        writes: What the command writes. A corpus and a model are written next to the folder and then renamed.
    """
    require_path(out, "--out", "Use the path of a new folder.")
    folder = Path(out)
    shown = name or str(folder)
    if folder.is_file():
        raise UserError(f"{shown} is a file, not a folder.", OTHER_OUT)
    if writes != "run":
        check_can_be_renamed(folder, shown)
    is_empty = not folder.is_dir() or all(map(is_leftover, folder.iterdir()))
    if not is_empty and not overwrite:
        resume = " To resume that run: --resume." if (folder / RUN_CONFIG_FILE).exists() else ""
        fix = f"Choose another --out, or replace it with --overwrite.{resume}"
        raise UserError(f"{shown} exists and is not empty.", fix)
    if not is_empty:
        check_replaceable(folder, inputs, writes)
        check_can_be_renamed(folder, shown)
    ensure_writable(folder)
    return folder


def is_leftover(path: Path) -> bool:
    return path.name.startswith(f".{RUN_CONFIG_FILE}.partial-")


def check_can_be_renamed(folder: Path, shown: str) -> None:
    """UserError for a folder that another one cannot replace, before the work that would be lost at its end."""
    if os.path.ismount(folder):
        reason = "a mounted volume"
    elif folder.is_symlink():
        reason = "a link"
    elif Path().resolve().is_relative_to(folder.resolve()):
        reason = "the current directory, or contains it"
    else:
        return
    raise UserError(f"{shown} is {reason}: a new folder cannot replace it.", f"Use a folder in it: {folder / 'NAME'}")


def check_replaceable(folder: Path, inputs: Iterable[object] = (), writes: FolderKind = "run") -> None:
    """UserError unless --overwrite may delete `folder`.

    gpt1 wrote it, as a folder of the same kind, no process is writing it, and it holds none of the command's `inputs`.
    """
    if (kind := written_kind(folder)) is None:
        problem = f"--overwrite replaces only what gpt1 wrote, and {folder} is not a run, a model or a corpus."
        raise UserError(problem, OTHER_OUT)
    if kind != writes:
        problem = f"{folder} is a {kind}, and --overwrite of this command replaces only a {writes}."
        raise UserError(problem, "Choose another --out, or delete that folder first.")
    for path in inputs:
        if (
            isinstance(path, str | Path)
            and os.path.exists(path)
            and Path(path).resolve().is_relative_to(folder.resolve())
        ):
            raise UserError(f"--overwrite would delete {path}, which the command reads.", OTHER_OUT)
    if is_being_written(folder):
        raise UserError(f"{folder} is being written by another process.", "Wait until it ends.")


def written_kind(folder: Path) -> FolderKind | None:
    """What gpt1 wrote into a folder; None if it is not gpt1's."""
    config, manifest = folder / RUN_CONFIG_FILE, folder / MANIFEST
    if config.is_file() and config.read_bytes()[:20].startswith((b"stage: pretrain", b"stage: finetune")):
        return "run"
    if not manifest.is_file():
        return None
    if (folder / DOCUMENTS_FILE).is_file():
        return "corpus"
    return "model" if str(read_json_object(manifest).get("format")).startswith("gpt1-model") else None
