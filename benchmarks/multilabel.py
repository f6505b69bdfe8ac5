"""Several labels for one text: which errors does a function raise, judged by its docstring?

The table comes from this Python's own library and packages: the docstring of each function that raises a built-in
error, with the names of these errors. Most raise ValueError, few MemoryError. The same rows are learned in two ways:
`--kind multilabel`, and classification with one class for each set of labels (the plain loss). Both start from
`starter`. The thresholds of `multilabel` come from the validation rows, as in every run.
"""

from __future__ import annotations

import ast
import builtins
import random
import sysconfig
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.imbalance import mean_and_spread, quick_model
from benchmarks.measure import BenchmarkResult, ResultTable
from gpt1.tables.table import Table

ROUNDS = 3  # seeds
LABELS, MIN_CHARACTERS, MAX_CHARACTERS, SEPARATOR = 8, 60, 240, "|"
COLUMNS = ["docstring", "raises"]


class Sizes(NamedTuple):
    """Rows of each part."""

    train: int
    valid: int
    test: int


FULL, QUICK = Sizes(1000, 500, 2000), Sizes(200, 100, 100)


def run(rounds: int, quick: bool) -> BenchmarkResult:
    rows, sizes = (quick_rows(), QUICK) if quick else (read_rows(), FULL)
    counts = Counter(label for row in rows for label in row["raises"].split(SEPARATOR))
    found: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="gpt1-") as folder:
        texts = [{"sentence": row["docstring"], "label": ""} for row in rows]
        model = quick_model(Path(folder) / "model", texts) if quick else "starter"
        for seed in range(rounds):
            random.Random(seed).shuffle(rows)
            bounds = np.cumsum([0, *sizes])
            parts = [
                Table(name, COLUMNS, rows[a:b]) for name, a, b in zip(Sizes._fields, bounds, bounds[1:], strict=False)
            ]
            found.append(compare_ways(parts, model, Path(folder) / str(seed), sorted(counts), quick))
    share = ", ".join(f"{name} {count / len(rows):.1%}" for name, count in counts.most_common())
    title = f"{rounds} seeds; rows {'/'.join(map(str, sizes))} of {len(rows):,} (train/validation/test): {share}"
    columns = ["", *(f"{name} F1" for name in ("macro", "micro")), "all labels of a row right"]
    table = [[way, *(mean_and_spread([f[way][m] for f in found]) for m in found[0][way])] for way in found[0]]
    gain = [f["multilabel, thresholds"]["macro"] - f["plain loss, a class for each set"]["macro"] for f in found]
    table.append(["multilabel, thresholds, minus plain loss", mean_and_spread(gain, "+"), "", ""])
    return BenchmarkResult([ResultTable(title, columns, table)], {}, {"the same rows for all": True})


def compare_ways(
    parts: Sequence[Table], model: str | Path, out: Path, labels: Sequence[str], quick: bool
) -> dict[str, dict[str, float]]:
    """F1 on the test rows, for each way."""
    from gpt1 import finetune, load

    settings: dict[str, Any] = {"epochs": 1} if quick else {}
    train, valid, test = parts
    predictors: dict[str, Any] = {}
    seen = {row["raises"] for row in train.rows}
    known = Table(valid.name, COLUMNS, [row for row in valid.rows if row["raises"] in seen])  # other sets have no class
    for kind, checked in (("classification", known), ("multilabel", valid)):
        run_folder = finetune(
            train, valid=checked, from_=model, out=out / kind, kind=kind, text="docstring", label="raises",
            baselines=False, **settings,
        )  # fmt: skip
        predictors[kind] = load(run_folder)
    texts = [row["docstring"] for row in test.rows]
    gold = indicators([row["raises"].split(SEPARATOR) for row in test.rows], labels)
    sets = [str(answer["prediction"]).split(SEPARATOR) for answer in predictors["classification"].predict(texts)]
    chosen = [answer["prediction"] or [] for answer in predictors["multilabel"].predict(texts)]
    p, own = np.asarray(predictors["multilabel"].predict_proba(texts)), list(predictors["multilabel"].labels)
    at_half = [[own[i] for i in np.flatnonzero(row >= 0.5)] for row in p]
    most_frequent = Counter(row["raises"] for row in train.rows).most_common(1)[0][0].split(SEPARATOR)
    ways = {
        "always the most frequent set": [most_frequent] * len(texts),
        "plain loss, a class for each set": sets,
        "multilabel, at 0.5": at_half,
        "multilabel, thresholds": chosen,
    }
    return {way: measure(gold, indicators(names, labels)) for way, names in ways.items()}


def measure(gold: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    scores = {
        average: float(f1_score(gold, predicted, average=average, zero_division=0)) for average in ("macro", "micro")
    }
    return {**scores, "exact": float((gold == predicted).all(1).mean())}


def indicators(sets: Sequence[Sequence[str] | str], labels: Sequence[str]) -> NDArray[Any]:  # → [rows, labels]
    split = [names.split(SEPARATOR) if isinstance(names, str) else names for names in sets]
    return np.array([[label in names for label in labels] for names in split])


# ---- rows


def read_rows() -> list[dict[str, Any]]:
    """A row for each docstring of a function that raises one of the most frequent built-in errors."""
    found: dict[str, set[str]] = {}
    for name in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            if "tests" not in path.parts and (name == "purelib" or "site-packages" not in path.parts):
                for docstring, errors in read_functions(path):
                    found.setdefault(docstring, set()).update(errors)
    counts = Counter(error for errors in found.values() for error in errors)
    labels = {error for error, _ in counts.most_common(LABELS)}
    return [
        {"docstring": docstring, "raises": SEPARATOR.join(sorted(errors & labels))}
        for docstring, errors in sorted(found.items())
        if errors & labels
    ]


def read_functions(path: Path) -> Iterator[tuple[str, set[str]]]:
    """(beginning of the docstring, names of the built-in errors that it raises) of each function of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of other people's code
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and len(docstring := ast.get_docstring(node) or "") >= MIN_CHARACTERS:
            errors = {name for child in ast.walk(node) if (name := raised_name(child))}
            if errors:
                yield " ".join(docstring.split())[:MAX_CHARACTERS], errors


def raised_name(node: ast.AST) -> str:
    """The built-in error that a statement raises, or nothing."""
    if not isinstance(node, ast.Raise):
        return ""
    name = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    known = isinstance(name, ast.Name) and isinstance(getattr(builtins, name.id, None), type)
    return name.id if known and isinstance(name, ast.Name) else ""


def quick_rows() -> list[dict[str, Any]]:
    """Rows whose labels are words in them."""
    words = ("KeyError", "TypeError", "ValueError")
    rows = []
    for i in range(600):
        names = [word for k, word in enumerate(words) if (i + 1) % 7 >> k & 1] or ["ValueError"]
        rows.append({"docstring": f"function {i} raises {' and '.join(names)}", "raises": SEPARATOR.join(names)})
    return rows
