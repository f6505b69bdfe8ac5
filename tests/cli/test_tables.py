"""Users' tables on the command line: other column names, other formats, pipes, one text, a second run."""

from __future__ import annotations

import inspect
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from workspace import CLASSIFICATION_FLAGS, list_files

from gpt1.cli.main import cli
from gpt1.console import Console, default_progress
from gpt1.corpus.tokenize import tokenize
from gpt1.experiments.label_efficiency import curve
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.inference.convert import export_model, import_model
from gpt1.inference.evaluate import evaluate
from gpt1.inference.predict import predict_into
from gpt1.inference.predictor import LanguageModel
from gpt1.progress import Progress
from gpt1.tables.table import read_table, write_table
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain

FAST = "--epochs 1 --batch-size 16 --precision fp32 --device cpu"


@pytest.fixture(autouse=True)
def enter_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


@pytest.fixture
def pipe_to_stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def replace_stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))

    return replace_stdin


def run_predict(run_cli: Any, *words: str) -> list[dict[str, Any]]:
    answer = run_cli("predict", "runs/reviews", *words)
    assert answer.exit_code == 0, answer.stderr
    path = Path("answer.jsonl" if answer.stdout.startswith("{") else "answer.csv")
    path.write_text(answer.stdout)
    return read_table(path).rows


def test_columns_of_other_names_are_named_by_flags(run_cli: Any):
    rows = read_table("reviews.csv").rows[:8]
    write_table("other.csv", [{"review": row["text"], "stars": row["label"]} for row in rows])
    write_table("same.csv", [{"text": row["text"], "label": row["label"]} for row in rows])
    refused = run_cli("predict", "runs/reviews", "other.csv")
    assert (refused.exit_code, "--text" in refused.stderr) == (2, True)
    own = [row["prediction"] for row in run_predict(run_cli, "same.csv")]
    assert [row["prediction"] for row in run_predict(run_cli, "other.csv", "--text", "review")] == own
    refused = run_cli("evaluate", "runs/reviews", "other.csv", "--text", "review")
    assert "--label" in refused.stderr
    found = run_cli("evaluate", "runs/reviews", "other.csv", "--text", "review", "--label", "stars", "--json")
    expected = run_cli("evaluate", "runs/reviews", "same.csv", "--json")
    assert json.loads(found.stdout)["metrics"] == json.loads(expected.stdout)["metrics"]
    next_step = run_cli("evaluate", "runs/reviews", "other.csv", "--text", "review", "--label", "stars").stderr
    assert "gpt1 predict runs/reviews other.csv --text review --out" in next_step


def test_text_columns_can_be_joined_for_a_prediction(run_cli: Any):
    write_table("parts.csv", [{"title": "good", "body": "film"}])
    write_table("whole.csv", [{"text": "good\nfilm"}])
    (joined,), (whole,) = run_predict(run_cli, "parts.csv", "--text", "title,body"), run_predict(run_cli, "whole.csv")
    assert joined["probability_yes"] == whole["probability_yes"]


@pytest.mark.parametrize("text", ["what a film", "Race: what a film"])  # race is also a data set
def test_a_text_is_predicted_as_a_row_with_it(text: str, run_cli: Any):
    write_table("whole.jsonl", [{"text": text}])
    assert run_predict(run_cli, text) == run_predict(run_cli, "whole.jsonl")


