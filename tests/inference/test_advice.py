"""The advice for a model that is worse than TF-IDF: a reason, and commands that run as printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml
from hints import find_wrong_advice

from gpt1.inference.advice import MIN_CORPUS_TOKENS, task_arguments, tfidf_advice
from gpt1.runs.folder import read_run_config
from gpt1.tables.table import write_table

COMMAND = {"from": "starter", "columns": {"text": "review", "label": "stars"}, "kind": "classification"}


def write_run(folder: Path, **settings: Any) -> Path:
    command = {**COMMAND, "train": str(folder / "my reviews.csv")}
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"command": command, **settings}, sort_keys=False))
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
    assert "--long" not in tfidf_advice(write_run(tmp_path / "other", long="windows"), 100, 0.9).commands[-1]


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


def test_a_model_without_a_run_gets_the_reason_only(tmp_path: Path):
    assert tfidf_advice(tmp_path, None, 0.0) == ("Use a model pre-trained on more text from this domain.", ())
    found = tfidf_advice(write_run(tmp_path, from_scratch=True), 100, 0.5)
    assert found == ("Fine-tune a pre-trained model, not one from scratch.", ())
