"""The command line: its help, its settings, the whole path from text to predictions, odd but honest requests."""

from __future__ import annotations

import csv
import json
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from workspace import CLASSIFICATION_FLAGS, TINY_FLAGS, list_files

from gpt1.cli.main import cli
from gpt1.cli.options import default_help, format_default
from gpt1.config import FinetuneConfig, PretrainConfig, default_value
from gpt1.runs import folder as runs
from gpt1.tables.table import read_table, write_table

COMMANDS = sorted(cli.commands)


def test_no_command_at_all_shows_the_help(ask: Any):
    assert ask() == ask("--help")
    assert ask().code == 0


def test_help_starts_fast_and_imports_nothing_heavy():
    code = """
import sys
from click.testing import CliRunner
from gpt1.cli.main import gpt1
for command in [[], *([name] for name in gpt1.commands)]:
    result = CliRunner().invoke(gpt1, [*command, "--help"])
    assert result.exit_code == 0, result.output
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "spacy", "numpy", "pyarrow", "tokenizers", "transformers", "matplotlib"} & set(loaded)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "gpt1", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(name: str, ask: Any):
    answer = ask(name, "--help")
    assert answer.exit_code == 0
    assert re.search(rf"^ +gpt1 {name}\b", answer.stdout, re.MULTILINE)
    undocumented = [o.opts[0] for o in cli.commands[name].params if isinstance(o, click.Option) and not o.help]
    assert not undocumented


@pytest.mark.parametrize("config", [PretrainConfig, FinetuneConfig])
def test_the_help_tells_what_a_setting_is_where_it_is_not_given(config: Any):
    usual, paper = (runs.resolve_settings(config, None, {"recipe": recipe}) for recipe in ("default", "paper"))
    for name in vars(usual):
        said = default_help(config, name)
        if name != "recipe":
            assert format_default(getattr(usual, name)) in said
            assert said.rpartition("paper: ")[2].endswith(format_default(getattr(paper, name)))


def test_the_help_tells_the_rate_of_every_model_size():
    for size in ("tiny", "mini", "small", "gpt1"):
        rate = runs.resolve_settings(PretrainConfig, None, {"model": size}).peak_lr
        assert f"{size} {format_default(rate)}" in default_help(PretrainConfig, "peak_lr")


def test_flags_a_file_and_defaults_are_laid_over_each_other_in_that_order(workspace: Path, tmp_path: Path, ask: Any):
    (tmp_path / "f.yaml").write_text("peak_lr: 0.002\nwarmup: 3\n")
    words = (
        f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 1 --config {tmp_path / 'f.yaml'}"
    )
    assert ask(*words.split(), "--warmup", "2").code == 0
    stored = runs.read_run_config(tmp_path / "r")
    assert (stored["peak_lr"], stored["warmup"], stored["beta1"]) == (0.002, 2, default_value(PretrainConfig, "beta1"))


def test_a_yaml_file_gives_the_head_its_own_defaults(workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any):
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))  # the features are not there yet
    monkeypatch.chdir(workspace)
    words = (
        f"finetune reviews.csv --out {tmp_path / 'r'} {CLASSIFICATION_FLAGS} --config head.yaml --epochs 1 --device cpu"
    )
    answer = ask(*words.split())
    assert answer.exit_code == 0, answer.stderr
    assert runs.read_run_config(tmp_path / "r")["lm_coef"] == 0
    assert "features of every example: 64 examples" in answer.stderr


def test_what_comes_next_can_be_typed_as_it_stands_whatever_folders_are_called(
    workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workspace / "runs/reviews", "my run's")
    shutil.copy(workspace / "reviews.csv", "my reviews.csv")
    said = ask("evaluate", "my run's", "my reviews.csv").err.splitlines()[-1]
    command = said.removeprefix("next: gpt1 ").partition("   (")[0]
    assert ask(*shlex.split(command)).code == 0
    assert len(read_table("predictions.jsonl")) == len(read_table("my reviews.csv"))


def test_the_whole_path_from_text_to_predictions(workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "new.csv"):
        shutil.copy(workspace / name, name)
    shutil.copytree(workspace / "corpus" / "tokenizer", "letters")

    answer = ask("tokenize", "reviews.csv", "--out", "corpus", "--tokenizer", "letters", "--workers", "1")
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "0.000% unknown" in answer.stderr
    assert answer.stderr.splitlines()[-1] == "next: gpt1 pretrain corpus --out runs/NAME"

    answer = ask(*f"pretrain corpus --out runs/books {TINY_FLAGS} --steps 3 --valid-fraction 0.2".split())
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "100 %  3/3 updates" in answer.stderr
    assert "next: gpt1 finetune TABLE --from runs/books" in answer.stderr

    answer = ask(*f"finetune reviews.csv {CLASSIFICATION_FLAGS} --out runs/reviews --epochs 1 --device cpu".split())
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "reviews.csv: 64 rows, 2 labels (no 32, yes 32); 0 duplicates removed" in answer.stderr
    assert "runs/reviews/report.html" in answer.stderr
    assert "next: gpt1 predict runs/reviews new.csv --out predictions.csv" in answer.stderr

    answer = ask("evaluate", "runs/reviews", "reviews.csv", "--json")
    assert answer.exit_code == 0
    result = json.loads(answer.stdout)
    assert result["rows"] == 64
    assert {"accuracy", "f1", "matthews", "loss"} <= set(result["metrics"])
    shown_to_people = ask("evaluate", "runs/reviews", "reviews.csv")
    assert "accuracy" in shown_to_people.out
    assert "0.0% of the texts cut at 32 tokens" in shown_to_people.err

    answer = ask("predict", "runs/reviews", "new.csv", "--out", "deep/in/predictions.jsonl")
    assert (answer.exit_code, answer.stdout) == (0, "")
    rows = read_table("deep/in/predictions.jsonl").rows
    assert [row["text"] for row in rows] == [row["text"] for row in read_table("new.csv").rows]
    assert all(row["probability_no"] + row["probability_yes"] == pytest.approx(1) for row in rows)

    answer = ask("next", "runs/books", "the", "--top", "4", "--json")
    tokens = json.loads(answer.stdout)
    assert [set(token) for token in tokens] == [{"token", "id", "probability"}] * 4
    assert "█" in ask("next", "runs/books", "the").out

    answer = ask("generate", "runs/books", "the file", "--max-tokens", "5", "--seed", "1")
    assert answer.stdout.startswith("the file")
    assert answer.stdout == ask("generate", "runs/books", "the file", "--max-tokens", "5", "--seed", "1").out


def test_predictions_without_out_are_the_table_and_nothing_else_on_standard_output(
    workspace: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    answer = ask("predict", "runs/reviews", "new.csv")
    rows = list(csv.DictReader(answer.stdout.splitlines()))
    assert len(rows) == 5
    assert list(rows[0]) == ["text", "prediction", "probability_no", "probability_yes"]


def test_predicting_what_was_predicted_gives_the_same_columns(
    workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    once, twice = tmp_path / "once.csv", tmp_path / "twice.csv"
    assert ask("predict", "runs/reviews", "new.csv", "--out", str(once)).code == 0
    assert ask("predict", "runs/reviews", str(once), "--out", str(twice)).code == 0
    assert read_table(once).columns == read_table(twice).columns
    assert [row["prediction"] for row in read_table(once).rows] == [row["prediction"] for row in read_table(twice).rows]


@pytest.mark.parametrize("labels", [["so, so", "très bien 좋아", '"=1+1"'], ["1", "0", "-1"], ["a b", "a_b", "A B"]])
def test_labels_of_any_spelling_come_back_as_they_are(
    labels: list[str], workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.csv", [{"text": f"row {i}", "label": labels[i % 3]} for i in range(24)])
    words = f"finetune {tmp_path / 't.csv'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    assert ask(*words.split()).code == 0
    assert ask("predict", str(tmp_path / "r"), "new.csv", "--out", str(tmp_path / "p.csv")).code == 0
    table = read_table(tmp_path / "p.csv")
    assert set(table.columns) == {"text", "prediction", *(f"probability_{label}" for label in labels)}
    assert {row["prediction"] for row in table.rows} <= set(labels)


def test_a_label_that_is_a_number_is_the_same_in_every_notation(
    workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.jsonl", [{"text": f"row {i}", "label": [1, 1.0, "1", 0][i % 4]} for i in range(24)])
    words = f"finetune {tmp_path / 't.jsonl'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    answer = ask(*words.split())
    assert "2 labels (0 6, 1 18)" in answer.stderr


@pytest.mark.parametrize("rows", [2, 3])
def test_a_table_of_a_few_rows_is_trained_on_and_told_to_have_no_validation(
    rows: int, workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.csv", [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(rows)])
    words = f"finetune {tmp_path / 't.csv'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    answer = ask(*words.split())
    assert answer.exit_code == 0, answer.stderr
    assert "no validation (too few rows" in answer.stderr


def test_what_a_model_does_not_see_of_a_prompt_is_told(workspace: Path, prose: list[str], tmp_path: Path, ask: Any):
    from gpt1.model.gpt import GPT
    from gpt1.tokenization.tokenizer import Tokenizer

    model = tmp_path / "model"
    English = Tokenizer.train(prose, vocab_size=300, pipeline="original")
    GPT.from_pretrained(workspace / "runs/books/model").save(model, tokenizer=English.fingerprint)
    English.save(model)
    for command in (["next", str(model)], ["generate", str(model), "--max-tokens", "1"]):
        assert "unknown" not in ask(*command, "the file").err
        assert re.search(r"3 of \d tokens are unknown", ask(*command, "☃☃☃").err)
        assert "are cut to the last 32" in ask(*command, "the file " * 100).err
        assert ask(*command, "").code == 0


def test_more_tokens_than_the_vocabulary_has_are_all_of_it(workspace: Path, ask: Any):
    answer = ask("next", str(workspace / "runs/books"), "the", "--top", "100000", "--json")
    assert sum(token["probability"] for token in json.loads(answer.stdout)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("extreme", ["--temperature 0", "--temperature 1e-9", "--temperature 1e9", "--top-k 999999999"])
def test_extreme_sampling_settings_write_text(extreme: str, workspace: Path, ask: Any):
    answer = ask("generate", str(workspace / "runs/books"), "the", "--max-tokens", "4", *extreme.split())
    assert answer.exit_code == 0
    assert answer.stdout.startswith("the")


def test_a_finished_run_is_not_run_again(workspace: Path, tmp_path: Path, ask: Any, monkeypatch: Any):
    monkeypatch.chdir(workspace)
    before = list_files(workspace / "runs/reviews")
    absolute = CLASSIFICATION_FLAGS.replace(
        "runs/books", str(workspace / "runs/books")
    )  # as it was started; the other names the same
    for how in (absolute, CLASSIFICATION_FLAGS):
        answer = ask(*f"finetune {workspace / 'reviews.csv'} {how} --out runs/reviews --resume".split())
        assert answer.exit_code == 0, answer.stderr
        assert "is finished; nothing is left to do" in answer.stderr
    assert list_files(workspace / "runs/reviews") == before


def test_a_model_folder_that_was_deleted_comes_again_with_resume(workspace: Path, tmp_path: Path, ask: Any):
    words = f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 4".split()
    assert ask(*words).code == 0
    weights = (tmp_path / "r/model/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "r/model")
    assert "--resume" in ask("next", str(tmp_path / "r"), "hi").err
    assert ask(*words, "--resume").code == 0
    assert (tmp_path / "r/model/model.safetensors").read_bytes() == weights
