"""Names of input files: paths and URLs."""

from __future__ import annotations

import pytest

from gpt1.files.reading import is_url


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
