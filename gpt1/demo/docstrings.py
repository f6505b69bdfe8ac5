"""Text that every machine with gpt1 has: the English prose in the installed Python and in gpt1's dependencies.

    documents = collect_documents()             # one per docstring or topic of `help()`: paragraphs of prose
    task = build_task(documents)                # "which library does this docstring come from?"
    texts = select_pretraining_documents(documents, task)    # without the validation and test rows

Source files are parsed, never imported. The same files give the same documents in the same order. Other versions of
the packages give slightly different ones, so results should state the counts.
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

from gpt1.demo.prose import extract_prose, normalize_words
from gpt1.progress import Progress

STANDARD_LIBRARY = "python"  # label of the standard library
TEXT_PACKAGES = (  # dependencies of gpt1, direct and indirect, that have prose
    *("torch", "scipy", "sympy", "sklearn", "networkx", "numpy", "matplotlib", "fontTools", "tensorboard", "pydantic"),
    *("mpmath", "werkzeug", "setuptools", "PIL", "fsspec", "pyparsing", "click", "jinja2", "pyarrow", "absl"),
    *("packaging", "joblib", "urllib3", "markdown", "dateutil", "requests", "thinc"),
)
EXCLUDED_FOLDERS = frozenset(  # tests, generated code, code of other packages
    (
        *("test", "tests", "testing", "_testing", "__pycache__", "site-packages", "dist-packages", "_vendor"),
        *("vendored", "externals", "extern", "_external", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
        *("distutils", "conformance"),
    )
)


@dataclass(frozen=True)
class DocstringDocument:
    """The prose of one docstring."""

    library: str
    name: str
    """File and definition: `scipy/stats/_stats_py.py:ttest_ind`."""
    paragraphs: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.name.rpartition(":")[0]


def collect_documents(progress: Progress | None = None) -> list[DocstringDocument]:
    """All documents, in the order of libraries, files and lines. Only the first of equal paragraphs is kept."""
    progress = progress or Progress()
    files = [(library, root, path) for library, root in find_libraries() for path in list_python_files(root)]
    progress.begin("collecting prose", len(files), unit="files")
    seen: set[str] = set()
    documents = []
    with pause_gc():
        for done, (library, root, path) in enumerate(files):
            if done % 20 == 0:
                progress.advance(done)
            for name, docstring in parse_docstrings(path):
                full_name = f"{library}/{path.relative_to(root).as_posix()}:{name}"
                paragraphs = {
                    key: text for text in extract_prose(docstring) if (key := normalize_words(text)) not in seen
                }
                if paragraphs:
                    documents.append(DocstringDocument(library, full_name, tuple(paragraphs.values())))
                    seen.update(paragraphs)
    progress.advance(len(files))
    progress.end()
    return documents


@contextmanager
def pause_gc() -> Iterator[None]:
    """Turn the garbage collector off: syntax trees have no cycles, and looking for them takes a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_libraries() -> Iterator[tuple[str, Path]]:
    """(name, folder) of every installed library."""
    yield STANDARD_LIBRARY, Path(sysconfig.get_path("stdlib"))
    for name in TEXT_PACKAGES:
        spec = find_spec(name)  # finds the folder without importing the package
        if spec and spec.submodule_search_locations:
            yield name, Path(next(iter(spec.submodule_search_locations)))


def list_python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if EXCLUDED_FOLDERS.isdisjoint(path.relative_to(root).parts))


DefinitionNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every docstring in a source file, in order, including documentation that is passed to a function
    (numpy's add_newdoc, torch's add_docstr) or is a topic of `help()`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes such as "\d"
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or another version of Python
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


# --- the labeled task -----------------------------------------------------------------------------------------------

LIBRARIES = ("matplotlib", "networkx", "numpy", STANDARD_LIBRARY, "scipy", "sklearn", "sympy", "torch")
TEST_ROWS, VALIDATION_ROWS, TRAIN_ROWS = 100, 50, 25
"""Rows of each library for the test, for validation, and for training a run."""
MIN_WORDS, MAX_WORDS = 12, 60
"""Words of a row; a longer docstring is truncated after its last whole sentence."""
NEAR_DUPLICATE_SHARE = 0.3
"""A text is a near duplicate if more than this share of its sequences of five words occurs in other texts."""

