"""`gpt1 inspect` of models in other formats: what they are, and what they predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from workspace import edit_json

from gpt1.errors import UserError
from gpt1.inference.convert import export_model
from gpt1.inspect import inspect, print_facts


@pytest.mark.parametrize("is_theirs", [False, True], ids=["exported", "from transformers"])
def test_a_classifier_in_the_format_of_hugging_face_is_a_fine_tuned_model(
    is_theirs: bool, workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = export_model("huggingface", workspace / "runs/reviews", tmp_path / "hf")
    if is_theirs:
        for name in ("head.safetensors", "manifest.json"):
            (folder / name).unlink()
        edit_json(folder / "config.json", gpt1={"special_tokens": 3})
    found = inspect(folder)
    assert (found["task"]["kind"], found["task"]["labels"]) == ("classification", ["no", "yes"])
    assert found["next"] == [f"gpt1 import huggingface {folder} --out models/gpt1"]
    print_facts(found)
    out = capfd.readouterr().out
    assert "a model fine-tuned for classification from Hugging Face" in out
    assert "None" not in out


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("runs/books", "a run"),
        ("runs", "a folder of runs"),
        ("runs/reviews/model", "a model"),
        ("corpus/tokenizer", "a tokenizer"),
    ],
)
def test_what_has_its_own_tokenizer_is_not_inspected_with_another(name: str, what: str, workspace: Path):
    with pytest.raises(UserError, match=f"^from_= does not apply to {what}\\.\nOmit from_=\\.$"):
        inspect(workspace / name, from_="nonexistent")


@pytest.mark.slow  # tracing takes five seconds
@pytest.mark.parametrize(
    ("run", "stage"), [("books", "a pre-trained model"), ("reviews", "a model fine-tuned for classification")]
)
def test_an_onnx_export_is_not_called_a_tokenizer(run: str, stage: str, workspace: Path, tmp_path: Path, run_cli: Any):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from gpt1.inference.onnx_model import export_onnx

    folder = export_onnx(workspace / "runs" / run, tmp_path / "onnx")
    answer = run_cli("inspect", str(folder))
    assert answer.stdout.startswith(f"{folder}: an ONNX export of {stage}\n")
    assert answer.stderr == f"next: in Python, onnxruntime.InferenceSession('{folder}/model.onnx')\n"
    assert inspect(folder)["tokenizer"]["vocab_size"] == 300
