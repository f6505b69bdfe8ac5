"""Laws of the demo's text: prose only, always the same, and no test row in what is trained on."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import pytest
from demo_documents import DOCUMENT_COUNTS, make_documents
from hypothesis import given
from hypothesis import strategies as st

from gpt1.demo import docstrings
from gpt1.demo.docstrings import DocstringDocument, LibraryTask
from gpt1.demo.prose import extract_prose

NUMPYDOC = """
    Return the eigenvalues of a general matrix in the order in which they were found.

    The `matrix` must not be empty, see :func:`~numpy.linalg.eigh` for the **symmetric** case [1]_.

    Parameters
    ----------
    a : array_like
        The matrix of which the eigenvalues are wanted, and this sentence is left out with its table.

    Notes
    -----
    This is a thin wrapper of the routines that are called by the library::

        The code in this block is not a sentence of the text, although it looks like one.

    .. warning::
        The order of the eigenvalues may be another one on the next machine.

    Examples
    --------
    >>> eigenvalues(a)
    This line is the output of the line before, and it is not a sentence of the text.

    :param tol: The tolerance that is used to find out whether the value is zero or not.
    """

GOOGLE = """Copy the file to the place that is given by its second argument.

    Args:
        source: The place of the file that is copied, as it is given on the command line.

    Note that the file is not copied when it is already there and has not been changed:

        copy(a, b) is all that you have to write when you want to use it in this way.
    """


def test_tables_code_doctests_and_markup_are_removed() -> None:
    assert list(extract_prose(inspect.cleandoc(NUMPYDOC))) == [
        "Return the eigenvalues of a general matrix in the order in which they were found.",
        "The matrix must not be empty, see numpy.linalg.eigh for the symmetric case.",
        "The order of the eigenvalues may be another one on the next machine.",
    ]
    assert list(extract_prose(inspect.cleandoc(GOOGLE))) == [
        "Copy the file to the place that is given by its second argument."
    ]


@given(st.text(max_size=400))
def test_every_paragraph_is_one_line_that_ends_a_sentence(docstring: str) -> None:
    for paragraph in extract_prose(docstring):
        assert "\n" not in paragraph
        assert paragraph[-1] in ".!?"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("NumPy's arrays, unlike PyTorch's.", "library's arrays, unlike library's."),
        ("See scipy.linalg.eigh or np.dot. Or scikit-learn.", "See library or library. Or library."),
        ("A torchvision model in IPython", "A library model in library"),
        ("Use plt for it, call mpl_toolkits.", "Use library for it, call name."),
        ("A DiGraph with n_jobs as float32, see axes.plot().", "A name with name as name, see name."),
        ("The spline in between, anpother; it is done.", "The spline in between, anpother; it is done."),
    ],
)
def test_only_library_names_and_code_are_masked(text: str, masked: str) -> None:
    assert docstrings.mask_names(text) == masked


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages whose files fail if they are imported."""
    root = tmp_path_factory.mktemp("packages")
    for package, thing in (("one", "curve"), ("two", "graph")):
        (root / package / "tests").mkdir(parents=True)
        (root / package / "tests" / "test_it.py").write_text('"""A test says what is to be true of the thing."""\n')
        (root / package / "broken.py").write_text("def (:\n")
        (root / package / "main.py").write_text(
            f'"""Everything that there is to be said about the {thing} and its parts."""\n'
            "raise SystemExit('imported')\n"
            f'class C:\n    """The {thing} is drawn as it has been asked for by the user."""\n'
            '    def f(self):\n        """This sentence stands in both of the packages and is kept once."""\n'
            f'add_newdoc("f", """{"The argument of a call is documentation too, when it is long. " * 4}{thing}.""")\n'
        )
    return root


@pytest.fixture
def two_packages(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        docstrings, "find_libraries", lambda: iter([("one", packages / "one"), ("two", packages / "two")])
    )


@pytest.mark.usefixtures("two_packages")
def test_files_are_parsed_and_equal_paragraphs_are_kept_once() -> None:
    documents = docstrings.collect_documents()
    assert [(d.library, d.name) for d in documents] == [
        ("one", "one/main.py:"),
        ("one", "one/main.py:C"),
        ("one", "one/main.py:C.f"),
        ("one", "one/main.py:line 7"),
        ("two", "two/main.py:"),
        ("two", "two/main.py:C"),
        ("two", "two/main.py:line 7"),
    ]
    assert documents[1].paragraphs == ("The curve is drawn as it has been asked for by the user.",)


