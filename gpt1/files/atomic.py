"""Atomic writes: a file or a folder appears complete, or not at all."""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gpt1.errors import DISK_FULL, FREE_SPACE, PATH_FIXES, ResourceError, UserError, os_error_reason
from gpt1.formatting import printable_json

STALE_SECONDS = 86_400
"""Age at which temporary files without a lock belong to a process that was killed."""


def ensure_writable(path: str | Path) -> None:
    """UserError unless `path` can be created. Check before the work: at its end the error comes too late."""
    parent = Path(path).absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"{path} cannot be created: {parent} is a file.", "Choose another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be created: {parent} is not writable.", "Choose another path.")


def ensure_exists(run: Path) -> None:
    """UserError if the run folder was deleted during the run: writing would restore it with half of its files."""
    if not run.is_dir():
        raise UserError(
            f"the run folder {run} no longer exists: it was moved or deleted during the run.",
            "Move it back and use --resume, or start a new run.",
        )


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that becomes `path` at the end, atomically.

    After an error `path` is unchanged. The next writer removes temporary files of killed processes.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
            remove_unlocked(stale)
        temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                lock_file(file)
                yield file
                fsync_file(file)
            temporary.replace(path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a file atomically, in UTF-8."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", errors))


def atomic_write_json(path: Path, content: Mapping[str, Any]) -> None:
    r"""Write a JSON file atomically, in UTF-8; what has no UTF-8 form, as bytes of a file name may, as \uXXXX."""
    atomic_write_text(path, printable_json(json.dumps(content, indent=2, ensure_ascii=False)) + "\n")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """As `atomic_file`, for a library that opens the file itself: a temporary path for it to write.

    Such a file has no lock. The next writer removes temporary files of killed processes when they are a day old.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, f".{glob.escape(path.name)}.*.tmp")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                fsync_file(file)
            temporary.replace(path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, pattern: str) -> None:
    """Delete the files of `folder` with names like `pattern` that were not changed for STALE_SECONDS."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process deletes it as well
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


@contextmanager
def atomic_dir(path: Path, *, replace: bool = False, name: str | Path = "") -> Iterator[Path]:
    """A folder to fill that becomes `path` at the end, atomically.

    After an error it is deleted; after a kill the next writer of the same `path` deletes it. Its files are synced to
    disk before the rename.

    Args:
        path: The final path. It must not exist or be an empty folder, unless `replace` is set.
        replace: Remove `path` just before the new folder replaces it.
        name: Name in messages, for example `--out runs/a`; by default `path`.

    Raises:
        UserError: if another process is writing the same folder, or the one that would be replaced.
    """
    folder = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_dir(folder, name or path):
            try:
                for entry in folder.iterdir():  # left by a process that was killed
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                yield folder
                for inner in (folder, *(entry for entry in folder.rglob("*") if entry.is_dir())):
                    fsync_dir_content(inner)
                if replace and path.exists():
                    delete_folder(path)
                elif path.exists():
                    path.rmdir()
                folder.rename(path)
                fsync_dir(path.parent)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise


def delete_folder(folder: Path) -> None:
    """Delete a folder that no process is writing; after a kill, what is left has another name."""
    with disk_errors(folder), lock_dir(folder):
        renamed = folder.with_name(f".{folder.name}.deleted-{os.getpid()}")
        folder.rename(renamed)
        shutil.rmtree(renamed)


def lock_file(file: IO[bytes]) -> None:
    """Lock an open file as being written; the system releases the lock however the process ends."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_unlocked(path: Path) -> None:
    """Delete a temporary file unless a process is writing it."""
    with suppress(ImportError, OSError):
        import fcntl

        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


@contextmanager
def lock_dir(folder: Path, name: str | Path = "") -> Iterator[None]:
    """Lock `folder` for this process; UserError (which calls it `name`) if another process has locked it.

    The system releases the lock however the process ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where files of a running process cannot be deleted anyway
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())
        except BlockingIOError:
            locked = False
        except OSError:  # a file system without locks, such as some network folders
            locked = True
        if not locked:  # also if the folder was renamed to its final name in between
            raise UserError(f"{name or folder} is being written by another process.", "Wait until it ends.")
        yield
    finally:
        os.close(handle)


def is_being_written(folder: Path) -> bool:
    """Whether another process holds the lock of `folder`, as a run does while it trains."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn errors of the file system into ResourceError and UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"{path} could not be written: the disk is full.", FREE_SPACE) from error
        if error.errno in PATH_FIXES and is_output_error(error, Path(path)):
            problem = f"{path} cannot be written: {os_error_reason(error)}."
            raise UserError(problem, PATH_FIXES[error.errno]) from error
        raise


def is_output_error(error: OSError, path: Path) -> bool:
    """Whether an error is about `path`, its temporary files or its folder, and not about an input that was read."""
    if not isinstance(error.filename, str | os.PathLike):
        return True
    other, own = Path(os.path.abspath(error.filename)), Path(os.path.abspath(path))
    parts = (other, *other.parents)
    temporary = any(part.parent == own.parent and part.name.startswith(f".{own.name}.") for part in parts)
    return temporary or other.is_relative_to(own) or own.is_relative_to(other)


def fsync_file(file: IO[bytes]) -> None:
    """Write everything in `file` through to the disk."""
    file.flush()
    os.fsync(file.fileno())


def fsync_dir_content(folder: Path) -> None:
    """Write the files in `folder` and their names through to the disk: a rename must not precede the content."""
    for path in folder.iterdir():
        if path.is_file():
            with open(path, "rb+") as file:
                fsync_file(file)
    fsync_dir(folder)


def fsync_dir(folder: Path) -> None:
    """Write the names in `folder` through to the disk. Windows cannot open folders and does not need it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
