"""The commands that read and write texts: score, features, generate with stop strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1 import load
from gpt1.tables.table import read_table


def test_score_prints_numbers_of_a_text_and_of_each_document_of_a_file(workspace: Path, run_cli: Any, tmp_path: Path):
    run = str(workspace / "runs/books")
    (score,) = json.loads(run_cli("score", run, "the file is a list", "--json").stdout)
    assert score["text"] == "the file is a list"
    assert score["log_probability"] == pytest.approx(sum(token["log_probability"] for token in score["tokens"]))
    (tmp_path / "texts.jsonl").write_text('{"text": "the file is a list"}\n{"text": "zebra"}\n')
    scores = json.loads(run_cli("score", run, str(tmp_path / "texts.jsonl"), "--json").stdout)
    assert scores[0]["log_probability"] == pytest.approx(score["log_probability"], abs=1e-5)
    assert [one["text"] for one in scores] == ["the file is a list", "zebra"]
    answer = run_cli("score", run, str(tmp_path / "texts.jsonl"))
    assert answer.exit_code == 0
    assert "bits per byte" in answer.stdout
    assert "most surprising: " in answer.stderr
    assert "\x1b" not in answer.stdout


def test_score_of_a_file_that_is_missing_is_an_error_and_not_the_score_of_its_name(workspace: Path, run_cli: Any):
    answer = run_cli("score", str(workspace / "runs/books"), "missing.txt")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "missing.txt does not exist" in answer.stderr


LINKS = ["a great film, see http://t.co/x for more", "http://t.co/x is about a great film"]


@pytest.mark.parametrize("text", [*LINKS, "a long film " * 25, "a longer film " * 100])
def test_a_text_that_is_long_or_has_a_link_is_a_text(
    text: str, workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    (score,) = json.loads(run_cli("score", str(workspace / "runs/books"), text, "--json").stdout)
    assert score["text"] == text
    predicted = json.loads(run_cli("predict", str(workspace / "runs/reviews"), text).stdout)
    assert text in predicted.values()
    assert predicted["prediction"] is not None


def test_score_of_an_empty_text_is_an_error_and_not_the_score_of_the_current_folder(
    workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "mine.txt").write_text("my own text")
    monkeypatch.chdir(tmp_path)
    answer = run_cli("score", str(workspace / "runs/books"), "")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "the text is empty" in answer.stderr


@pytest.mark.parametrize("name", ["f.parquet", "f.jsonl", "f.csv"])
def test_features_adds_a_vector_to_every_row(workspace: Path, run_cli: Any, tmp_path: Path, name: str):
    for run, columns in (("runs/books", ["--text", "text"]), ("runs/reviews", [])):
        out = tmp_path / run.replace("/", "-") / name
        answer = run_cli("features", str(workspace / run), str(workspace / "new.csv"), *columns, "--out", str(out))
        assert answer.exit_code == 0, answer.stderr
        assert "5 rows, vectors of 32 numbers" in answer.stderr
        rows = read_table(out).rows
        expected = load(workspace / run).features([row["text"] for row in rows])
        found = [json.loads(v) if isinstance(v := row["features"], str) else v for row in rows]
        assert found == pytest.approx(expected, abs=1e-5)
    repeated = ["features", str(workspace / run), str(workspace / "new.csv"), *columns, "--out", str(out)]
    assert run_cli(*repeated).exit_code == 2
    assert run_cli(*repeated, "--overwrite").exit_code == 0


def test_generate_ends_before_a_stop_string(workspace: Path, run_cli: Any):
    words = ["generate", str(workspace / "runs/books"), "the", "--seed", "1", "--max-tokens", "40"]
    whole = run_cli(*words).stdout.removesuffix("\n")
    stop = whole[12:15]
    expected = "the" + whole[3 : 3 + whole[3:].find(stop)]
    assert run_cli(*words, "--stop", stop).stdout == expected + "\n"
    assert json.loads(run_cli(*words, "--stop", stop, "--json").stdout)[0]["text"] == expected


@pytest.mark.parametrize("name", ["f.parquet", "f.jsonl", "f.csv"])
def test_rows_without_text_have_no_vector(workspace: Path, run_cli: Any, tmp_path: Path, name: str):
    table, out = tmp_path / "gaps.jsonl", tmp_path / name
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a film", " ", None)))
    answer = run_cli("features", str(workspace / "runs/books"), str(table), "--text", "text", "--out", str(out))
    assert "2 rows have no text, so no vector" in answer.stderr
    assert [bool(row["features"]) for row in read_table(out).rows] == [True, False, False]
    found = load(workspace / "runs/reviews").features(["a film", " "])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


def test_score_takes_the_column_of_the_texts(workspace: Path, run_cli: Any, tmp_path: Path):
    (tmp_path / "t.csv").write_text("body\na film\na list\n")
    answer = run_cli("score", str(workspace / "runs/books"), str(tmp_path / "t.csv"))
    assert answer.exit_code == 2
    assert "Did you mean --text body?" in answer.stderr
    answer = run_cli("score", str(workspace / "runs/books"), str(tmp_path / "t.csv"), "--text", "body", "--json")
    assert [row["text"] for row in json.loads(answer.stdout)] == ["a film", "a list"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("run", "name"), [("books", "LMHeadModel"), ("reviews", "ForSequenceClassification")])
def test_export_names_the_class_of_transformers_that_reads_it(
    run: str, name: str, dtype: str, workspace: Path, run_cli: Any, tmp_path: Path
):
    source, out = workspace / "runs" / run, tmp_path / "theirs"
    answer = run_cli("export", "huggingface", str(source), "--out", str(out), "--dtype", dtype)
    assert f"in Python, transformers.OpenAIGPT{name}.from_pretrained(" in answer.stderr
