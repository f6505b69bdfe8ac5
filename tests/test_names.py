"""Names of the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import gpt1

PACKAGE = Path(gpt1.__file__).parent


def test_every_class_name_is_used_once_in_the_package():
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    repeated = [f"class {name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1]
    assert not repeated, "rename all but one of each:\n" + "\n".join(repeated)