@pytest.mark.usefixtures("two_packages")
def test_collecting_twice_gives_the_same_documents_in_the_same_order() -> None:
    assert docstrings.collect_documents() == docstrings.collect_documents()


@pytest.fixture(scope="module")
def documents() -> list[DocstringDocument]:
    return make_documents(DOCUMENT_COUNTS)


@pytest.fixture(scope="module")
def task(documents: list[DocstringDocument]) -> LibraryTask:
    return docstrings.build_task(documents)


def test_every_split_has_the_same_number_of_rows_of_each_library(task: LibraryTask) -> None:
    for rows, each in (
        (task.test, docstrings.TEST_ROWS),
        (task.validation, docstrings.VALIDATION_ROWS),
        (task.draw_train_rows(0), docstrings.TRAIN_ROWS),
    ):
        assert {library: len(own) for library, own in docstrings.group_by_library(rows).items()} == dict.fromkeys(
            DOCUMENT_COUNTS, each
        )


def test_no_document_is_in_two_splits_and_no_two_rows_are_near_duplicates(task: LibraryTask) -> None:
    rows = [*task.pool, *task.validation, *task.test]
    assert len({row.document for row in rows}) == len(rows)
    seen: set[int] = set()
    for row in sorted(rows, key=lambda row: hashlib.sha256(row.text.encode()).digest()):
        hashes = docstrings.five_gram_hashes(row.text)
        assert len(hashes & seen) <= docstrings.NEAR_DUPLICATE_SHARE * len(hashes)
        seen |= hashes


def test_each_seed_samples_its_own_rows_and_always_the_same(task: LibraryTask) -> None:
    assert task.draw_train_rows(1) == task.draw_train_rows(1)
    assert set(task.draw_train_rows(1)) != set(task.draw_train_rows(2))
    assert set(task.draw_train_rows(1)) <= set(task.pool)


def test_the_split_of_a_row_does_not_depend_on_the_order_of_the_documents(
    documents: list[DocstringDocument], task: LibraryTask
) -> None:
    assert docstrings.build_task(documents[::-1]) == task


def test_a_library_with_too_few_rows_is_excluded() -> None:
    few = docstrings.build_task(make_documents({"numpy": 100, "torch": 250, "sympy": 250}))
    assert {row.library for row in few.test} == {"torch", "sympy"}


def test_nothing_of_a_test_or_validation_row_is_pre_trained_on(
    documents: list[DocstringDocument], task: LibraryTask
) -> None:
    texts = docstrings.select_pretraining_documents(documents, task)
    held_out = {row.document for row in (*task.test, *task.validation)}
    assert held_out.isdisjoint(texts)
    forbidden = set().union(*(docstrings.five_gram_hashes(p) for document in held_out for p in document.paragraphs))
    kept = [paragraph for document in texts for paragraph in document.paragraphs]
    assert all(
        len(docstrings.five_gram_hashes(p) & forbidden)
        <= docstrings.NEAR_DUPLICATE_SHARE * len(docstrings.five_gram_hashes(p))
        for p in kept
    )
    untouched = [d for d in documents if d not in held_out]
    assert len(kept) < sum(len(d.paragraphs) for d in untouched), "near duplicates are removed"
    assert {d.name for d in texts} == {d.name for d in untouched}, "and nothing else is"


@pytest.mark.slow
def test_half_of_the_real_text_is_large_enough_and_its_rows_name_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    every_file = docstrings.list_python_files
    monkeypatch.setattr(docstrings, "list_python_files", lambda root: every_file(root)[::2])
    documents = docstrings.collect_documents()
    task = docstrings.build_task(documents)
    assert sum(len(p) for d in documents for p in d.paragraphs) > 1.5e6
    assert {row.library for row in task.test} == set(docstrings.LIBRARIES)
    rows = [*task.pool, *task.validation, *task.test]
    named = [row.text for row in rows if any(name in row.text.lower() for name in docstrings.LIBRARIES)]
    assert not named
    assert not [row for row in rows if set("_=\\") & set(row.text)]
    assert len({row.text for row in rows}) == len(rows)
