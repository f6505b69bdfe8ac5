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

from gpt1.demo.prose import extract_prose, normalise_words
from gpt1.progress import NullProgress, Progress

STANDARD_LIBRARY = "python"  # the name of the standard library here
PACKAGES = (  # what gpt1 needs, and what that needs, where it holds prose: present wherever gpt1 is installed
    *("torch", "scipy", "sympy", "sklearn", "networkx", "numpy", "matplotlib", "fontTools", "tensorboard", "pydantic"),
    *("mpmath", "werkzeug", "setuptools", "PIL", "fsspec", "pyparsing", "click", "jinja2", "pyarrow", "absl"),
    *("packaging", "joblib", "urllib3", "markdown", "dateutil", "requests", "thinc"),
)
EXCLUDED_FOLDERS = frozenset(  # folders with tests, generated code, or other packages' code
    [
        "test",
        "tests",
        "testing",
        "_testing",
        "__pycache__",
        "site-packages",
        "dist-packages",
        "_vendor",
        "vendored",
        "externals",
        "extern",
        "_external",
        "idlelib",
        "lib2to3",
        "turtledemo",
        "ensurepip",
        "distutils",
        "conformance",
    ]
)


@dataclass(frozen=True)
class DocstringDocument:
    """The prose of one docstring."""

    library: str
    name: str
    """Where it stands: `scipy/stats/_stats_py.py:ttest_ind`."""
    paragraphs: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.name.rpartition(":")[0]


def collect_documents(progress: Progress | None = None) -> list[DocstringDocument]:
    """All documents, in the order of libraries, files and lines; a repeated paragraph stays where it came first."""
    progress = progress or NullProgress()
    files = [(library, root, path) for library, root in find_libraries() for path in list_python_files(root)]
    progress.begin("gathering prose", len(files), unit="files")
    seen: set[str] = set()
    documents = []
    with pause_gc():
        for done, (library, root, path) in enumerate(files):
            if done % 20 == 0:
                progress.advance(done)
            for name, docstring in parse_docstrings(path):
                place = f"{library}/{path.relative_to(root).as_posix()}:{name}"
                paragraphs = {
                    key: text for text in extract_prose(docstring) if (key := normalise_words(text)) not in seen
                }
                if paragraphs:
                    documents.append(DocstringDocument(library, place, tuple(paragraphs.values())))
                    seen.update(paragraphs)
    progress.advance(len(files))
    progress.end()
    return documents


@contextmanager
def pause_gc() -> Iterator[None]:
    """Syntax trees hold no cycles; looking for some takes a quarter of the time that parsing takes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def find_libraries() -> Iterator[tuple[str, Path]]:
    """(name, folder) of every library that is there."""
    yield STANDARD_LIBRARY, Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        spec = find_spec(name)  # looks the folder up and imports nothing
        if spec and spec.submodule_search_locations:
            yield name, Path(next(iter(spec.submodule_search_locations)))


def list_python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if EXCLUDED_FOLDERS.isdisjoint(path.relative_to(root).parts))


DefinitionNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every docstring in a source file, in its order; and of every text that is documentation by being
    an argument (numpy's add_newdoc, torch's add_docstr) or an entry of `help()`'s topics."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's "\d"
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or Python of another version
        return
    yield from _walk_docstrings(tree, "")


def _walk_docstrings(node: DefinitionNode, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text:
        yield name, text
    for child in node.body:
        if isinstance(child, DefinitionNode):
            yield from _walk_docstrings(child, f"{name}.{child.name}".lstrip("."))
        elif isinstance(node, ast.Module) and isinstance(value := getattr(child, "value", None), ast.Call | ast.Dict):
            yield from _long_strings(value)


def _long_strings(node: ast.expr) -> Iterator[tuple[str, str]]:
    for constant in ast.walk(node):
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and len(constant.value) > 200:
            yield f"line {constant.lineno}", inspect.cleandoc(constant.value)


# --- the labelled task -----------------------------------------------------------------------------------------------

LIBRARIES = ("matplotlib", "networkx", "numpy", STANDARD_LIBRARY, "scipy", "sklearn", "sympy", "torch")
TEST_ROWS, VALIDATION_ROWS, TRAIN_ROWS = 100, 50, 25
"""Rows of each library: held out for the end, held out to choose settings and epochs, and labelled for one run."""
MIN_WORDS, MAX_WORDS = 12, 60
"""Words of a row; a longer docstring is cut after its last whole sentence."""
NEAR_DUPLICATE_SHARE = 0.3
"""Two texts are near duplicates when more than this share of the one's runs of five words stands in the other."""

LIBRARY_NAME = (
    re.compile(  # a name of one of the libraries, with what it is part of: `torchvision`, `numpy.linalg.norm`, `np`
        r"[\w.-]*(matplotlib|networkx|numpy|python|scipy|scikit|sklearn|sympy|torch|pylab|pyplot)([\w.-]*\w)?|"
        r"(?<![\w.])(np|nx|mpl|plt|sp|aten)(\.\w+)*(?!\w)",
        re.IGNORECASE,
    )
)
CODE_TOKEN = re.compile(r"\w*([a-z][A-Z]|\d|_|\w\.\w)([\w.]*\w)?(\(\))?")  # DiGraph, n_jobs, axes.plot, float32
SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z\"'(])")


