"""The advice for a model that is worse than TF-IDF: a reason, and commands that run as printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hints import find_wrong_advice

from gpt1.inference.advice import MIN_CORPUS_TOKENS, task_arguments, tfidf_advice
from gpt1.runs.folder import read_run_config
from gpt1.tables.table import Table, write_table
from gpt1.training.finetune import finetune

COMMAND = {"from": "starter", "columns": {"text": "review", "label": "stars"}, "kind": "classification"}


def write_run(folder: Path, **settings: Any) -> Path:
    content = {"command": {**COMMAND, "train": str(folder / "my reviews.csv")}, **settings}
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "run"


def test_small_tables_need_other_texts(tmp_path: Path):
    run = write_run(tmp_path)
    sentence, (tokenize, pretrain, again) = tfidf_advice(run, 100, 0.19)
    assert sentence == "Continue pre-training on texts from this domain, without labels, and fine-tune again."
    explained = "   # TEXTS: files with texts from this domain"
    assert tokenize == f"gpt1 tokenize TEXTS --out {run}-corpus --tokenizer starter{explained}"
    assert pretrain == f"gpt1 pretrain {run}-corpus --from starter --out {run}-pretrained"
    columns = "--kind classification --text review --label stars"
    assert again == f"gpt1 finetune TABLE {columns} --from {run}-pretrained --out {run}-again"


@pytest.mark.parametrize("name", [".", "inner/..", "inner/../../run"])
def test_folders_are_suggested_next_to_a_run_that_is_named_by_dots(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = write_run(tmp_path)
    (run / "inner").mkdir()
    monkeypatch.chdir(run)
    pretrain = tfidf_advice(name, 100, 0.0).commands[1]
    out = Path(shlex.split(pretrain)[-1])
    assert (out.parent.resolve(), out.name) == (tmp_path.resolve(), "run-pretrained")


def test_a_sample_of_a_data_set_has_no_file():
    names = {"rte:train": "rte:train", "rte:train (64 rows of 2,490)": "TABLE", "rte:mine": "TABLE", "a:b": "TABLE"}
    for name, shown in names.items():
        words = task_arguments({"train": name, "data_dir": "tasks"})
        assert words == [shown, "--data-dir", "tasks"]


def test_windows_are_advised_if_a_fifth_of_the_texts_is_truncated_and_only_once(tmp_path: Path):
    advice = tfidf_advice(write_run(tmp_path), 100, 0.2)
    assert advice.sentence.endswith(", with long texts as windows (20% of them are truncated).")
    assert advice.commands[-1].endswith(" --long windows")
    (tmp_path / "other").mkdir()
    command = {**COMMAND, "given": ["long"]}
    again = tfidf_advice(write_run(tmp_path / "other", long="windows", command=command), 100, 0.9)
    assert "windows" not in again.sentence
    assert again.commands[-1].count("--long windows") == 1
    (tmp_path / "given").mkdir()
    given = tfidf_advice(write_run(tmp_path / "given", long="head-tail", command=command), 100, 0.9)
    assert "head-tail" not in given.commands[-1]


def test_the_commands_for_a_table_run_as_printed(tmp_path: Path, pretrained_run: Path, run_cli: Any):
    run = write_run(tmp_path)
    rows = [{"review": f"the list {i} is sorted and the file is closed", "stars": i % 2} for i in range(40)]
    write_table(tmp_path / "my reviews.csv", rows)
    sentence, found = tfidf_advice(run, MIN_CORPUS_TOKENS, 0.5)
    assert sentence.startswith("Continue pre-training on these texts and others from their domain, without labels, and")
    assert find_wrong_advice("\n".join([sentence, *found]), "evaluate") == []
    commands = [command.replace("starter", shlex.quote(str(pretrained_run))) for command in found]
    short = ["", " --steps 2 --eval-windows 1 --batch-size 2 --device cpu", " --device cpu"]
    for command, flags in zip(commands, short, strict=True):
        words = shlex.split(command.replace(" --epochs 4", "") + flags)
        assert words[0] == "gpt1"
        answer = run_cli(*words[1:])
        assert answer.exit_code == 0, answer.stderr
    assert read_run_config(tmp_path / "run-again")["long"] == "windows"


@pytest.mark.parametrize(
    ("name", "text"), [("t.csv", "title,body"), ("t.json", "text"), ("t.xlsx", "text"), ("t.json.gz", "text")]
)
def test_tables_that_tokenize_does_not_read_need_other_texts(name: str, text: str, tmp_path: Path):
    (tmp_path / name).touch()
    command = {**COMMAND, "train": str(tmp_path / name), "columns": {"text": text, "label": "label"}}
    run = write_run(tmp_path, command=command)
    assert tfidf_advice(run, MIN_CORPUS_TOKENS, 0.0).commands[0].startswith("gpt1 tokenize TEXTS --out")


def test_the_advised_run_has_the_settings_that_were_given(table: Table, pretrained_run: Path, tmp_path: Path):
    write_table(tmp_path / "valid.csv", table.rows[:16])
    settings: dict[str, Any] = {"class_weight": "balanced", "epochs": 1.0, "deduplicate": False, "lm_coef": 0.25}
    columns: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label"}
    valid = tmp_path / "valid.csv"
    run = finetune(table, from_=pretrained_run, out=tmp_path / "run", valid=valid, **settings, **columns)
    again = shlex.split(tfidf_advice(run, 100, 0.0).commands[-1])
    flags = f"--valid {valid} --lm-coef 0.25 --epochs 1.0 --class-weight balanced --no-deduplicate --from".split()
    assert again[again.index("--valid") : again.index("--from") + 1] == flags
    finetune(out=run, resume=True, device="cpu")  # config.yaml names the given settings, and can still be resumed from


def test_damaged_settings_and_a_table_in_memory_are_left_out(tmp_path: Path):
    """Also in a run of an earlier version, which did not store what was given."""
    for number, given in enumerate([None, 5, ["epochs", {}, "unknown", "metric"]]):
        command = {**COMMAND, "train": "x", "valid": "a table in memory", "given": given}
        (tmp_path / str(number)).mkdir()
        run = write_run(tmp_path / str(number), epochs=[1], metric="f1", command=command)
        metric = "--metric f1 " if number == 2 else ""
        assert f"--valid VALID {metric}--from" in tfidf_advice(run, 100, 0.0).commands[-1]


def test_a_model_without_a_run_gets_the_reason_only(tmp_path: Path):
    assert tfidf_advice(tmp_path, None, 0.0) == ("Use a model pre-trained on more text from this domain.", ())
    found = tfidf_advice(write_run(tmp_path, from_scratch=True), 100, 0.5)
    assert found == ("Fine-tune a pre-trained model, not one from scratch.", ())
