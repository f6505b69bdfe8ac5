"""Readers of untrusted files: names, sizes, types and depth are checked before anything is used.

Nothing here executes what it reads. Every problem is one `UserError` with the name of the file.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar

from gpt1.errors import PATH_FIXES, UserError

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file. Vocabularies of large models are below 20 MB."""
MAX_YAML_BYTES = 2**18
"""Largest YAML file. PyYAML takes a second for 100 KB."""
MAX_DEPTH = 32
"""Maximum nesting of lists and objects. gpt1's own files stay below ten."""
MAX_DIGITS = 40
"""Maximum digits of an integer: more than any count has, few enough for a float."""

SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that Git LFS has not downloaded yet."""
DAMAGED = "The file is damaged or was written by another program: copy it again."

T = TypeVar("T")


def check_name(name: Any, where: str | Path) -> str:
    """Check a name from the file `where` that is used as a path below that file's folder.

    Returns:
        The name: relative, POSIX, without `.`, `..`, drives, backslashes and control characters.

    Raises:
        UserError: for any other name.
    """
    parts = name.split("/") if isinstance(name, str) else []
    invalid = not parts or any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
    if invalid or any(ord(c) < 32 or ord(c) == 127 or c in '\\:<>|?*"' for c in name) or len(name) > 1024:
        raise UserError(f"{where} names a file that is not inside its folder: {str(name)[:80]!r}.", DAMAGED)
    return str(PurePosixPath(name))


def path_inside(folder: Path, name: Any, where: str | Path) -> Path:
    """The path of the file `name`, which the file `where` lists, below `folder`; UserError for a link out of it."""
    path = folder / check_name(name, where)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link out of its folder {folder}.", "Replace the link with the file itself.")
    return path


def check_regular(path: str | Path) -> int:
    """Size in bytes of a regular file. Reading a FIFO, socket or device could block or never end.

    Raises:
        UserError: for anything that exists and is not a regular file.
        OSError: if there is no file.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} is a folder, not a file.", "Use a file in it.")
    if not stat.S_ISREG(status.st_mode):
        kind = SPECIAL_FILES.get(stat.S_IFMT(status.st_mode), "a special file")
        raise UserError(f"{path} is {kind}, not a regular file.", "Save its content to a file and use that.")
    return status.st_size


def lfs_pointer_error(path: str | Path) -> UserError:
    problem = f"{path} is a Git LFS pointer: its content has not been downloaded."
    return UserError(problem, "Download it in its repository: git lfs pull")


def check_not_pointer(path: str | Path) -> None:
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise lfs_pointer_error(path)


