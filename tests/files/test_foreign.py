"""Untrusted files: every invalid one is one error that names it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.errors import UserError
from gpt1.files.foreign import Fields, check_name, parse_json, path_inside, read_json_object, read_yaml

BAD_NAMES = [
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "",
    "a//b",
    "./a",
    "C:/x",
    "a\\b",
    "a\0b",
    "a\nb",
    "tokenizer/..",
    7,
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leaves_its_folder_is_refused(name: Any):
    with pytest.raises(UserError, match=r"manifest\.json names a file that is not inside its folder"):
        check_name(name, "manifest.json")


@given(st.text(max_size=20))
def test_an_accepted_name_stays_inside_its_folder(name: str):
    try:
        accepted = check_name(name, "manifest.json")
    except UserError:
        return
    assert os.path.normpath(f"/a/b/{accepted}") == f"/a/b/{accepted}"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link out of its folder"):
        path_inside(tmp_path / "inside", "link/secret", "manifest.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 2000 + "]" * 2000, "nested more than 32 deep"),
        ("[" * 200_000, "nested more than 32 deep"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested more than 32 deep"),
        ("9" * 5000, "an integer of 5,000 digits"),
        ("1e999", "too large"),
        ("NaN", "not a number"),
        ('{"a": 1, "a": 2}', "is repeated"),
        ('{"a": ', "line 1, column"),
        ("", "line 1, column 1"),
    ],
)
def test_json_outside_the_bounds_is_one_error_that_names_the_file(text: str, problem: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x\.json cannot be read as JSON: .*{problem}"):
        read_json_object(tmp_path / "x.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=20,
    )
)
def test_json_within_the_bounds_is_read_unchanged(value: Any):
    assert parse_json(json.dumps(value), "x.json") == value


@given(st.text(alphabet='{}[]":,0123456789eE+-.truefalsn \\u', max_size=40) | st.binary(max_size=40))
def test_any_data_is_read_or_refused(data: str | bytes):
    with suppress(UserError):  # any other error fails
        parse_json(data, "x.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x [1]\nb: *x\n", "line 1: the alias or anchor x"),
        ("a: !!timestamp 2024-01-01\n", "line 1: the tag"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: the tag"),
        ("1: 2\n", "'1' is not the name of a setting"),
        ("null: 1\n", "'None' is not the name of a setting"),
        ("a: 1\na: 2\n", "the key 'a' is repeated"),
        ("a: " + "[" * 5000 + "]" * 5000 + "\n", "nested more than 32 deep"),
        ("- 1\n", "contains no settings"),
        ("a: " + "9" * 5000 + "\n", "cannot be read as YAML"),
        ("a: [\n", "line 2"),
        ("? [a]\n: 1\n", "cannot be read as YAML"),
    ],
)
def test_yaml_outside_the_bounds_is_one_error_that_names_the_file(text: str, problem: str, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert str(tmp_path / "x.yaml") in caught.value.problem
    assert problem in caught.value.problem


def test_a_date_in_yaml_is_text(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("a: 2024-01-01\nb: {c: 1.5}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": "2024-01-01", "b": {"c": 1.5}}


def test_a_file_that_would_block_or_never_end_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in [("config.json", "a pipe"), ("zero", "a device")]:
        with pytest.raises(UserError, match=f"{name} is {kind}"):
            read_json_object(tmp_path / name)


def test_a_file_that_is_too_large_is_refused_without_reading_it(tmp_path: Path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**33)
    with pytest.raises(UserError, match=r"has 8,589,934,592 bytes; the limit is"):
        read_json_object(tmp_path / "x.json")


@pytest.mark.parametrize("value", [True, "1", 1.0, None, -1, 10**30, [1]])
def test_a_field_of_a_wrong_type_is_named(value: Any):
    with pytest.raises(UserError, match=r"manifest\.json: 'tokens' must be an integer from 0"):
        Fields({"tokens": value}, "manifest.json").integer("tokens")