LIBRARY_NAME = (
    re.compile(  # a library's name, with the word that it is part of: `torchvision`, `numpy.linalg.norm`, `np`
        r"[\w.-]*(matplotlib|networkx|numpy|python|scipy|scikit|sklearn|sympy|torch|pylab|pyplot)([\w.-]*\w)?|"
        r"(?<![\w.])(np|nx|mpl|plt|sp|aten)(\.\w+)*(?!\w)",
        re.IGNORECASE,
    )
)
CODE_TOKEN = re.compile(r"\w*([a-z][A-Z]|\d|_|\w\.\w)([\w.]*\w)?(\(\))?")  # DiGraph, n_jobs, axes.plot, float32
SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z\"'(])")


@dataclass(frozen=True)
class LibraryExample:
    """A labeled row: the masked beginning of a document, and its library."""

    text: str
    library: str
    document: DocstringDocument


@dataclass(frozen=True)
class LibraryTask:
    """The classification task: which library does a docstring come from?"""

    pool: tuple[LibraryExample, ...]
    """The training rows of a seed are sampled from these."""
    validation: tuple[LibraryExample, ...]
    test: tuple[LibraryExample, ...]

    def draw_train_rows(self, seed: int) -> list[LibraryExample]:
        """TRAIN_ROWS rows of each library, sampled with `seed`."""
        generator = random.Random(seed)
        by_library = group_by_library(self.pool)
        return [row for library in sorted(by_library) for row in generator.sample(by_library[library], TRAIN_ROWS)]


def build_task(documents: Iterable[DocstringDocument]) -> LibraryTask:
    """The task's rows, without near duplicates. Their split and order depend only on their text."""
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
    """The masked beginning of the document; None if it is too short or more than 20% masks."""
    text = mask_names(" ".join(document.paragraphs))
    words: list[str] = []
    for sentence in SENTENCE_END.split(text):
        next_words = sentence.split()
        if len(words) + len(next_words) > MAX_WORDS:
            break
        words += next_words
    masks = sum(word.strip("\"'(),.;:!?") in (LIBRARY_MASK, CODE_MASK) for word in words)
    if len(words) < MIN_WORDS or masks > 0.2 * len(words):
        return None
    return LibraryExample(" ".join(words), document.library, document)


LIBRARY_MASK, CODE_MASK = "library", "name"


def mask_names(text: str) -> str:
    """Replace names of libraries and other code by one word each, so that the label depends on the prose alone."""
    return CODE_TOKEN.sub(CODE_MASK, LIBRARY_NAME.sub(LIBRARY_MASK, text))


def drop_near_duplicates(rows: Iterable[LibraryExample]) -> list[LibraryExample]:
    """Keep the first of near-duplicate rows, also across libraries."""
    seen: set[int] = set()
    kept = []
    for row in rows:
        hashes = five_gram_hashes(row.text)
        if len(hashes & seen) <= NEAR_DUPLICATE_SHARE * len(hashes):
            kept.append(row)
        seen |= hashes
    return kept


def five_gram_hashes(text: str) -> set[int]:
    """Hashes of all sequences of five words in `text`, after `normalize_words`."""
    words = normalize_words(text).split()
    return {hash(five) for five in zip(*(words[i:] for i in range(5)), strict=False)}


def group_by_library(rows: Iterable[LibraryExample]) -> dict[str, list[LibraryExample]]:
    groups: dict[str, list[LibraryExample]] = {}
    for row in rows:
        groups.setdefault(row.library, []).append(row)
    return groups


def select_pretraining_documents(documents: Iterable[DocstringDocument], task: LibraryTask) -> list[DocstringDocument]:
    """The pre-training text: without the documents of validation and test rows, and without near duplicates of them.

    Files are shuffled by a hash, because the end of the corpus is the validation set of pre-training. Documents of one
    file stay together, for a long context.
    """
    excluded = {row.document for row in (*task.validation, *task.test)}
    forbidden: set[int] = set()
    for document in excluded:
        for paragraph in document.paragraphs:
            forbidden |= five_gram_hashes(paragraph)
    kept = []
    for document in documents:
        if document in excluded:
            continue
        paragraphs = tuple(
            p
            for p in document.paragraphs
            if len((hashes := five_gram_hashes(p)) & forbidden) <= NEAR_DUPLICATE_SHARE * len(hashes)
        )
        if paragraphs:
            kept.append(DocstringDocument(document.library, document.name, paragraphs))
    return sorted(kept, key=lambda document: hashlib.sha256(document.file.encode()).digest())
