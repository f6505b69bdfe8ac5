"""The errors that a user can mend: the value, the rule, the fix. ending.py prints them, without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|not enough memory|failed to map segment|create a primitive$|_ALLOC_FAILED"
)
"""What torch, the system, its loader (of a library), oneDNN and cuBLAS say where memory does not suffice."""


class GPT1Error(Exception):
    """Anything that gpt1 refuses. `problem` names the value and the rule, `fix` the way out."""

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}\n{fix}" if fix else problem)
        self.problem = problem
        self.fix = fix


class UserError(GPT1Error):
    """Something that the user can mend: a missing file, a column that is not there, an impossible setting."""

    exit_code = 2


class ResourceError(GPT1Error):
    """The machine is at its limit (memory, disk): one line with the way out."""

    exit_code = 1


class Interrupted(GPT1Error):
    """Ctrl-C or SIGTERM after the state was saved; `fix` says how to go on."""

    exit_code = 130


class Diverged(GPT1Error):
    """Training gives NaN or infinite values. Of several processes all raise it, at the same step."""

    exit_code = 1


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """` Did you mean X?` for the closest option, or nothing. The leading space lets it follow a sentence."""
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(value.lower(), lowered, n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]}?" if close else ""
