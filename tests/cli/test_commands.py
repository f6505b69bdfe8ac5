"""The command line: help, settings, the whole workflow from text to predictions, unusual but valid requests."""

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
from click.testing import CliRunner
from workspace import CLASSIFICATION_FLAGS, TINY_FLAGS, list_files

from gpt1.cli.main import cli
from gpt1.config import FinetuneConfig, PretrainConfig, default_value
from gpt1.recipes import COMPUTED_DEFAULTS, describe_default, format_default
from gpt1.runs import folder as runs
from gpt1.tables.table import read_table, write_table
from gpt1.training.finetune import resolve_finetune_settings

COMMANDS = sorted(cli.commands)


def test_without_a_command_the_help_is_shown(run_cli: Any):
    assert run_cli() == run_cli("--help")
    assert run_cli().exit_code == 0


def test_help_is_fast_and_imports_no_large_package():
    code = """
import sys
from click.testing import CliRunner
from gpt1.cli.main import cli
for command in [[], *([name] for name in cli.commands)]:
    result = CliRunner().invoke(cli, [*command, "--help"])
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
def test_every_command_has_help_with_an_example_of_itself(name: str, run_cli: Any):
    answer = run_cli(name, "--help")
    assert answer.exit_code == 0
    assert re.search(rf"^ +gpt1 {name}\b", answer.stdout, re.MULTILINE)
    undocumented = [o.opts[0] for o in cli.commands[name].params if isinstance(o, click.Option) and not o.help]
    assert not undocumented


def test_every_command_summary_fits_its_line_at_80_columns():
    lines = CliRunner().invoke(cli, ["--help"], terminal_width=80).output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == list(cli.commands)
    assert not [line for line in lines if len(line) > 80 or line.endswith("...")]


@pytest.mark.parametrize("config", [PretrainConfig, FinetuneConfig])
def test_the_help_shows_the_default_of_every_setting_in_both_recipes(config: Any):
    default, paper = (runs.resolve_settings(config, {"recipe": recipe}) for recipe in ("default", "paper"))
    for name in vars(default):
        text = describe_default(config, name)
        if name != "recipe":
            assert format_default(getattr(default, name)) in text
            assert text.rpartition("paper: ")[2].endswith(format_default(getattr(paper, name)))


def test_the_help_shows_the_learning_rate_of_every_model_size():
    for size in ("tiny", "mini", "small", "gpt1"):
        learning_rate = runs.resolve_settings(PretrainConfig, {"model": size}).peak_lr
        assert f"{size} {format_default(learning_rate)}" in describe_default(PretrainConfig, "peak_lr")


def test_the_help_says_which_defaults_of_fine_tuning_depend_on_the_model_or_the_table():
    models = [{"n_embd": n_embd, "dropout": dropout} for n_embd in (64, 384, 768) for dropout in (0.0, 0.1)]
    models_and_tables = [(model, rows) for model in models for rows in (60, 600, 3000, 100_000)]
    resolved = [vars(resolve_finetune_settings(model, {}, rows)) for model, rows in models_and_tables]
    computed = {name for name in resolved[0] if len({settings[name] for settings in resolved}) > 1}
    assert computed == set(COMPUTED_DEFAULTS)
    learning_rates = [settings["peak_lr"] for settings in resolved]
    assert learning_rates == [min(6.25e-5 * 768 / model["n_embd"], 3.75e-4) for model, _ in models_and_tables]
    factors = [settings["embedding_lr_factor"] for settings in resolved]
    assert factors == [max(1, model["n_embd"] / 128) for model, _ in models_and_tables]
    assert max(settings["batch_size"] for settings in resolved) == 32
    assert min(settings["epochs"] for settings in resolved) == 3


def test_flags_override_the_config_file_which_overrides_the_defaults(workspace: Path, tmp_path: Path, run_cli: Any):
    (tmp_path / "f.yaml").write_text("peak_lr: 0.002\nwarmup: 3\n")
    words = (
        f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 1 --config {tmp_path / 'f.yaml'}"
    )
    assert run_cli(*words.split(), "--warmup", "2").exit_code == 0
    stored = runs.read_run_config(tmp_path / "r")
    assert (stored["peak_lr"], stored["warmup"], stored["beta1"]) == (0.002, 2, default_value(PretrainConfig, "beta1"))


def test_training_only_the_head_from_a_yaml_file_uses_the_defaults_of_the_head(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.setenv("GPT1_CACHE", str(tmp_path / "cache"))  # an empty cache of features
    monkeypatch.chdir(workspace)
    words = (
        f"finetune reviews.csv --out {tmp_path / 'r'} {CLASSIFICATION_FLAGS} --config head.yaml --epochs 1 --device cpu"
    )
    answer = run_cli(*words.split())
    assert answer.exit_code == 0, answer.stderr
    assert runs.read_run_config(tmp_path / "r")["lm_coef"] == 0
    assert "computing features: 64 examples" in answer.stderr


def test_the_printed_next_command_runs_as_printed_for_any_folder_name(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workspace / "runs/reviews", "my run's")
    shutil.copy(workspace / "reviews.csv", "my reviews.csv")
    hint = run_cli("evaluate", "my run's", "my reviews.csv").stderr.splitlines()[-1]
    command = hint.removeprefix("next: gpt1 ").partition("   (")[0]
    assert run_cli(*shlex.split(command)).exit_code == 0
    assert len(read_table("predictions.jsonl")) == len(read_table("my reviews.csv"))


def test_the_next_commands_of_an_evaluation_have_its_options(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(workspace / "runs/reviews", "run")
    rows = read_table(workspace / "reviews.csv").rows[:8]
    write_table("t.csv", [{**row, "label": row["label"] if i else ""} for i, row in enumerate(rows)])
    answer = run_cli("evaluate", "run", "t.csv", "--unlabeled", "drop", "--no-verify", "--no-baselines")
    hints = [line.removeprefix("next: gpt1 ") for line in answer.stderr.splitlines() if "(" in line and "gpt1 " in line]
    page, predictions = (shlex.split(hint.partition("   (")[0].strip().removeprefix("gpt1 ")) for hint in hints[-2:])
    assert {"--unlabeled", "drop", "--no-verify", "--no-baselines"} < {*page}
    assert "--no-verify" in predictions
    for words in (page, predictions):
        answer = run_cli(*words)
        assert answer.exit_code == 0, answer.stderr


def test_the_whole_workflow_from_text_to_predictions_works(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews.csv", "new.csv"):
        shutil.copy(workspace / name, name)
    shutil.copytree(workspace / "corpus" / "tokenizer", "letters")

    answer = run_cli("tokenize", "reviews.csv", "--out", "corpus", "--tokenizer", "letters", "--workers", "1")
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "0.000% unknown" in answer.stderr
    assert answer.stderr.splitlines()[-1] == "next: gpt1 pretrain corpus --out runs/NAME"

    answer = run_cli(*f"pretrain corpus --out runs/books {TINY_FLAGS} --steps 3 --valid-fraction 0.2".split())
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "100%  3/3 steps" in answer.stderr
    assert "the model has learned only token frequencies" in answer.stderr  # in three steps
    assert "next:" not in answer.stderr

    answer = run_cli(*f"finetune reviews.csv {CLASSIFICATION_FLAGS} --out runs/reviews --epochs 1 --device cpu".split())
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert "reviews.csv: 64 rows, 2 labels (no 32, yes 32); 0 duplicates removed" in answer.stderr
    assert "runs/reviews/report.html" in answer.stderr
    assert "next: gpt1 predict runs/reviews new.csv --out predictions.csv" in answer.stderr
    assert "evaluate runs/reviews TEST   (TEST: labeled rows that were not used for training)" in answer.stderr

    answer = run_cli("evaluate", "runs/reviews", "reviews.csv", "--json")
    assert answer.exit_code == 0
    result = json.loads(answer.stdout)
    assert result["rows"] == 64
    assert {"accuracy", "f1", "matthews", "loss"} <= set(result["metrics"])
    printed = run_cli("evaluate", "runs/reviews", "reviews.csv")
    assert "accuracy" in printed.stdout
    assert "0.0% of the texts truncated to 32 tokens" in printed.stderr

    answer = run_cli("predict", "runs/reviews", "new.csv", "--out", "deep/in/predictions.jsonl")
    assert (answer.exit_code, answer.stdout) == (0, "")
    rows = read_table("deep/in/predictions.jsonl").rows
    assert [row["text"] for row in rows] == [row["text"] for row in read_table("new.csv").rows]
    assert all(row["probability_no"] + row["probability_yes"] == pytest.approx(1) for row in rows)

    answer = run_cli("next", "runs/books", "the", "--top", "4", "--json")
    tokens = json.loads(answer.stdout)
    assert [set(token) for token in tokens] == [{"token", "id", "probability"}] * 4
    assert "█" in run_cli("next", "runs/books", "the").stdout

    answer = run_cli("generate", "runs/books", "the file", "--max-tokens", "5", "--seed", "1")
    assert answer.stdout.startswith("the file")
    assert answer.stdout == run_cli("generate", "runs/books", "the file", "--max-tokens", "5", "--seed", "1").stdout


def test_predict_without_out_prints_only_the_table_on_standard_output(workspace: Path, run_cli: Any, monkeypatch: Any):
    monkeypatch.chdir(workspace)
    answer = run_cli("predict", "runs/reviews", "new.csv")
    rows = list(csv.DictReader(answer.stdout.splitlines()))
    assert len(rows) == 5
    assert list(rows[0]) == ["text", "prediction", "probability_no", "probability_yes"]


def test_predicting_a_table_of_predictions_gives_the_same_columns(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    once, twice = tmp_path / "once.csv", tmp_path / "twice.csv"
    assert run_cli("predict", "runs/reviews", "new.csv", "--out", str(once)).exit_code == 0
    assert run_cli("predict", "runs/reviews", str(once), "--out", str(twice)).exit_code == 0
    assert read_table(once).columns == read_table(twice).columns
    assert [row["prediction"] for row in read_table(once).rows] == [row["prediction"] for row in read_table(twice).rows]


@pytest.mark.parametrize("labels", [["so, so", "très bien 좋아", '"=1+1"'], ["1", "0", "-1"], ["a b", "a_b", "A B"]])
def test_labels_of_any_spelling_are_predicted_unchanged(
    labels: list[str], workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.csv", [{"text": f"row {i}", "label": labels[i % 3]} for i in range(24)])
    words = f"finetune {tmp_path / 't.csv'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    assert run_cli(*words.split()).exit_code == 0
    assert run_cli("predict", str(tmp_path / "r"), "new.csv", "--out", str(tmp_path / "p.csv")).exit_code == 0
    table = read_table(tmp_path / "p.csv")
    assert set(table.columns) == {"text", "prediction", *(f"probability_{label}" for label in labels)}
    assert {row["prediction"] for row in table.rows} <= set(labels)


def test_equal_numbers_are_the_same_label_in_every_notation(
    workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.jsonl", [{"text": f"row {i}", "label": [1, 1.0, "1", 0][i % 4]} for i in range(24)])
    words = f"finetune {tmp_path / 't.jsonl'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    answer = run_cli(*words.split())
    assert "2 labels (0 6, 1 18)" in answer.stderr


@pytest.mark.parametrize("rows", [2, 3])
def test_a_table_of_a_few_rows_is_trained_on_without_validation_and_says_so(
    rows: int, workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any
):
    monkeypatch.chdir(workspace)
    write_table(tmp_path / "t.csv", [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(rows)])
    words = f"finetune {tmp_path / 't.csv'} {CLASSIFICATION_FLAGS} --out {tmp_path / 'r'} --epochs 1 --device cpu"
    answer = run_cli(*words.split())
    assert answer.exit_code == 0, answer.stderr
    assert "no validation (too few rows" in answer.stderr


def test_unknown_and_truncated_tokens_of_a_prompt_are_reported(
    workspace: Path, prose: list[str], tmp_path: Path, run_cli: Any
):
    from gpt1.model.gpt import GPT
    from gpt1.tokenization.tokenizer import Tokenizer

    model = tmp_path / "model"
    english = Tokenizer.train(prose, vocab_size=300, pipeline="original")
    GPT.from_pretrained(workspace / "runs/books/model").save(model, tokenizer=english.fingerprint)
    english.save(model)
    for command in (["next", str(model)], ["generate", str(model), "--max-tokens", "1"]):
        assert "unknown" not in run_cli(*command, "the file").stderr
        assert re.search(r"3 of \d tokens are unknown", run_cli(*command, "☃☃☃").stderr)
        assert "are truncated to the last 32" in run_cli(*command, "the file " * 100).stderr
        assert run_cli(*command, "").exit_code == 0


def test_top_beyond_the_vocabulary_shows_the_whole_vocabulary(workspace: Path, run_cli: Any):
    answer = run_cli("next", str(workspace / "runs/books"), "the", "--top", "100000", "--json")
    assert sum(token["probability"] for token in json.loads(answer.stdout)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("extreme", ["--temperature 0", "--temperature 1e-9", "--temperature 1e9", "--top-k 999999999"])
def test_extreme_sampling_settings_generate_text(extreme: str, workspace: Path, run_cli: Any):
    answer = run_cli("generate", str(workspace / "runs/books"), "the", "--max-tokens", "4", *extreme.split())
    assert answer.exit_code == 0
    assert answer.stdout.startswith("the")


def test_resuming_a_finished_run_changes_nothing(workspace: Path, tmp_path: Path, run_cli: Any, monkeypatch: Any):
    monkeypatch.chdir(workspace)
    before = list_files(workspace / "runs/reviews")
    absolute = CLASSIFICATION_FLAGS.replace("runs/books", str(workspace / "runs/books"))
    for how in (absolute, CLASSIFICATION_FLAGS):
        answer = run_cli(*f"finetune {workspace / 'reviews.csv'} {how} --out runs/reviews --resume".split())
        assert answer.exit_code == 0, answer.stderr
        assert "is already finished" in answer.stderr
    assert list_files(workspace / "runs/reviews") == before


@pytest.mark.parametrize("size", ["tiny", "mini", "lstm", pytest.param("small", marks=pytest.mark.slow)])
def test_a_model_that_learned_only_frequencies_is_reported_and_not_suggested(
    size: str, workspace: Path, tmp_path: Path, run_cli: Any
):
    short = "--peak-lr 0 --steps 4 --eval-every 2 --batch-size 2 --context 32 --eval-windows 8 --device cpu --keep 1"
    answer = run_cli(
        "pretrain", str(workspace / "corpus"), "--out", str(tmp_path / "r"), "--model", size, *short.split()
    )
    assert answer.exit_code == 0, answer.stderr
    assert "warning: step 2: the validation loss" in answer.stderr
    assert "Do not fine-tune it" in answer.stderr
    assert "report.html" in answer.stderr
    assert "next:" not in answer.stderr


def test_resume_restores_a_deleted_model_folder(workspace: Path, tmp_path: Path, run_cli: Any):
    words = f"pretrain {workspace / 'corpus'} --out {tmp_path / 'r'} {TINY_FLAGS} --steps 4".split()
    assert run_cli(*words).exit_code == 0
    weights = (tmp_path / "r/model/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "r/model")
    assert "--resume" in run_cli("next", str(tmp_path / "r"), "hi").stderr
    assert run_cli("pretrain", "--out", str(tmp_path / "r"), "--resume").exit_code == 0
    assert (tmp_path / "r/model/model.safetensors").read_bytes() == weights


def test_a_file_that_is_not_a_table_gets_a_hint_that_works(
    workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    answer = run_cli("predict", "runs/reviews", "good")
    assert "as a text, add a space: 'good '" in answer.stderr
    assert run_cli("predict", "runs/reviews", "good ").exit_code == 0
    assert "INPUT is empty" in run_cli("predict", "runs/reviews", "").stderr


def test_a_file_instead_of_a_model_gets_advice_that_is_right_for_every_command(
    workspace: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    finetune = ("finetune", "reviews.csv", "--label", "label", "--out", "r", "--from", "new.csv")
    for words in (("predict", "new.csv", "runs/reviews"), ("serve", "new.csv"), finetune):
        answer = run_cli(*words)
        assert "new.csv is a file, not a run or model folder.\n" in answer.stderr
        assert "Use a run folder, a model folder, owner/name, or starter" in answer.stderr
        assert "evaluate and predict take it before the table" in answer.stderr


def test_a_page_is_replaced_only_on_request(workspace: Path, run_cli: Any, tmp_path: Path):
    words = ["evaluate", str(workspace / "runs/reviews"), str(workspace / "reviews.csv"), "--no-baselines", "--report"]
    page = str(tmp_path / "page.html")
    assert run_cli(*words, page).exit_code == 0
    answer = run_cli(*words, page)
    assert (answer.exit_code, "--overwrite" in answer.stderr) == (2, True)
    assert run_cli(*words, page, "--overwrite").exit_code == 0


def test_a_corpus_is_a_source_of_a_tokenizer(workspace: Path, run_cli: Any, tmp_path: Path):
    (tmp_path / "t.txt").write_text("some words to read")
    out = tmp_path / "corpus"
    answer = run_cli("tokenize", str(tmp_path / "t.txt"), "--out", str(out), "--tokenizer", str(workspace / "corpus"))
    assert answer.exit_code == 0, answer.stderr
    expected = (workspace / "corpus/tokenizer/vocab.json").read_bytes()
    assert (out / "tokenizer/vocab.json").read_bytes() == expected
    assert answer.stderr.splitlines()[-1] == f"next: gpt1 pretrain {out} --out runs/NAME"


def test_after_tokenize_with_the_tokenizer_of_a_model_the_next_step_continues_that_model(
    workspace: Path, run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("some words to read, " * 200)
    for name in ("runs/books", "runs/books/model", "runs/reviews"):
        model = str(workspace / name)
        answer = run_cli("tokenize", "t.txt", "--out", "corpus", "--tokenizer", model, "--workers", "1", "--overwrite")
        command = answer.stderr.splitlines()[-1].removeprefix("next: ")
        assert command == f"gpt1 pretrain corpus --from {model} --out runs/NAME"
        short = " --steps 1 --eval-windows 1 --batch-size 2 --device cpu --overwrite"
        again = run_cli(*shlex.split(command + short)[1:])
        assert again.exit_code == 0, again.stderr


def test_serve_without_a_model_lists_those_here(workspace: Path, run_cli: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/books", "runs/reviews"):
        (tmp_path / name).symlink_to(workspace / name)
    answer = run_cli("serve")
    assert answer.exit_code == 2
    assert "RUN is missing" in answer.stderr
    assert "Models here: runs/books, runs/reviews" in answer.stderr


def test_a_stop_string_can_be_a_line_break(workspace: Path, run_cli: Any):
    words = ["generate", str(workspace / "runs/books"), "the", "--seed", "1", "--max-tokens", "40"]
    whole = run_cli(*words).stdout.removesuffix("\n")
    assert run_cli(*words, "--stop", "\\n").stdout == whole.partition("\n")[0] + "\n"