@dataclass(frozen=True)
class LibraryExample:
    """A labelled example: the masked beginning of a document, and the library that it comes from."""

    text: str
    library: str
    document: DocstringDocument


@dataclass(frozen=True)
class LibraryTask:
    """Which library does this docstring come from?"""

    pool: tuple[LibraryExample, ...]
    """What the labelled training rows of a seed are drawn from."""
    validation: tuple[LibraryExample, ...]
    test: tuple[LibraryExample, ...]

    def draw_train_rows(self, seed: int) -> list[LibraryExample]:
        """TRAIN rows of each library, drawn by `seed`."""
        draw = random.Random(seed)
        by_library = group_by_library(self.pool)
        return [row for library in sorted(by_library) for row in draw.sample(by_library[library], TRAIN_ROWS)]


def build_task(documents: Iterable[DocstringDocument]) -> LibraryTask:
    """The task's rows without near duplicates, those of every split in an order that hangs on their text alone."""
    rows = [row for document in documents if document.library in LIBRARIES and (row := to_example(document))]
    rows.sort(key=lambda row: hashlib.sha256(row.text.encode()).digest())
    by_library = group_by_library(drop_near_duplicates(rows))
    splits: tuple[list[LibraryExample], ...] = ([], [], [])
    for library in LIBRARIES:
        of_library = by_library.get(library, [])
        if len(of_library) >= TEST_ROWS + VALIDATION_ROWS + 2 * TRAIN_ROWS:
            splits[0].extend(of_library[TEST_ROWS + VALIDATION_ROWS :])
            splits[1].extend(of_library[TEST_ROWS : TEST_ROWS + VALIDATION_ROWS])
            splits[2].extend(of_library[:TEST_ROWS])
    return LibraryTask(*map(tuple, splits))


def to_example(document: DocstringDocument) -> LibraryExample | None:
    """The document's beginning, masked; None where it is too short or hardly more than masks."""
    text = mask_names(" ".join(document.paragraphs))
    kept: list[str] = []
    for sentence in SENTENCE_END.split(text):
        words = sentence.split()
        if len(kept) + len(words) > MAX_WORDS:
            break
        kept += words
    if len(kept) < MIN_WORDS or sum(
        word.strip("\"'(),.;:!?") in (LIBRARY_MASK, CODE_MASK) for word in kept
    ) > 0.2 * len(kept):
        return None
    return LibraryExample(" ".join(kept), document.library, document)


LIBRARY_MASK, CODE_MASK = "library", "name"


def mask_names(text: str) -> str:
    """`text` with every name of a library replaced by one word, and everything else that is written as code by another,
    so that the label has to come from what is said."""
    return CODE_TOKEN.sub(CODE_MASK, LIBRARY_NAME.sub(LIBRARY_MASK, text))


def drop_near_duplicates(rows: Iterable[LibraryExample]) -> list[LibraryExample]:
    """The first of every group of rows that say nearly the same, whichever libraries they come from."""
    seen: set[int] = set()
    kept = []
    for row in rows:
        runs = five_gram_hashes(row.text)
        if len(runs & seen) <= NEAR_DUPLICATE_SHARE * len(runs):
            kept.append(row)
        seen |= runs
    return kept


def five_gram_hashes(text: str) -> set[int]:
    """The runs of five words in `text`, as hashes of what `normal` leaves of them."""
    words = normalise_words(text).split()
    return {hash(run) for run in zip(*(words[i:] for i in range(5)), strict=False)}


def group_by_library(rows: Iterable[LibraryExample]) -> dict[str, list[LibraryExample]]:
    groups: dict[str, list[LibraryExample]] = {}
    for row in rows:
        groups.setdefault(row.library, []).append(row)
    return groups


def select_pretraining_documents(documents: Iterable[DocstringDocument], task: LibraryTask) -> list[DocstringDocument]:
    """What may be pre-trained on: no document of a validation or test row, and no paragraph that nearly repeats one.

    The files are shuffled, by a hash: the tail of a corpus, on which pre-training is measured, is a sample of it all.
    What stands in one file stays together, so that there is something to be learnt from a long context.
    """
    held_out = {row.document for row in (*task.validation, *task.test)}
    forbidden: set[int] = set()
    for document in held_out:
        for paragraph in document.paragraphs:
            forbidden |= five_gram_hashes(paragraph)
    kept = []
    for document in documents:
        if document in held_out:
            continue
        paragraphs = tuple(
            p
            for p in document.paragraphs
            if len((runs := five_gram_hashes(p)) & forbidden) <= NEAR_DUPLICATE_SHARE * len(runs)
        )
        if paragraphs:
            kept.append(DocstringDocument(document.library, document.name, paragraphs))
    return sorted(kept, key=lambda document: hashlib.sha256(document.file.encode()).digest())