def test_in_a_terminal_the_prediction_of_a_text_is_a_table_and_json_on_request(
    run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    (row,) = run_predict(run_cli, "what a film")
    assert run_cli("predict", "runs/reviews", "new.csv", "--json").stdout.startswith("{")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert json.loads(run_cli("predict", "runs/reviews", "what a film", "--json").stdout) == row
    lines = run_cli("predict", "runs/reviews", "what a film").stdout.splitlines()
    other = {"yes": "no", "no": "yes"}[row["prediction"]]
    assert lines[0] == f"prediction: {row['prediction']}"
    for line, label in zip(lines[1:], [row["prediction"], other], strict=True):
        assert line.split()[:2] == [label, f"{100 * row[f'probability_{label}']:.1f}%"]
    assert run_cli("predict", "runs/reviews", "what a film", "--json", "--out", "p.jsonl").exit_code == 2


@pytest.mark.parametrize("word", ["new.cvs", "nowhere", "my new.csv"])
def test_a_misspelled_file_is_not_taken_for_a_text(word: str, run_cli: Any):
    refused = run_cli("predict", "runs/reviews", word)
    assert refused.exit_code == 2
    assert f"{word} does not exist" in refused.stderr


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_on_standard_input_gives_the_rows_of_the_file(kind: str, run_cli: Any, pipe_to_stdin: Any):
    rows = [{"text": row["text"], "id": i} for i, row in enumerate(read_table("new.csv").rows)]
    path = Path(f"piped.{kind}")
    if kind == "json":
        path.write_text(json.dumps(rows))
    else:
        write_table(path, rows)
    pipe_to_stdin(path.read_bytes())
    answer = run_cli("predict", "runs/reviews", "-")
    assert answer.exit_code == 0, answer.stderr
    assert "standard input: 5 rows" in answer.stderr
    assert answer.stdout == run_cli("predict", "runs/reviews", str(path)).stdout
    pipe_to_stdin(Path("reviews.csv").read_bytes())
    expected = run_cli("evaluate", "runs/reviews", "reviews.csv", "--json").stdout
    assert run_cli("evaluate", "runs/reviews", "-", "--json").stdout == expected


def test_standard_input_that_is_not_a_table_is_an_error(run_cli: Any, pipe_to_stdin: Any):
    pipe_to_stdin(b"")
    assert "standard input is empty" in run_cli("predict", "runs/reviews", "-").stderr
    pipe_to_stdin(b"\x1f\x8b\x08")
    assert "zcat" in run_cli("predict", "runs/reviews", "-").stderr
    pipe_to_stdin(b"a,b\n1,2\n")
    assert "standard input has no column 'text'" in run_cli("predict", "runs/reviews", "-").stderr
    for lines in (b"A good film.\nA bad one.\n", b"A good film, really; so good.\nA bad one.\n"):
        pipe_to_stdin(lines)
        assert "add the line text before the texts" in run_cli("predict", "runs/reviews", "-").stderr


@pytest.mark.parametrize(("delimiter", "shown"), [(";", ";"), ("\t", "tab")])
def test_a_pipe_and_a_file_have_the_same_delimiter(delimiter: str, shown: str, run_cli: Any, pipe_to_stdin: Any):
    lines = delimiter.join(["nr", "text"]), delimiter.join(["1", "a film, so good"])
    Path("piped.csv").write_text("\n".join(lines))
    pipe_to_stdin(Path("piped.csv").read_bytes())
    answer = run_cli("predict", "runs/reviews", "-")
    assert answer.exit_code == 0, answer.stderr
    assert "a film, so good" in answer.stdout
    for given in ("piped.csv", "-"):
        pipe_to_stdin(Path("piped.csv").read_bytes())
        refused = run_cli("predict", "runs/reviews", given, "--text", "body")
        assert f"has no column 'body'. Columns (delimiter: {shown}): nr, text." in refused.stderr
        assert "add the line" not in refused.stderr


def test_semicolons_stay_semicolons_in_the_output(run_cli: Any, pipe_to_stdin: Any):
    rows = '"a;b";"text, more";text\n"1;\t2";3,5;a film\n'
    Path("in.csv").write_text(rows)
    pipe_to_stdin(rows.encode())
    printed = run_cli("predict", "runs/reviews", "-").stdout
    assert printed.splitlines()[0].startswith('"a;b";"text, more";text;prediction;probability_')
    assert run_cli("predict", "runs/reviews", "in.csv", "--out", "out.csv").exit_code == 0
    assert run_cli("features", "runs/reviews", "in.csv", "--out", "features.csv").exit_code == 0
    assert Path("out.csv").read_text() == printed
    expected = [{"a;b": "1;\t2", "text, more": "3,5", "text": "a film"}]
    for name in ("out.csv", "features.csv"):
        assert [{key: row[key] for key in expected[0]} for row in read_table(name).rows] == expected
    Path("tabs.tsv").write_text("n\ttext\n1\ta film\n")
    assert run_cli("predict", "runs/reviews", "tabs.tsv", "--out", "commas.csv").exit_code == 0
    assert Path("commas.csv").read_text().startswith("n,text,")


def test_a_row_without_text_has_an_empty_prediction(run_cli: Any):
    write_table("gaps.jsonl", [{"text": "a film"}, {"text": " "}, {"text": None}])
    answer = run_cli("predict", "runs/reviews", "gaps.jsonl")
    assert "2 rows have no text, so no prediction" in answer.stderr
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["prediction"] is None for row in rows] == [False, True, True]
    assert {rows[1][name] for name in rows[1] if name.startswith("probability_")} == {None}


