"""Export to ONNX: in ONNX Runtime the exported model gives the model's own numbers, at every length."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.errors import GPT1Error, UserError
from gpt1.files.manifest import MANIFEST
from gpt1.inference import onnx_model
from gpt1.inference.onnx_model import ONNX_FILE, export_onnx, open_session
from gpt1.inference.predictor import TaskPredictor, load
from gpt1.runs.folder import has_starter
from gpt1.tables.table import Table
from gpt1.training.finetune import finetune
from gpt1.training.pretrain import pretrain

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # tracing takes five seconds

TASKS: dict[str, dict[str, Any]] = {
    "classification": {"kind": "classification", "text": "text", "label": "label"},
    "regression": {"kind": "regression", "text": "text", "label": "stars"},
    "entailment": {"kind": "entailment", "premise": "text", "hypothesis": "other", "label": "label"},
    "similarity": {"kind": "similarity", "text_a": "text", "text_b": "other", "label": "label"},
    "score": {"kind": "similarity", "text_a": "text", "text_b": "other", "label": "stars", "score": True},
    "choice": {"kind": "choice", "context": "text", "choices": "answers", "label": "right"},
}


@pytest.fixture(scope="module")
def exported_lm(pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(pretrained_run, tmp_path_factory.mktemp("onnx") / "lm")


def test_the_logits_of_every_length_are_those_of_the_model(exported_lm: Path, pretrained_run: Path):
    model = load(pretrained_run)
    session = open_session(exported_lm / ONNX_FILE)
    for time in range(1, model.gpt.config.context + 1):
        ids = torch.randint(model.gpt.config.vocab_size, (1 + time % 3, time))
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(logits, model.gpt(ids).numpy(), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=TASKS)
def exported_task(
    request: pytest.FixtureRequest, pretrained_run: Path, table: Table, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """(run, exported folder) of each kind."""
    folder = tmp_path_factory.mktemp("task")
    settings = {"epochs": 1, "precision": "fp32", "device": "cpu", "seed": 1}
    run = finetune(table, from_=pretrained_run, out=folder / "run", **TASKS[request.param], **settings)
    return run, export_onnx(run, folder / "exported")


def task_inputs(model: TaskPredictor, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The padded sequences of rows, as the input of the exported graph."""
    examples = model.encode(model.read_rows(rows))
    most = max(len(example.sequences) for example in examples)
    longest = max(len(sequence) for example in examples for sequence in example.sequences)
    ids = np.zeros((len(rows), most, longest), np.int64)
    lengths = np.zeros((len(rows), most), np.int64)
    for row, example in enumerate(examples):
        for k, sequence in enumerate(example.sequences):
            ids[row, k, : len(sequence)] = sequence
            lengths[row, k] = len(sequence)
    return {"input_ids": ids, "lengths": lengths}


def test_the_predictions_of_every_kind_are_those_of_the_model(exported_task: tuple[Path, Path], table: Table):
    run, folder = exported_task
    model = load(run)
    assert isinstance(model, TaskPredictor)
    session = open_session(folder / ONNX_FILE)
    for rows in (table.rows[:1], table.rows[:7]):
        (found,) = session.run(None, task_inputs(model, rows))
        if model.labels:
            expected = model.predict_proba(rows)[:, : found.shape[1]]
        else:
            expected = np.array([row["score"] for row in model.predict(rows)])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_metadata_says_how_to_build_inputs_and_read_outputs(exported_task: tuple[Path, Path]):
    run, folder = exported_task
    model = load(run)
    assert isinstance(model, TaskPredictor)
    facts = open_session(folder / ONNX_FILE).get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == model.labels
    assert facts["kind"] == model.kind.name
    vocabulary = model.gpt.config.vocab_size
    assert [int(facts[f"{name}_id"]) - vocabulary for name in ("start", "delimiter", "extract")] == [0, 1, 2]
    assert (folder / "task.json").read_bytes() == (run / "model" / "task.json").read_bytes()
    assert ONNX_FILE in json.loads((folder / MANIFEST).read_text())["files"]


def test_int8_is_smaller_and_close(pretrained_run: Path, exported_lm: Path, tmp_path: Path):
    small = export_onnx(pretrained_run, tmp_path / "int8", int8=True) / ONNX_FILE
    assert small.stat().st_size < 0.8 * (exported_lm / ONNX_FILE).stat().st_size
    ids = np.arange(20)[None] % 300
    (exact,) = open_session(exported_lm / ONNX_FILE).run(None, {"input_ids": ids})
    (close,) = open_session(small).run(None, {"input_ids": ids})
    assert 0 < np.abs(exact - close).mean() < 0.05 * exact.std()


def test_a_graph_that_differs_from_the_model_is_not_kept(
    pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(onnx_model, "ONNX_TOLERANCE", 0.0)
    with pytest.raises(GPT1Error, match="differs by"):
        export_onnx(pretrained_run, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_an_lstm_an_existing_target_and_missing_packages_are_refused(
    corpus: Path, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Any
):
    shape = {"n_layer": 1, "n_embd": 16, "lstm_units": 16, "context": 16, "steps": 1, "precision": "fp32"}
    lstm = pretrain(corpus, out=tmp_path / "lstm", model="lstm", **shape)
    with pytest.raises(UserError, match="is an LSTM"):
        export_onnx(lstm, tmp_path / "exported")
    with pytest.raises(UserError, match="exists and is not empty"):
        export_onnx(pretrained_run, lstm)
    answer = run_cli("export", "huggingface", str(pretrained_run), "--out", str(tmp_path / "hf"), "--int8")
    assert answer.exit_code == 2
    assert "--int8 does not apply to" in answer.stderr
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package onnx"):
        export_onnx(pretrained_run, tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lstm"]


def run_example(modules: set[str], texts: list[str], folder: Path) -> list[dict[str, float]]:
    """The predictions of the example of docs/onnx.md that imports these modules, run unchanged."""
    page = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text("utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if imported_modules(block) == modules]
    script = f"{code}\nprint(json.dumps(predict({texts!r})))"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def imported_modules(code: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {str(node.module) if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes}


@pytest.mark.parametrize(("start", "library"), [("books", "tokenizers"), ("starter", "gpt1")])
def test_the_example_of_the_page_for_each_tokenizer_predicts_as_the_model(
    start: str, library: str, pretrained_run: Path, table: Table, tmp_path: Path
):
    if start == "starter" and not has_starter():
        pytest.skip("this checkout does not include starter")
    out, origin = tmp_path / "reviews", start if start == "starter" else pretrained_run
    settings = {"epochs": 1, "precision": "fp32", "device": "cpu", "train": "head", "cache_features": False}
    finetune(table, from_=origin, out=out, baselines=False, **TASKS["classification"], **settings)
    export_onnx(out, tmp_path / "reviews-onnx")
    texts = ["the file is valid", "the option is broken"]
    found = run_example({"json", "numpy", "onnxruntime", library}, texts, tmp_path)
    model = load(out)
    assert isinstance(model, TaskPredictor)
    for row, expected in zip(found, model.predict_proba(texts), strict=True):
        np.testing.assert_allclose([row[label] for label in model.labels], expected, atol=1e-4)
