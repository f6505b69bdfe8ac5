"""`gpt1 inspect`: its facts are right, its suggested commands run, and it warns of problems in data."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1.corpus.corpus import Corpus
from gpt1.datasets.task_guess import guess_task
from gpt1.errors import UserError
from gpt1.inspect import inspect, print_facts
from gpt1.tables.table import Table, read_table, write_table
from gpt1.tasks.kinds import KINDS

words = st.sampled_from(["good", "bad", "it is", "a file", "the list", "über", "좋아요 참"])
texts = st.lists(words, min_size=2, max_size=6).map(" ".join)


def make_table(columns: dict[str, list[Any]]) -> Table:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return Table("table", list(columns), rows)


def write_columns(folder: Path, columns: dict[str, list[Any]], name: str = "t.jsonl") -> Path:
    write_table(folder / name, make_table(columns).rows)
    return folder / name


@given(rows=st.lists(st.tuples(texts, st.sampled_from(["yes", "no", "so so"])), min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_of_a_table_match_its_rows(rows: list[tuple[str, str]], tmp_path: Path):
    path = write_columns(tmp_path, {"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    found = inspect(path)
    assert found["rows"] == len(rows)
    assert found["labels"] == Counter(label for _, label in rows)
    filled = [text for text, _ in rows if text.strip()]
    assert found["duplicates"] == len(filled) - len(set(filled))
    assert found["columns"]["text"]["distinct"] == len({text for text, _ in rows})
    lengths = sorted(len(text) for text, _ in rows)
    assert (found["texts"]["text"]["min"], found["texts"]["text"]["max"]) == (lengths[0], lengths[-1])


LONG = [f"some words of row {i}" for i in range(12)]
GUESSES = [
    ({"text": LONG, "label": ["a", "b"] * 6}, "classification", {"text": "text", "label": "label"}),
    ({"id": list(range(12)), "review": LONG, "sentiment": [0, 1] * 6}, "classification", {"text": "review"}),
    ({"body": LONG, "topic": ["x", "y", "z"] * 4}, "classification", {"text": "body", "label": "topic"}),
    ({"text": LONG, "y": [i / 7 for i in range(12)]}, "regression", {"text": "text", "label": "y"}),
    ({"premise": LONG, "hypothesis": LONG, "label": ["yes", "no"] * 6}, "entailment", {"hypothesis": "hypothesis"}),
    (
        {"sentence1": LONG, "sentence2": LONG, "gold_label": ["entailment", "neutral", "contradiction"] * 4},
        "entailment",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    ),
    ({"question1": LONG, "question2": LONG, "label": [0, 1] * 6}, "similarity", {"text_a": "question1"}),
    ({"a": LONG, "b": LONG, "score": [i / 3 for i in range(12)]}, "similarity", {"text_a": "a", "label": "score"}),
    (
        {"article": LONG, "question": LONG, "answers": [["x", "y"]] * 12, "right": [0, 1] * 6},
        "choice",
        {"context": "article", "question": "question", "choices": "answers", "label": "right"},
    ),
    (
        {"story": LONG, "ending1": LONG, "ending2": LONG, "answer": ["ending1", "ending2"] * 6},
        "choice",
        {"context": "story", "choices": "ending1,ending2", "label": "answer"},
    ),
    (
        {
            "story": [f"{text} and more of it" for text in LONG],
            "a": LONG,
            "b": LONG,
            "c": LONG,
            "right": ["a", "b"] * 6,
        },
        "choice",
        {"context": "story", "choices": "a,b,c", "label": "right"},
    ),
    ({"text": LONG}, "classification", {"text": "text"}),
    (
        {"text": LONG, "tags": ["x|y", "y", "x", "z|x", "y|z", "z|y"] * 2},
        "multilabel",
        {"text": "text", "label": "tags"},
    ),
    (
        {"question": LONG, "reply": LONG, "verdict": ["same", "different"] * 6},
        "entailment",
        {"premise": "question", "hypothesis": "reply", "label": "verdict"},
    ),
]


@pytest.mark.parametrize(("columns", "kind", "some"), GUESSES)
def test_the_task_of_a_table_is_guessed_from_its_columns(columns: Any, kind: str, some: dict[str, str]):
    found = guess_task(make_table(columns))
    assert found.kind == kind
    assert some.items() <= found.columns.items()
    assert set(found.columns) <= {*KINDS[kind].columns, "label"}


@pytest.mark.parametrize(("columns", "kind", "some"), [case for case in GUESSES if len(case[0]) > 1])
def test_the_suggested_command_runs(
    columns: Any,
    kind: str,
    some: Any,
    pretrained_run: Path,
    tmp_path: Path,
    run_cli: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    write_columns(tmp_path, columns)
    suggested = inspect("t.jsonl", from_=pretrained_run)["next"][-1]
    assert suggested.startswith("gpt1 finetune t.jsonl --kind " + kind)
    assert run_cli(*shlex.split(suggested)[1:], "--epochs", "1", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(("text", "model"), [("it was a good film", "starter"), ("좋은 영화였다", "RUN")])
def test_without_a_model_the_next_commands_name_starter_for_english(text: str, model: str, tmp_path: Path):
    write_table(tmp_path / "t.jsonl", [{"text": f"{text} {i}", "label": i % 2} for i in range(20)])
    found = inspect(tmp_path / "t.jsonl")
    assert "tokens" not in found
    tokens, train = found["next"]
    assert tokens.startswith(f"gpt1 inspect {tmp_path}/t.jsonl --from {model} ")
    assert f" --from {model} --out runs/NAME" in train


def test_unknown_and_truncated_shares_match_those_of_finetune(prose: list[str], pretrained_run: Path, tmp_path: Path):
    from gpt1.model.gpt import GPT
    from gpt1.tokenization.tokenizer import Tokenizer
    from gpt1.training.finetune import finetune

    shutil.copytree(pretrained_run, tmp_path / "run")
    tokenizer = Tokenizer.train(prose, vocab_size=300, pipeline="original")
    GPT.from_pretrained(tmp_path / "run/model").save(tmp_path / "run/model", tokenizer=tokenizer.fingerprint)
    tokenizer.save(tmp_path / "run/model")
    rows = {"text": [f"row {i} ☃ " + "of words " * i for i in range(40)], "label": ["a", "b"] * 20}
    path = write_columns(tmp_path, rows)
    tokens = inspect(path, from_=tmp_path / "run")["tokens"]
    run = finetune(
        path, from_=tmp_path / "run", out=tmp_path / "fine", kind="classification", text="text", epochs=1, device="cpu"
    )
    data = json.loads((run / "results.json").read_text())["data"]
    assert 0 < tokens["unknown_share"] == pytest.approx(data["unknown"])
    assert 0 < tokens["truncated_share"] == pytest.approx(data["cut"])


@pytest.mark.parametrize("long", ["cut", "head-tail", "windows"])
def test_long_rows_are_counted_with_the_long_option_of_the_run(
    long: str, pretrained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from gpt1.training.finetune import finetune

    texts = [f"row {i} " + "of words " * i for i in range(40)]
    path = write_columns(tmp_path, {"text": texts, "label": ["a", "b"] * 20})
    task = {"kind": "classification", "text": "text", "epochs": 1, "device": "cpu"}
    run = finetune(path, from_=pretrained_run, out=tmp_path / "fine", long=long, **task)
    data = json.loads((run / "results.json").read_text())["data"]
    found = inspect(path, from_=run)
    windowed, truncated = found["tokens"]["windowed_share"], found["tokens"]["truncated_share"]
    share, other, key = (windowed, truncated, "read_in_windows") if long == "windows" else (truncated, windowed, "cut")
    assert other == 0 < share == pytest.approx(data[key])
    print_facts(found)
    expected = {"cut": "rows truncated to 32 tokens\n", "windows": "rows read in windows of 32 tokens"}
    assert expected.get(long, "of the rows truncated to 32 tokens, head and tail kept") in capfd.readouterr().out
    assert inspect(run / "model")["task"]["long"] == long


WARNINGS = {
    "rows repeat": ({"text": ["a b"] * 2 + LONG, "label": ["x", "x"] + ["x", "y"] * 6}, "same text as an earlier row"),
    "labels contradict": ({"text": ["a b"] * 2 + LONG, "label": ["x", "y"] + ["x", "y"] * 6}, "but a different label"),
    "a label dominates": (
        {"text": LONG, "label": ["x"] * 10 + ["y"] * 2},
        "always predicting 'x' is correct for 10 of 12 rows",
    ),
    "a label is rare": ({"text": LONG * 4, "label": ["x"] * 46 + ["y"] * 2}, "accuracy is not a useful metric"),
    "one label": ({"text": LONG, "label": ["x"] * 12}, "same label ('x')"),
    "labels with one row": ({"text": LONG, "label": ["x", "y"] * 5 + ["q", "z"]}, "2 labels have a single row, 'q'"),
    "one label with one row": ({"text": LONG, "label": ["x", "y"] * 5 + ["x", "z"]}, "'z' has a single row"),
    "decimal commas": ({"text": LONG, "label": ["1,5", "2", "0,5"] * 4}, "the number '1,5' is read as 1.5."),
    "thousands": ({"text": LONG, "label": ["1.234", "1.000,5", "0,5"] * 4}, "the number '1.234' is read as 1234."),
    "the same number": ({"text": LONG, "label": ["007", "7", "x"] * 4}, "'007' and '7' (the same number)"),
    "spellings of a number": (
        {"text": LONG, "label": ["1.0", "1", "2"] * 4},
        "several spellings are read as one label: '1' and '1.0' as '1'.",
    ),
    "spellings of booleans": (
        {"text": LONG, "label": ["true", True, False, "false"] * 3},
        "'True' and 'true' as 'True', 'False' and 'false' as 'False'.",
    ),
    "Unicode forms": ({"text": LONG, "label": ["caf\u00e9", "cafe\u0301", "x"] * 4}, "(Unicode form)"),
    "a label for every row": ({"text": LONG, "label": [f"id{i}" for i in range(12)]}, "12 labels in 12 rows"),
    "labels missing": ({"text": LONG, "label": ["x", "y"] * 5 + ["x", ""]}, "1 of 12 rows have no label"),
    "labels alike": (
        {"text": LONG, "label": ["Pos", "pos ", "neg", "NEG"] * 3},
        "'Pos' and 'pos' (case, spaces or punctuation); 'neg' and 'NEG' (case, spaces or punctuation).",
    ),
    "texts missing": ({"text": ["", *LONG[1:]], "label": ["x", "y"] * 6}, "no text in 'text'"),
    "label in the text": (
        {"text": [f"it was {'good' if i % 2 else 'bad'} {i}" for i in range(12)], "label": ["bad", "good"] * 6},
        "'good' occurs in 100% of its own texts",
    ),
    "lost characters": ({"text": ["caf\ufffd au lait", *LONG[1:]], "label": ["x", "y"] * 6}, "characters were lost"),
    "wrong decoding": ({"text": ["cafÃ© au lait", *LONG[1:]], "label": ["x", "y"] * 6}, "read as Latin-1"),
    "markup": ({"text": ["so<br />good", *LONG[1:]], "label": ["x", "y"] * 6}, "contain HTML tags"),
    "a score that is NaN": (
        {"a": LONG, "b": LONG, "score": [0.5] * 11 + [float("nan")]},
        "line 12: the label is empty",
    ),
    "one answer": ({"context": LONG, "choices": [["x", "y"]] * 11 + [["x"]], "label": [0] * 12}, "1 answer"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_problems_of_a_table_are_warnings(name: str, tmp_path: Path):
    columns, expected = WARNINGS[name]
    warnings = inspect(write_columns(tmp_path, columns))["warnings"]
    assert any(expected in sentence for sentence in warnings), warnings


def test_labels_that_differ_in_sign_are_not_variants(tmp_path: Path):
    assert inspect(write_columns(tmp_path, {"text": LONG, "label": ["1", "-1"] * 6}))["warnings"] == []


def test_empty_labels_are_not_counted_as_a_label(tmp_path: Path):
    found = inspect(write_columns(tmp_path, {"text": LONG * 4, "label": ["x", "y"] * 23 + ["", None]}))
    assert found["labels"] == {"x": 23, "y": 23}
    assert not any("''" in sentence or "accuracy is not a useful metric" in sentence for sentence in found["warnings"])


def test_a_column_with_a_comma_in_its_name_is_one_column(tmp_path: Path):
    found = inspect(write_columns(tmp_path, {"text, clean": LONG, "label": [True, False] * 6}))
    assert list(found["texts"]) == ["text, clean"]
    assert found["columns"]["label"]["type"] == "booleans"
    assert found["warnings"] == []


def test_a_good_table_has_no_warnings(tmp_path: Path):
    assert inspect(write_columns(tmp_path, {"text": LONG, "label": ["a", "b"] * 6}))["warnings"] == []


@pytest.mark.parametrize("name", ["one label", "labels missing", "a score that is NaN", "one answer"])
def test_finetune_is_not_suggested_if_it_would_fail(name: str, tmp_path: Path):
    found = inspect(write_columns(tmp_path, WARNINGS[name][0]))
    assert any("gpt1 finetune would fail" in sentence for sentence in found["warnings"])
    assert not any(command.startswith("gpt1 finetune") for command in found["next"])


def test_a_data_set_has_official_counts_and_warnings_of_duplicates(tmp_path: Path):
    folder = tmp_path / "RTE"
    folder.mkdir()
    header = "index\tsentence1\tsentence2\tlabel\n"
    lines = [f"{i}\tthe premise {i}\tthe hypothesis {i}\tentailment\n" for i in range(6)]
    (folder / "train.tsv").write_text(header + "".join(lines))
    (folder / "dev.tsv").write_text(header + lines[0] + "7\tother\tthing\tnot_entailment\n")
    found = inspect("rte", data_dir=tmp_path)
    splits = found["splits"]
    assert (splits["train"]["rows"], splits["train"]["official_rows"]) == (6, 2490)
    assert (splits["dev"]["rows"], splits["dev"]["official_rows"]) == (2, 277)
    assert "missing" in splits["test"]
    warnings = " ".join(found["warnings"])
    assert "rte:train has 6 rows; the official split has 2,490" in warnings
    assert "1 of 6 rows are also in dev" in warnings
    assert found["next"][0].startswith("gpt1 finetune rte --data-dir")


def test_a_data_set_without_files_is_described_from_the_registry(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GPT1_DATA", raising=False)
    found = inspect("RACE")
    assert found["splits"]["train"] == {"official_rows": 87_866}
    assert any("--data-dir DIR" in command for command in found["next"])


def test_official_counts_depend_on_the_layout_and_broken_splits_are_not_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "MRPC").mkdir()
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    (tmp_path / "MRPC/msr_paraphrase_train.txt").write_text(header + "1\t1\t2\ta\tb\n0\t1\t2\tc\td\n")
    assert inspect("mrpc", data_dir=tmp_path)["splits"]["train"]["official_rows"] == 4_076
    (tmp_path / "MRPC/msr_paraphrase_train.txt").write_text(header + "2\t1\t2\ta\tb\n")
    (tmp_path / "MRPC/dev.tsv").write_text(header + "1\t1\t2\ta\tb\n")
    print_facts(inspect("mrpc", data_dir=tmp_path))
    lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines() if line.split()}
    assert "broken" in lines["train"]
    assert "not read" in lines["dev"]


def test_with_data_dir_a_data_set_takes_precedence_over_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained_run: Path
):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    shutil.copytree(pretrained_run, tmp_path / "rte")
    monkeypatch.chdir(tmp_path)
    assert inspect("rte", data_dir=tmp_path)["type"] == "data set"
    assert inspect("rte")["type"] == "run"


def test_predict_is_suggested_for_a_split_without_labels(tmp_path: Path):
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tthe premise\tthe hypothesis\n")
    found = inspect("rte:test", data_dir=tmp_path)
    assert "label" not in found["task"]["columns"]
    assert found["next"][0].startswith("gpt1 predict RUN rte:test")


def test_every_file_of_a_corpus_is_verified(corpus: Path, tmp_path: Path):
    found = inspect(corpus)
    opened = Corpus.open(corpus)
    assert (found["tokens"], found["documents"]) == (opened.tokens, opened.documents)
    lengths = found["document_tokens"]
    assert lengths["min"] <= lengths["median"] <= lengths["max"] < opened.tokens
    for name in opened.manifest["files"]:
        shutil.copytree(corpus, tmp_path / "copy", dirs_exist_ok=True)
        data = bytearray((tmp_path / "copy" / name).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "copy" / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            inspect(tmp_path / "copy")


def test_a_corpus_is_compared_with_the_tokenizer_of_a_run(corpus: Path, pretrained_run: Path, workspace: Path):
    assert inspect(corpus, from_=pretrained_run)["same_tokenizer_as"] == {str(pretrained_run): True}
    found = inspect(workspace / "other", from_=pretrained_run)
    assert "different tokenizer" in " ".join(found["warnings"])
    assert "--from" not in found["next"][0]


def test_a_model_has_shape_tokenizer_and_task(workspace: Path):
    found = inspect(workspace / "runs/books/model")
    assert found["shape"] == {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 32, "vocab_size": 300}
    assert "task" not in found
    task = inspect(workspace / "runs/reviews/model")["task"]
    assert (task["kind"], task["labels"]) == ("classification", ["no", "yes"])
    theirs = inspect(workspace / "theirs")
    assert theirs["format"] == "huggingface"
    assert theirs["next"][0].startswith("gpt1 import huggingface")


def test_files_that_tokenize_would_skip_are_a_warning(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name, text in {"a.txt": "some text", "b.md": "", "deep/c.docx": "x", "deep/d.PDF": "x", ".e": "x"}.items():
        (tmp_path / name).write_text(text)
    found = inspect(tmp_path)
    assert found["files"] == 2
    assert found["warnings"][0].startswith("2 files would be skipped (c.docx, d.PDF). Supported: .txt")
    assert found["warnings"][1:] == ["1 empty file."]


def test_texts_and_tokenizers_are_inspected(workspace: Path):
    assert inspect(workspace / "short.txt")["next"] == [f"gpt1 tokenize {workspace / 'short.txt'} --out corpus"]
    assert inspect(workspace / "corpus/tokenizer")["tokenizer"]["vocab_size"] == 300


@pytest.mark.parametrize(
    "what",
    ["reviews.csv", "short.txt", "corpus", "corpus/tokenizer", "runs", "runs/books", "runs/reviews/model", "race"],
)
def test_every_kind_of_source_is_printed_as_text_and_json(
    what: str, workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("GPT1_DATA", raising=False)
    answer = run_cli("inspect", what)
    assert answer.exit_code == 0
    assert "next: gpt1 " in answer.stderr
    assert answer.stdout.strip()
    assert json.loads(run_cli("inspect", what, "--json").stdout)["type"] == inspect(what)["type"]


def test_control_characters_of_cells_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    print_facts(inspect(write_columns(tmp_path, {"text": ["\x1b[2J so red", *LONG[1:]], "label": ["a\x07", "b"] * 6})))
    assert "\x1b" not in capfd.readouterr().out


def test_quoted_cells_in_tsv_are_a_warning(tmp_path: Path):
    rows = [{"text": f'he said "{i}"', "label": "xy"[i % 2]} for i in range(8)]
    pandas.DataFrame(rows).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    (warning,) = [sentence for sentence in inspect(tmp_path / "t.tsv")["warnings"] if "quotes" in sentence]
    assert "8 rows have quotes around a text" in warning
    (tmp_path / "t.tsv").rename(tmp_path / "t.csv")  # as the warning says
    assert read_table(tmp_path / "t.csv").rows == rows
    plain = "text\tlabel\n" + '"Great," he said\tx\n' * 2 + '"so"\ty\n' * 2
    (tmp_path / "plain.tsv").write_text(plain)
    assert not [sentence for sentence in inspect(tmp_path / "plain.tsv")["warnings"] if "quotes" in sentence]


def test_the_columns_of_predict_are_not_labels(tmp_path: Path):
    columns = {"text": LONG, "prediction": ["a", "b"] * 6, "probability_a": [0.5] * 12, "probability_b": [0.5] * 12}
    found = inspect(write_columns(tmp_path, columns))
    assert found["task"]["columns"] == {"text": "text"}
    assert not any("finetune" in command for command in found["next"])