def test_predictions_have_the_type_of_the_labels(run_cli: Any):
    rows = read_table("reviews.csv").rows[:40]
    for name, labels in {"ints": [0, 1], "bools": [False, True], "floats": [0.5, 2.0]}.items():
        table = [{"text": row["text"], "label": labels[i % 2]} for i, row in enumerate(rows)]
        write_table(f"{name}.jsonl", table)
        command = f"finetune {name}.jsonl --out runs/{name} {CLASSIFICATION_FLAGS} {FAST} --train head --overwrite"
        assert run_cli(*command.split()).exit_code == 0
        for out in ("typed.jsonl", "typed.parquet"):
            assert run_cli("predict", f"runs/{name}", f"{name}.jsonl", "--out", out, "--overwrite").exit_code == 0
            found = read_table(out).rows
            assert {type(row["prediction"]) for row in found} == {type(labels[0])}
            assert {row["prediction"] for row in found} <= {*labels}
            assert f"probability_{labels[1]}" in found[0]


def test_the_text_field_of_a_corpus_can_have_any_name(run_cli: Any):
    write_table("reviews-only.jsonl", [{"review": "good film"}, {"review": "bad film"}])
    refused = run_cli("tokenize", "reviews-only.jsonl", "--out", "c1", "--tokenizer", "runs/books")
    assert "Did you mean --text-field review?" in refused.stderr
    made = run_cli(
        "tokenize", "reviews-only.jsonl", "--out", "c1", "--tokenizer", "runs/books", "--text-field", "review"
    )
    assert made.exit_code == 0, made.stderr
    assert "in 2 documents" in made.stderr


@pytest.mark.parametrize("name", ["score.csv", "score.tsv", "score.jsonl", "score.parquet"])
def test_score_suggests_the_column_of_the_texts(name: str, run_cli: Any):
    write_table(name, [{"id": "a7", "my review": "a good film"}, {"id": "a8", "my review": "a bad film"}])
    refused = run_cli("score", "runs/books", name)
    assert refused.exit_code == 2
    assert "has no" in refused.stderr
    assert "Found: id, my review." in " ".join(refused.stderr.split())
    assert "Did you mean --text 'my review'?" in refused.stderr
    assert run_cli("score", "runs/books", name, "--text", "my review").exit_code == 0


def test_a_spreadsheet_of_another_format_is_to_be_saved_again(run_cli: Any):
    Path("old.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    for command in (
        "predict runs/reviews old.xls",
        "inspect old.xls",
        "finetune old.xls --from runs/books --out runs/x",
    ):
        assert "Save it as .xlsx or .csv in the spreadsheet" in run_cli(*command.split()).stderr
    assert "Save it as .csv in the spreadsheet" in run_cli("score", "runs/books", "old.xls").stderr


