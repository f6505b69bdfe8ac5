"""Writing: a file or a folder appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gpt1.errors import ResourceError, UserError


def ensure_writable(path: str | Path) -> None:
    """UserError unless something can be made at `path`. Asked before the work: at its end the answer comes too late."""
    above = Path(path).absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise UserError(f"{path} cannot be made: {above} is a file.", "Choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be made: {above} may not be written to.", "Choose another place.")


def ensure_exists(run: Path) -> None:
    """UserError where the run folder was deleted during the work: it must not come back with half of its files."""
    if not run.is_dir():
        raise UserError(
            f"the run folder {run} does not exist any more: it was moved or deleted during the run.",
            "Move it back and use --resume, or start a new run.",
        )


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into that becomes `path` at the end, all at once.

    After an error `path` is as it was before. What a killed process left beside it is removed by the next writer.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{glob_escape(path.name)}.partial-*"):
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


@contextmanager
def atomic_dir(path: Path, *, replace: bool = False, name: str | Path = "") -> Iterator[Path]:
    """A folder to fill that becomes `path` at the end, all at once.

    After an error it is deleted; after a kill the next writer of the same `path` deletes it. Its files are on the disk
    before they get their final name.

    Args:
        path: The final place. It must be free or an empty folder, unless `replace` is set.
        replace: Remove what lies at `path` just before the new folder takes its place.
        name: How messages call it, for example `--out runs/a`; by default `path`.

    Raises:
        UserError: where another process is writing the same folder.
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
                    shutil.rmtree(path)
                elif path.exists():
                    path.rmdir()
                folder.rename(path)
                fsync_dir(path.parent)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise


def glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def lock_file(file: IO[bytes]) -> None:
    """Mark an open file as being written; the system removes the mark when the process ends, however that happens."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_unlocked(path: Path) -> None:
    """Delete a temporary file that no process is writing any more."""
    with suppress(ImportError, OSError):
        import fcntl

        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


@contextmanager
def lock_dir(folder: Path, named: str | Path = "") -> Iterator[None]:
    """Holds `folder` for this process; UserError, with the name that the user gave it, where another one does. The
    system lets go of it when the process ends, however that happens."""
    try:
        import fcntl
    except ImportError:  # Windows, where the files of a living process cannot be deleted anyway
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())
        except BlockingIOError:
            mine = False
        except OSError:  # a file system without locks, as some network folders
            mine = True
        if not mine:  # also where the folder was given its final name between the two calls
            raise UserError(f"{named or folder} is being written by another process.", "Wait for it to end.")
        yield
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Errors of the file system as one line with the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise ResourceError(
                f"{path} could not be written: the disk is full.", "Free some space, or write to another disk."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or error.errno == errno.EROFS:
            raise UserError(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error
        raise


def fsync_file(file: IO[bytes]) -> None:
    """Everything written to `file` is on the disk when this returns."""
    file.flush()
    os.fsync(file.fileno())


def fsync_dir_content(folder: Path) -> None:
    """The files in `folder` and their names are on the disk when this returns: a rename never outruns its bytes."""
    for path in folder.iterdir():
        if path.is_file():
            with open(path, "rb+") as file:
                fsync_file(file)
    fsync_dir(folder)


def fsync_dir(folder: Path) -> None:
    """The names in `folder` are on the disk when this returns. Windows cannot open folders and has no need to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