def read_bounded(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most `max_bytes`.

    Raises:
        UserError: for a file that is missing, too large, not regular or not readable.
    """
    try:
        size = check_regular(path)
        if size > max_bytes:
            raise UserError(
                f"{path} has {size:,} bytes; the limit is {max_bytes:,}.", "Check that it is the right file."
            )
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        fix = PATH_FIXES.get(getattr(error, "errno", None) or 0, "Check the path.")
        raise UserError(f"{path} cannot be read: {reason.lower()}.", fix) from None
    if data.startswith(LFS_POINTER):
        raise lfs_pointer_error(path)
    if len(data) > max_bytes:
        raise UserError(f"{path} grew while it was read.", "Wait until the program that writes it has finished.")
    return data


def parse_json(
    data: str | bytes, where: str | Path, *, fix: str = DAMAGED, max_digits: int = MAX_DIGITS, allow_nan: bool = False
) -> Any:
    """Parse JSON within bounds: depth, digits of a number, no duplicate keys, finite numbers unless `allow_nan`.

    Args:
        data: Text, or UTF-8 bytes.
        where: Name of the file in messages.
        fix: The fix in messages.
        max_digits: Maximum digits of an integer.
        allow_nan: Allow NaN and infinite numbers.

    Raises:
        UserError: for anything else.
    """

    def refuse(problem: str) -> NoReturn:
        raise UserError(f"{where} cannot be read as JSON: {problem}.", fix)

    def integer(digits: str) -> int:
        if len(digits) > max_digits:
            refuse(f"an integer of {len(digits):,} digits")
        return int(digits)

    def number(text: str) -> float:
        value = float(text)
        if not allow_nan and not math.isfinite(value):
            refuse(f"the number {text[:20]} is too large")
        return value

    def constant(name: str) -> float:
        if not allow_nan:
            refuse(f"{name} is not a number in JSON")
        return float(name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            refuse(f"the key {short(find_repeated(key for key, _ in pairs))} is repeated")
        return found

    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(
            text, parse_int=integer, parse_float=number, parse_constant=constant, object_pairs_hook=unique
        )
        depth_at_most(value, MAX_DEPTH)
    except RecursionError:
        refuse(f"it is nested more than {MAX_DEPTH} deep")
    except UnicodeDecodeError as error:
        refuse(f"byte {error.start + 1:,} is not UTF-8")
    except json.JSONDecodeError as error:
        refuse(f"line {error.lineno}, column {error.colno}: {error.msg.lower()}")
    except ValueError as error:
        refuse(str(error))
    return value


def find_repeated(keys: Iterable[Any]) -> Any:
    """The first repeated key, or None."""
    seen = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def depth_at_most(value: Any, limit: int) -> None:
    """RecursionError for lists and objects nested deeper than `limit`. Iterative: the stack stays small."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RecursionError


def read_json_object(
    path: str | Path, *, max_bytes: int = MAX_JSON_BYTES, fix: str = DAMAGED, allow_nan: bool = False
) -> dict[str, Any]:
    """The object in a JSON file, within the bounds of `parse_json`."""
    content = parse_json(read_bounded(path, max_bytes), path, fix=fix, allow_nan=allow_nan)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.", fix)
    return content


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Settings from a YAML file: text keys with scalars, lists and mappings. No tags, anchors or aliases.

    Raises:
        UserError: naming the file and the line.
    """
    import yaml

    fix = "Use lines of the form  name: value"
    text = read_bounded(path, MAX_YAML_BYTES)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
            if anchor or tag:
                line = event.start_mark.line + 1 if event.start_mark else 1
                what = f"the {'alias or anchor' if anchor else 'tag'} {str(anchor or tag)[:40]}"
                raise UserError(f"{path}, line {line}: {what} is not allowed.", "Write the value itself.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
        content = yaml.load(text, Loader=settings_loader())
    except RecursionError:
        raise UserError(f"{path} is nested more than {MAX_DEPTH} deep.", fix) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as YAML: {reason}.", fix) from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} contains no settings.", fix)
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"{path}: {str(wrong[0])[:40]!r} is not the name of a setting.", fix)
    return content


def settings_loader() -> type[Any]:
    """PyYAML's safe loader without dates (2024-01-01 stays text), where a repeated key is an error."""
    import yaml

    class SettingsLoader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            key = find_repeated(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if key is not None:
                raise yaml.MarkedYAMLError(problem=f"the key {short(key)} is repeated", problem_mark=node.start_mark)
            return dict(super().construct_mapping(node, deep))

        def construct_yaml_int(self, node: Any) -> int:
            if len(node.value) > MAX_DIGITS:  # 0x and 1:00:00 forms have no limit of their own
                raise yaml.MarkedYAMLError(
                    problem=f"an integer of {len(node.value):,} digits", problem_mark=node.start_mark
                )
            return int(super().construct_yaml_int(node))

    SettingsLoader.add_constructor("tag:yaml.org,2002:int", SettingsLoader.construct_yaml_int)

    return SettingsLoader


class Fields:
    """Typed access to a mapping from the file `where`: a wrong type or a missing key is a UserError.

    >>> Fields({"tokens": 12}, "manifest.json").integer("tokens", low=0)
    12
    """

    def __init__(self, values: Any, where: str | Path, fix: str = DAMAGED) -> None:
        self.where, self.fix = str(where), fix
        if not isinstance(values, dict):
            self.refuse(f"expected an object, not {short(values)}")
        self.values: Mapping[str, Any] = values

    def refuse(self, problem: str) -> NoReturn:
        raise UserError(f"{self.where}: {problem}.", self.fix)

    def get(self, name: str, expected: str, accept: Callable[[Any], bool], default: Any = ...) -> Any:
        if name not in self.values:
            if default is ...:
                self.refuse(f"{name!r} is missing")
            return default
        value = self.values[name]
        if not accept(value):
            self.refuse(f"{name!r} must be {expected}, not {short(value)}")
        return value

    def integer(self, name: str, low: int = 0, high: int = 2**63 - 1, default: Any = ...) -> int:
        def accept(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        return self.get(name, f"an integer from {low} to {high}", accept, default)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf, default: Any = ...) -> float:
        def accept(value: Any) -> bool:
            real = isinstance(value, int | float) and not isinstance(value, bool)
            return real and math.isfinite(value) and low <= value <= high

        bounds = "" if (low, high) == (-math.inf, math.inf) else f" from {low} to {high}"
        return self.get(name, f"a number{bounds}", accept, default)

    def text(self, name: str, default: Any = ...) -> str:
        return self.get(name, "a text", lambda value: isinstance(value, str), default)

    def choice(self, name: str, options: tuple[str, ...], default: Any = ...) -> str:
        return self.get(name, "one of " + ", ".join(options), lambda value: value in options, default)

    def items(self, name: str, kind: type[T], default: Any = ...) -> list[T]:
        """A list with items of one type."""

        def accept(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, kind) for item in value)

        return self.get(name, f"a list of {kind.__name__}", accept, default)

    def object(self, name: str, default: Any = ...) -> Fields:
        return Fields(self.get(name, "an object", lambda value: isinstance(value, dict), default), self.where, self.fix)


def short(value: Any) -> str:
    """An untrusted value, shortened for a message."""
    value = value[:40] if isinstance(value, str) else value
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."