WRITERS = {
    "corpus2": "tokenize short.txt --tokenizer runs/books",
    "runs/again": f"finetune reviews.csv {CLASSIFICATION_FLAGS} {FAST} --train head",
    "export": "export huggingface runs/books",
    "again.csv": "predict runs/reviews new.csv",
}


def read_content(path: Path) -> list[str] | str:
    if path.is_file():
        return path.read_text()
    return [name for name in list_files(path) if not name.startswith("events/")]  # their names have the time


@pytest.mark.parametrize("out", WRITERS)
def test_every_writer_refuses_what_exists_and_replaces_it_with_overwrite(out: str, run_cli: Any):
    command = [*WRITERS[out].split(), "--out", out]
    assert run_cli(*command).exit_code == 0
    before = read_content(Path(out))
    refused = run_cli(*command)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    again = run_cli(*command, "--overwrite")
    assert again.exit_code == 0, again.stderr
    assert before == read_content(Path(out))
    assert not [path for path in Path(out).parent.iterdir() if ".deleted-" in path.name or ".partial" in path.name]


def test_overwrite_never_deletes_other_files_or_its_own_input(run_cli: Any):
    Path("project").mkdir(exist_ok=True)
    Path("project/config.yaml").write_text("stage: production\n")
    refused = run_cli(*f"finetune reviews.csv --out project {CLASSIFICATION_FLAGS} --overwrite".split())
    assert "replaces only what gpt1 wrote" in refused.stderr
    refused = run_cli(*f"finetune reviews.csv --out runs/books {CLASSIFICATION_FLAGS} --overwrite".split())
    assert "would delete runs/books, which the command reads" in refused.stderr
    both = run_cli(*f"finetune reviews.csv --out runs/reviews {CLASSIFICATION_FLAGS} --overwrite --resume".split())
    assert "--resume and --overwrite" in both.stderr
    wrong = run_cli(*f"finetune single.csv --out runs/reviews {CLASSIFICATION_FLAGS} --overwrite".split())
    assert "same label" in wrong.stderr
    assert Path("project/config.yaml").exists()
    assert Path("runs/reviews/model").is_dir()  # an error comes before anything is deleted


def test_overwrite_replaces_no_file_of_another_kind(run_cli: Any, tmp_path: Path):
    for words, option in (
        ("predict runs/reviews new.csv", "--out train.csv"),
        ("predict runs/reviews new.csv", "--out train.parquet"),
        ("features runs/reviews new.csv", "--out train.csv"),
        ("evaluate runs/reviews reviews.csv --no-baselines", "--report page.html"),
    ):
        flag, name = option.split()
        path = tmp_path / name
        path.write_text("text,label\ngood,1\n")  # also not a Parquet file, and not a page
        refused = run_cli(*words.split(), flag, str(path), "--overwrite")
        assert (refused.exit_code, "replaces only what gpt1 wrote" in refused.stderr) == (2, True), refused.stderr
        assert path.read_text() == "text,label\ngood,1\n"
        path.write_text("")
        assert run_cli(*words.split(), flag, str(path), "--overwrite").exit_code == 0
        assert path.stat().st_size


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tokenize": tokenize,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "predict": predict_into,
    "generate": LanguageModel.generate,
    "import": import_model,
    "export": export_model,
    "curve": curve,
    "zeroshot": zeroshot,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_command_and_the_function_have_the_same_defaults(name: str):
    defaults = {key: value.default for key, value in inspect.signature(FUNCTIONS[name]).parameters.items()}
    for option in cli.commands[name].params:
        own = defaults.get(option.name or "", inspect.Parameter.empty)
        if isinstance(option, click.Option) and not option.required and isinstance(own, str | int | float | None):
            default = option.default if isinstance(option.default, str | int | float) else None
            assert (default or None) == (own or None), option.name


def test_functions_print_their_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch):
    assert type(default_progress()) is Progress
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    assert isinstance(default_progress(), Console)
