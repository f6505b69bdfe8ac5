"""ARCHITECTURE.md names every file, and imports lead down its list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read_file_list() -> dict[str, int]:
    """The line of each file or folder of the package in ARCHITECTURE.md's list."""
    found: dict[str, int] = {}
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for number, cell in enumerate(re.findall(r"^\| [^|`]*\| (`[^|]+) \|", page, re.MULTILINE)):
        folder = ""  # `training/optimizers.py`, `schedules.py`: the second lies in the first one's folder
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] + "/" if "/" in name else folder
            found[name if "/" in name else folder + name] = number
    return found


def imports(path: Path) -> Iterator[str]:
    """The files of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "gpt1":
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("gpt1.")]
        else:
            continue
        for name in names:
            yield from (f for end in (".py", "/__init__.py") if (ROOT / (f := name.replace(".", "/") + end)).exists())


def test_architecture_names_every_file_and_imports_lead_down_its_list():
    lines = read_file_list()
    assert all((ROOT / "gpt1" / name).exists() for name in lines)

    def line(file: str) -> int:
        found = [at for name, at in lines.items() if file == name or (name.endswith("/") and file.startswith(name))]
        assert len(found) == 1, f"gpt1/{file} stands on {len(found)} lines of ARCHITECTURE.md"
        return found[0]

    package = ROOT / "gpt1"
    files = [path for path in package.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    files += [path for path in package.glob("*/__init__.py") if path.read_text("utf-8").strip()]
    known = {path.relative_to(ROOT).as_posix() for path in files}
    for path in files:
        own = path.relative_to(package).as_posix()
        for other in known.intersection(imports(path)):
            if (own, other) == ("model/gpt.py", "gpt1/generation/decoding.py"):  # GPT.generate, a public name
                continue
            assert line(own) <= line(other.removeprefix("gpt1/")), f"gpt1/{own} imports {other}, which stands above it"
