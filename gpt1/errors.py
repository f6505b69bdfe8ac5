"""User-facing errors: the problem and how to fix it. cli/exit.py prints them, without a traceback."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|not enough memory|failed to map segment|create a primitive$|_ALLOC_FAILED"
)
"""Messages of torch, the system, its library loader, oneDNN and cuBLAS when memory runs out."""


class GPT1Error(Exception):
    """Base class. `problem` names the value and the rule, `fix` says what to do."""

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}\n{fix}" if fix else problem)
        self.problem = problem
        self.fix = fix


class UserError(GPT1Error):
    """An error that the user can fix: a missing file, an unknown column, an invalid setting."""

    exit_code = 2


class ResourceError(GPT1Error):
    """Out of memory or disk space."""

    exit_code = 1


class Interrupted(GPT1Error):
    """Ctrl-C or SIGTERM; `fix` says how to resume."""

    exit_code = 130


class Diverged(GPT1Error):
    """Training gives NaN or infinite values. All processes raise it at the same step."""

    exit_code = 1


PATH_FIXES = {
    errno.EACCES: "Check its permissions, and those of its folders.",
    errno.EPERM: "Check its permissions, and those of its folders.",
    errno.EROFS: "Use a path on a disk that can be written.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file: check the path.",
    errno.EISDIR: "Use the name of a file in it.",
    errno.EEXIST: "Use another path.",
    errno.ENOTEMPTY: "Use another path.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ELOOP: "Remove the link that leads to itself.",
}
"""What helps against errors of the operating system that depend on the path."""


def os_error_reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """` Did you mean X?` for the closest option, or an empty text. The leading space lets it follow a sentence."""
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(value.lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]}?" if close else ""
