"""The steps that are advised when TF-IDF is better: few, in order, and typed as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.cli.main import cli
from gpt1.inference.advice import MIN_CORPUS_TOKENS, tfidf_advice

COMMAND = {"from": "starter", "columns": {"text": "review", "label": "stars"}, "kind": "classification"}


def stored_run(folder: Path, **settings: Any) -> Path:
    command = {**COMMAND, "train": str(folder / "my reviews.csv")}
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"stage": "finetune", "command": command, **settings}))
    return folder / "run"


def test_small_tables_need_other_texts(tmp_path: Path):
    run = stored_run(tmp_path)
    reason, tokenize, pretrain = tfidf_advice(run, 100, 0.19).split("\n")
    assert reason.startswith("Continue pre-training on texts from this domain (TEXTS: their files), without labels;")
    assert reason.endswith(f"then fine-tune --from {run}-pretrained:")
    assert tokenize == f"  gpt1 tokenize TEXTS --out {run}-corpus --tokenizer starter"
    assert pretrain == f"  gpt1 pretrain {run}-corpus --from starter --out {run}-pretrained"


def test_windows_are_advised_first_if_a_fifth_of_the_texts_is_truncated_and_only_once(tmp_path: Path):
    assert tfidf_advice(stored_run(tmp_path), 100, 0.2).startswith(
        "Use --long windows (20% of the texts are truncated)"
    )
    (tmp_path / "other").mkdir()
    assert "--long" not in tfidf_advice(stored_run(tmp_path / "other", long="windows"), 100, 0.9)


def test_the_commands_for_a_table_run_as_they_stand(
    tmp_path: Path, pretrained_run: Path, monkeypatch: pytest.MonkeyPatch
):
    run = stored_run(tmp_path)
    text = " ".join(["the list is sorted and the file is closed"] * 40)
    (tmp_path / "my reviews.csv").write_text("review,stars\n" + f"{text},1\n" * 40)
    advice = tfidf_advice(run, MIN_CORPUS_TOKENS, 0.0)
    assert advice.startswith("Continue pre-training on these texts and others from their domain, without labels;")
    _, tokenize, pretrain = advice.replace("starter", shlex.quote(str(pretrained_run))).split("\n")
    for command in (tokenize, pretrain + " --device cpu --precision fp32 --steps 2 --eval-windows 1 --batch-size 2"):
        words = shlex.split(command.replace(" --epochs 4", ""))
        assert words[0] == "gpt1"
        cli.main(words[1:], standalone_mode=False)
    assert (tmp_path / "run-pretrained" / "model" / "model.safetensors").exists()


def test_a_model_without_a_run_gets_the_reason_only(tmp_path: Path):
    assert tfidf_advice(tmp_path, None, 0.0) == "Use a model pre-trained on more text from this domain."
    assert tfidf_advice(stored_run(tmp_path, from_scratch=True), 100, 0.5) == "Omit --from-scratch."
