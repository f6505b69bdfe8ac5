"""The model `starter`, which comes with the package, is accepted wherever a run is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import gpt1
from gpt1 import finetune
from gpt1.errors import UserError
from gpt1.inference.convert import export_model
from gpt1.runs import folder as runs
from gpt1.tables.table import Table


@pytest.fixture(scope="module")
def exported_starter(pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `gpt1 export gpt1 RUN --dtype bf16` makes, as the package's `starter` is made."""
    out = tmp_path_factory.mktemp("package") / "starter"
    return export_model("gpt1", pretrained_run, out, dtype="bf16")


def test_starter_is_a_model_folder_inside_the_package():
    assert Path(gpt1.__file__).parent / "starter" == runs.STARTER_FOLDER


def test_a_package_without_the_starter_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "STARTER_FOLDER", tmp_path)
    with pytest.raises(UserError, match="this gpt1 installation does not include the model starter") as refused:
        runs.find_model_folder("starter")
    assert "Install a release" in refused.value.fix


def test_starter_is_accepted_wherever_a_run_is(
    exported_starter: Path,
    table: Table,
    corpus: Path,
    tiny_pretrain_settings: dict[str, Any],
    run_cli: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(runs, "STARTER_FOLDER", exported_starter)
    monkeypatch.chdir(tmp_path)
    fast = {"precision": "fp32", "device": "cpu"}
    tuned = finetune(table, from_="starter", out="tuned", kind="classification", text="text", epochs=1, **fast)
    assert gpt1.load(tuned).predict([table.rows[0]])
    further = gpt1.pretrain(corpus, from_="starter", out="further", steps=1, **fast)
    config = gpt1.GPT.from_pretrained("starter").config
    assert gpt1.load(further).gpt.config == gpt1.load("starter").gpt.config == config
    assert gpt1.Tokenizer.load("starter").fingerprint == gpt1.load(further).tokenizer.fingerprint
    for words in (["next", "starter", "the"], ["generate", "starter", "the", "--max-tokens", "2"]):
        assert run_cli(*words).exit_code == 0
    assert run_cli("evaluate", "starter", str(corpus)).exit_code == 0
    assert '"type": "model"' in run_cli("inspect", "starter", "--json").stdout
    assert run_cli("export", "huggingface", "starter", "--out", "theirs").exit_code == 0
    Path("text.txt").write_text("the cat sat on the mat")
    assert run_cli("tokenize", "text.txt", "--out", "c", "--tokenizer", "starter").exit_code == 0
    resumed = finetune(
        table, from_="starter", out="tuned", kind="classification", text="text", epochs=1, resume=True, **fast
    )
    assert resumed == tuned


def test_bf16_weights_take_half_the_bytes_and_load_as_the_rounded_weights(
    exported_starter: Path, pretrained_run: Path, tmp_path: Path
):
    ours = gpt1.GPT.from_pretrained(pretrained_run).state_dict()
    loaded = gpt1.GPT.from_pretrained(exported_starter).state_dict()
    assert all(torch.equal(loaded[name], ours[name].bfloat16().float()) for name in ours)
    assert all(weight.dtype == torch.float32 for weight in loaded.values())
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (exported_starter, pretrained_run / "model")]
    assert sizes[0] < 0.55 * sizes[1]
    again = export_model("gpt1", exported_starter, tmp_path / "again", dtype="bf16")
    assert (again / "model.safetensors").read_bytes() == (exported_starter / "model.safetensors").read_bytes()


def test_the_manifest_covers_every_file_of_an_exported_model(exported_starter: Path, tmp_path: Path):
    for path in exported_starter.iterdir():
        if path.name in ("manifest.json", "README.md"):
            continue
        copy = tmp_path / path.name
        shutil.copytree(exported_starter, copy)
        data = bytearray((copy / path.name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / path.name).write_bytes(data)
        with pytest.raises(UserError, match=path.name):
            gpt1.load(copy)
