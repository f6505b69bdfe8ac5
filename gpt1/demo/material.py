"""Real text that every machine with gpt1 has: the English prose in the installed Python and in gpt1's dependencies.

    documents = gather()                        # one a docstring or a topic of `help()`, paragraphs of clean prose
    task = labelled(documents)                  # "which library does this docstring come from?"
    texts = unlabelled(documents, task)         # for pre-training, without anything that stands in the test rows

Source files are parsed, never imported. The same files give the same material, in the same order, byte for byte; other
versions of the packages give slightly other material, so counts belong beside every result.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import random
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gpt1.demo.prose import normal, prose
from gpt1.progress import Progress, Silent

PYTHON = "python"  # the name of the standard library here
PACKAGES = (  # what gpt1 needs, and what that needs, where it holds prose: present wherever gpt1 is installed
    *("torch", "scipy", "sympy", "sklearn", "networkx", "numpy", "matplotlib", "fontTools", "tensorboard", "pydantic"),
    *("mpmath", "werkzeug", "setuptools", "PIL", "fsspec", "pyparsing", "click", "jinja2", "pyarrow", "absl"),
    *("packaging", "joblib", "urllib3", "markdown", "dateutil", "requests", "thinc"),
)
NOT_PROSE_HERE = {  # folders with tests, generated code, or other packages' code
    *("test", "tests", "testing", "_testing", "__pycache__", "site-packages", "dist-packages", "_vendor", "vendored"),
    *("externals", "extern", "_external", "idlelib", "lib2to3", "turtledemo", "ensurepip", "distutils", "conformance"),
}


@dataclass(frozen=True)
class Document:
    """The prose of one docstring."""

    library: str
    name: str
    """Where it stands: `scipy/stats/_stats_py.py:ttest_ind`."""
    paragraphs: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.name.rpartition(":")[0]


def gather(progress: Progress | None = None) -> list[Document]:
    """All documents, in the order of libraries, files and lines; a repeated paragraph stays where it came first."""
    progress = progress or Silent()
    files = [(library, root, path) for library, root in libraries() for path in python_files(root)]
    progress.begin("gathering prose", len(files), unit="files")
    seen: set[str] = set()
    documents = []
    with no_garbage():
        for done, (library, root, path) in enumerate(files):
            if done % 20 == 0:
                progress.advance(done)
            for name, docstring in docstrings(path):
                place = f"{library}/{path.relative_to(root).as_posix()}:{name}"
                paragraphs = {key: text for text in prose(docstring) if (key := normal(text)) not in seen}
                if paragraphs:
                    documents.append(Document(library, place, tuple(paragraphs.values())))
                    seen.update(paragraphs)
    progress.advance(len(files))
    progress.end()
    return documents


@contextmanager
def no_garbage() -> Iterator[None]:
    """Syntax trees hold no cycles; looking for some takes a quarter of the time that parsing takes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def libraries() -> Iterator[tuple[str, Path]]:
    """(name, folder) of every library that is there."""
    yield PYTHON, Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        spec = find_spec(name)  # looks the folder up and imports nothing
        if spec and spec.submodule_search_locations:
            yield name, Path(next(iter(spec.submodule_search_locations)))


def python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if NOT_PROSE_HERE.isdisjoint(path.relative_to(root).parts))


Defined = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every docstring in a source file, in its order; and of every text that is documentation by being
    an argument (numpy's add_newdoc, torch's add_docstr) or an entry of `help()`'s topics."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's "\d"
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or Python of another version
        return
    yield from _docstrings(tree, "")


def _docstrings(node: Defined, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, Defined):
            yield from _docstrings(child, f"{name}.{child.name}".lstrip("."))
        elif isinstance(node, ast.Module) and isinstance(value := getattr(child, "value", None), ast.Call | ast.Dict):
            yield from _long_texts(value)


def _long_texts(node: ast.expr) -> Iterator[tuple[str, str]]:
    for constant in ast.walk(node):
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and len(constant.value) > 200:
            yield f"line {constant.lineno}", inspect.cleandoc(constant.value)


# --- the labelled task -----------------------------------------------------------------------------------------------

LIBRARIES = ("matplotlib", "networkx", "numpy", PYTHON, "scipy", "sklearn", "sympy", "torch")
TEST, VALIDATION, TRAIN = 100, 50, 25
"""Rows of each library: held out for the end, held out to choose settings and epochs, and labelled for one run."""
SHORTEST, LONGEST = 12, 60
"""Words of a row; a longer docstring is cut after its last whole sentence."""
NEAR = 0.3
"""Two texts are near duplicates when more than this share of the one's runs of five words stands in the other."""

