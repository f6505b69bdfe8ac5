"""User-facing errors: the problem and how to fix it. cli/exit.py prints them, without a traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from numbers import Integral

OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|not enough memory|failed to map segment|create a primitive$|_ALLOC_FAILED"
)
"""Messages of torch, the system, its library loader, oneDNN and cuBLAS when memory runs out."""


class GPT1Error(Exception):
    """Base class. `problem` names the value and the rule, `fix` says what to do.

    Both name settings as flags, as the command line prints them. Python users read `str(error)`, where `--label COLUMN`
    is `label=COLUMN`; the server names fields (see `name_settings`).
    """

    exit_code = 1

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}\n{fix}" if fix else problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return name_settings(super().__str__(), "{}=")


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


COMMAND = r"\b(?:(?:gpt1|pip|hf) [a-z]|torchrun -)[^)\n]*"
VALUE = r"'[^']*'|(?:[^\s;:)]|:(?=\S))*[^\s.,;:?)]"
FLAG = re.compile(rf"{COMMAND}|(?<![\w-])--(?P<no>no-)?(?P<name>[a-z][a-z0-9-]*[a-z0-9])(?: (?P<value>{VALUE}))?")
"""A command up to the end of its line, which stays as it is; or a flag, and what may be its value."""
SWITCHES = (
    *("overwrite", "resume", "score", "excel_safe", "activation_checkpointing", "compile", "head_first", "keep_head"),
    *("shared_context", "from_scratch", "deduplicate", "cache_features"),
)
VERBS = (
    "above also an and are as at below by can cannot contradict contradicts decides does exceeds exists for from goes "
    "has have if in instead is it keeps must names needs of on only or replaces requires says than that the then to "
    "trains uses was when where which with would"
)
AFTER_FLAG = frozenset(VERBS.split())
"""Words of a sentence that follow a flag and are not its value."""


def name_settings(text: str, bare: str) -> str:
    """A message with settings instead of flags: `--label COLUMN` as `label=COLUMN`, and without a value as `bare`."""

    def rename(match: re.Match[str]) -> str:
        if not match["name"]:
            return match[0]
        name, value = match["name"].replace("-", "_"), match["value"] or ""
        name = "from_" if name == "from" else name
        if value in AFTER_FLAG or re.match(r"$|[(-](?!\d)", value):
            named = f"{name}={not match['no']}" if match["no"] or name in SWITCHES else bare.format(name)
            return f"{named} {value}".rstrip()
        plain = re.fullmatch(r"[\d.,e+-]+|[A-Z]+", value) or value[0] in "'\""
        return f"{name}={value}" if plain else f'{name}="{value}"'

    return FLAG.sub(rename, text)


def require_path(value: object, what: str, fix: str) -> None:
    """UserError for an argument from Python that is neither text nor a path: a loaded model, a DataFrame, None."""
    if not isinstance(value, str | os.PathLike):
        given = "None" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{what} must be a path or a name, not {given}.", fix)


def require_count(value: object, name: str, minimum: int = 0, maximum: int | None = None) -> None:
    """UserError for an argument from Python that is not a whole number from `minimum` to `maximum`.

    `name` is the flag if a command has one.
    """
    if not isinstance(value, Integral) or value < minimum or (maximum is not None and not value <= maximum):
        rule = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        fix = f"Use {minimum} or more." if maximum is None else f"Use {minimum} to {maximum}."
        raise UserError(f"{name} {value!r} is not a whole number {rule}.", fix)


def require_list(value: object, name: str, example: str) -> None:
    """UserError for an argument from Python that is a single value instead of a list of values."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{name} {value!r} is not a list.", f"Use a list, such as {example}.")


DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no EDQUOT
FREE_SPACE = "Free some space, or write to another disk."
PATH_FIXES = {
    errno.EACCES: "Check its permissions, and those of its folders.",
    errno.EPERM: "Check its permissions, and those of its folders.",
    errno.EROFS: "Use a path on a disk that can be written.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file: check the path.",
    errno.EISDIR: "Use the path of a file in that folder.",
    errno.EEXIST: "Use another path.",
    errno.ENOTEMPTY: "Use another path.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ELOOP: "Remove the link, which points to itself.",
}
"""What helps against errors of the operating system that depend on the path."""


def os_error_reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def first_line(error: Exception, most: int = 300) -> str:
    """The first line of an error of a library, at most `most` characters; its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def did_you_mean(value: str, options: Iterable[str]) -> str:
    """` Did you mean X?` for the closest option, or an empty text. The leading space lets it follow a sentence."""
    closest = closest_name(value, options)
    return f" Did you mean {closest}?" if closest else ""


def closest_name(value: str, options: Iterable[str]) -> str:
    """The option that is most similar to `value`, or an empty text."""
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(value.lower(), lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else ""
