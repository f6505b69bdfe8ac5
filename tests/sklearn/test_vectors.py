"""Vectors as a transformer of scikit-learn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.sklearn import GPTFeatures


@pytest.mark.parametrize("damaged", ["run/model", "run", "model"])
def test_a_damaged_model_gives_no_vectors(pretrained_run: Path, tmp_path: Path, damaged: str):
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(pretrained_run, run)
    shutil.copytree(pretrained_run / "model", model)
    pretrained = tmp_path / damaged.split("/")[0]
    assert GPTFeatures(pretrained, device="cpu").fit(["a"]).transform(["a"]).shape == (1, 32)
    file = tmp_path / damaged / ("config.yaml" if damaged == "run" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name} does not match its manifest"):
        GPTFeatures(pretrained, device="cpu").fit(["a"])