NAME = re.compile(  # a name of one of the libraries, with what it is part of: `torchvision`, `numpy.linalg.norm`, `np`
    r"[\w.-]*(matplotlib|networkx|numpy|python|scipy|scikit|sklearn|sympy|torch|pylab|pyplot)([\w.-]*\w)?|"
    r"(?<![\w.])(np|nx|mpl|plt|sp|aten)(\.\w+)*(?!\w)",
    re.IGNORECASE,
)
CODE = re.compile(r"\w*([a-z][A-Z]|\d|_|\w\.\w)([\w.]*\w)?(\(\))?")  # DiGraph, n_jobs, axes.plot, float32
SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z\"'(])")


@dataclass(frozen=True)
class Row:
    """A labelled example: the masked beginning of a document, and the library that it comes from."""

    text: str
    library: str
    document: Document


@dataclass(frozen=True)
class Task:
    """Which library does this docstring come from?"""

    pool: tuple[Row, ...]
    """What the labelled training rows of a seed are drawn from."""
    validation: tuple[Row, ...]
    test: tuple[Row, ...]

    def train(self, seed: int) -> list[Row]:
        """TRAIN rows of each library, drawn by `seed`."""
        draw = random.Random(seed)
        by_library = grouped(self.pool)
        return [row for library in sorted(by_library) for row in draw.sample(by_library[library], TRAIN)]


def labelled(documents: Iterable[Document]) -> Task:
    """The task's rows without near duplicates, those of every split in an order that hangs on their text alone."""
    rows = [row for document in documents if document.library in LIBRARIES and (row := as_row(document))]
    rows.sort(key=lambda row: hashlib.sha256(row.text.encode()).digest())
    by_library = grouped(without_near_duplicates(rows))
    splits: tuple[list[Row], ...] = ([], [], [])
    for library in LIBRARIES:
        of_library = by_library.get(library, [])
        if len(of_library) >= TEST + VALIDATION + 2 * TRAIN:
            splits[0].extend(of_library[TEST + VALIDATION :])
            splits[1].extend(of_library[TEST : TEST + VALIDATION])
            splits[2].extend(of_library[:TEST])
    return Task(*map(tuple, splits))


def as_row(document: Document) -> Row | None:
    """The document's beginning, masked; None where it is too short or hardly more than masks."""
    text = mask(" ".join(document.paragraphs))
    kept: list[str] = []
    for sentence in SENTENCE_END.split(text):
        words = sentence.split()
        if len(kept) + len(words) > LONGEST:
            break
        kept += words
    if len(kept) < SHORTEST or sum(word.strip("\"'(),.;:!?") in (MASK, CODE_MASK) for word in kept) > 0.2 * len(kept):
        return None
    return Row(" ".join(kept), document.library, document)


MASK, CODE_MASK = "library", "name"


def mask(text: str) -> str:
    """`text` with every name of a library replaced by one word, and everything else that is written as code by another,
    so that the label has to come from what is said."""
    return CODE.sub(CODE_MASK, NAME.sub(MASK, text))


def without_near_duplicates(rows: Iterable[Row]) -> list[Row]:
    """The first of every group of rows that say nearly the same, whichever libraries they come from."""
    seen: set[int] = set()
    kept = []
    for row in rows:
        runs = fives(row.text)
        if len(runs & seen) <= NEAR * len(runs):
            kept.append(row)
        seen |= runs
    return kept


def fives(text: str) -> set[int]:
    """The runs of five words in `text`, as hashes of what `normal` leaves of them."""
    words = normal(text).split()
    return {hash(run) for run in zip(*(words[i:] for i in range(5)), strict=False)}


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.library, []).append(row)
    return groups


def unlabelled(documents: Iterable[Document], task: Task) -> list[Document]:
    """What may be pre-trained on: no document of a validation or test row, and no paragraph that nearly repeats one.

    The files are shuffled, by a hash: the tail of a corpus, on which pre-training is measured, is a sample of it all.
    What stands in one file stays together, so that there is something to be learnt from a long context.
    """
    held_out = {row.document for row in (*task.validation, *task.test)}
    forbidden: set[int] = set()
    for document in held_out:
        for paragraph in document.paragraphs:
            forbidden |= fives(paragraph)
    kept = []
    for document in documents:
        if document in held_out:
            continue
        paragraphs = tuple(p for p in document.paragraphs if len((runs := fives(p)) & forbidden) <= NEAR * len(runs))
        if paragraphs:
            kept.append(Document(document.library, document.name, paragraphs))
    return sorted(kept, key=lambda document: hashlib.sha256(document.file.encode()).digest())
