"""The files of OpenAI's release, from end to end: its layout and sizes, with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.inference.predictor import load

ORDER = ["attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"]


@pytest.fixture(scope="module")
def release(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray[Any, Any]]]:
    """(folder, tensors) of the release with random weights: ten arrays cut from one, shapes, vocabulary."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"):
        shutil.copy(shared_data / "openai" / name, folder)
    shapes = json.loads((folder / "params_shapes.json").read_text())
    flat = np.random.default_rng(0).standard_normal(sum(map(np.prod, shapes)), dtype=np.float32) * np.float32(0.05)
    for i, part in enumerate(np.array_split(flat, 10)):
        np.save(folder / f"params_{i}.npy", part)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return folder, [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]


def make_transformers_model(tensors: list[np.ndarray[Any, Any]]) -> Any:
    """transformers' model with the tensors of the release, whose dense weights have its layout but for a first axis."""
    transformers = pytest.importorskip("transformers")
    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig()).eval()
    names = ["positions_embed.weight", "tokens_embed.weight"]
    names += [f"h.{block}.{part}.{kind}" for block in range(12) for part in ORDER for kind in ("weight", "bias")]
    state = {
        name: torch.from_numpy(tensor[0] if tensor.ndim == 3 else tensor)
        for name, tensor in zip(names, tensors, strict=True)
    }
    missing, unexpected = model.transformer.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if "attn.bias" not in name and "position_ids" not in name]
    return model


@pytest.mark.slow
def test_the_release_is_imported_and_used_from_end_to_end(
    release: Any, shared_data: Path, tmp_path: Path, run_cli: Any
):
    folder, tensors = release
    imported = tmp_path / "gpt1"
    answer = run_cli("import", "openai", str(folder), "--out", str(imported))
    assert answer.exit_code == 0, answer.stderr
    assert "116,534,784 parameters, 40,478 tokens" in answer.stderr
    model, theirs = load(imported), make_transformers_model(tensors)
    golden = [json.loads(line) for line in (shared_data / "openai/golden_ids.jsonl").read_text("utf-8").splitlines()]
    assert model.tokenizer.encode_batch([line["text"] for line in golden]) == [line["ids"] for line in golden]
    text = "the captain looked at the sea and said"
    ids = torch.tensor([model.tokenizer.encode(text)])
    with torch.no_grad():
        logits = theirs(ids).logits
        torch.testing.assert_close(model.gpt(ids), logits, atol=1e-4, rtol=1e-5)
    del model, theirs
    answer = run_cli("next", str(imported), text, "--top", "3", "--json")
    best = logits[0, -1].softmax(-1).topk(3)
    assert [token["id"] for token in json.loads(answer.stdout)] == best.indices.tolist()
    assert [token["probability"] for token in json.loads(answer.stdout)] == pytest.approx(
        best.values.tolist(), rel=1e-3
    )
    answer = run_cli("generate", str(imported), text, "--max-tokens", "3", "--temperature", "0")
    assert answer.exit_code == 0
    assert answer.stdout.startswith(text + " ")
    (tmp_path / "reviews.csv").write_text("text,label\n" + "the sea,a\nthe captain,b\n" * 4)
    words = "--kind classification --text text --label label --epochs 1 --batch-size 8 --no-deduplicate"
    run = tmp_path / "run"
    answer = run_cli(
        "finetune", str(tmp_path / "reviews.csv"), "--from", str(imported), "--out", str(run), *words.split(" ")
    )
    assert answer.exit_code == 0, answer.stderr
    assert load(run).labels == ["a", "b"]
