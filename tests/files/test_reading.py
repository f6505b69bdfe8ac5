"""Names of input files: paths and URLs."""

from __future__ import annotations

import pytest

from gpt1.files.reading import file_format, is_url


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://example.org/rows.csv", True),
        ("s3://bucket/rows.csv", True),
        ("simplecache::s3://bucket/rows.csv", True),
        ("git+https://example.org/rows.csv", True),
        ("rows.csv", False),
        ("a film, see http://t.co/x", False),
        ("(http://t.co/x)", False),
        ("://", False),
    ],
)
def test_a_url_begins_with_a_protocol(name: str, expected: bool) -> None:
    assert is_url(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b/rows.CSV.gz", ("csv", "gz")),
        ("https://example.org/rows.csv?form=a.txt", ("csv", "")),
        ("zip://rows.csv::https://example.org/rows.zip", ("csv", "")),
        ("simplecache::zip://rows.csv.xz::rows.zip", ("csv", "xz")),
        ("a::b.csv", ("csv", "")),
    ],
)
def test_the_format_of_a_file_is_that_of_its_name(name: str, expected: tuple[str, str]) -> None:
    assert file_format(name) == expected
