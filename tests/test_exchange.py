"""Models of other homes, imported by the command and asked by the next one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.exchange import import_model
from gpt1.inference import load
from gpt1.model import GPT
from gpt1.tokenizer import Tokenizer
from gpt1.weights import BLOCK_NAMES

TEXT = "the file is opened and closed"


@pytest.fixture(scope="module")
def english(prose: list[str]) -> Tokenizer:
    return Tokenizer.train(prose, vocab_size=300, pipeline="original")


@pytest.fixture(scope="module")
def theirs(english: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, model) that transformers wrote, with the vocabulary under the names that it uses."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("theirs")
    shape = {"vocab_size": english.vocab_size, "n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 16}
    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**shape)).eval()
    model.save_pretrained(folder)
    english.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()
    return folder, model


@pytest.fixture(scope="module")
def released(english: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPT]:
    """(folder, model) in the format of the release: flat arrays in ten pieces, their shapes, the vocabulary."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("released")
    model = GPT(GPTConfig(vocab_size=english.vocab_size, n_layer=2, n_head=2, n_embd=128, context=16)).eval()
    weights = model.state_dict()
    arrays = [weights["positions.weight"], weights["tokens.weight"]]
    for layer in range(2):
        for _, part in BLOCK_NAMES:
            weight = weights[f"blocks.{layer}.{part}.weight"]
            arrays += [weight.T[None] if weight.dim() == 2 else weight, weights[f"blocks.{layer}.{part}.bias"]]
    flat = np.concatenate([array.numpy().ravel() for array in arrays])
    for i, piece in enumerate(np.array_split(flat, 10)):
        np.save(folder / f"params_{i}.npy", piece)
    (folder / "params_shapes.json").write_text(json.dumps([list(array.shape) for array in arrays]))
    english.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()
    (folder / "vocab.json").rename(folder / "encoder_bpe_40000.json")
    (folder / "merges.txt").rename(folder / "vocab_40000.bpe")
    return folder, model


def test_an_imported_hugging_face_model_gives_its_logits(theirs: Any, english: Tokenizer, tmp_path: Path, ask: Any):
    folder, model = theirs
    answer = ask("import", "huggingface", str(folder), "--out", str(tmp_path / "m"))
    assert answer.code == 0, answer.err
    assert f"{sum(p.numel() for p in model.transformer.parameters()):,} weights" in answer.err
    assert f"next: gpt1 next {tmp_path / 'm'}" in answer.err
    ids = torch.tensor([english.encode(TEXT)[:16]])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "m").gpt(ids), model(ids).logits, atol=1e-4, rtol=0)


def test_an_imported_release_gives_its_logits(released: Any, english: Tokenizer, tmp_path: Path, ask: Any):
    folder, model = released
    assert ask("import", "openai", str(folder), "--out", str(tmp_path / "m")).code == 0
    ids = torch.tensor([english.encode(TEXT)[:16]])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "m").gpt(ids), model(ids), atol=1e-6, rtol=0)


def test_an_imported_model_is_asked_like_any_other(theirs: Any, english: Tokenizer, tmp_path: Path, ask: Any):
    folder, model = theirs
    assert ask("import", "huggingface", str(folder), "--out", str(tmp_path / "m")).code == 0
    answer = ask("next", str(tmp_path / "m"), TEXT, "--top", "3", "--json")
    with torch.no_grad():
        probabilities = model(torch.tensor([english.encode(TEXT)])).logits[0, -1].softmax(-1)
    best = probabilities.topk(3)
    assert [token["id"] for token in json.loads(answer.out)] == best.indices.tolist()
    assert [token["probability"] for token in json.loads(answer.out)] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert Tokenizer.load(tmp_path / "m").fingerprint == english.fingerprint


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), "neither vocab_40000.bpe nor merges.txt"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: cut(folder / "vocab.json"), "broken/vocab.json is not JSON"),
        (
            lambda folder: shorten(folder / "merges.txt"),
            "broken/vocab.json does not fit its merges: none of them makes",
        ),
        (lambda folder: grow(folder / "vocab.json"), "301 tokens, the model 300"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "no model of huggingface"),
    ],
)
def test_a_broken_folder_is_refused_by_name_and_nothing_is_written(
    break_it: Any, said: str, theirs: Any, tmp_path: Path
):
    shutil.copytree(theirs[0], tmp_path / "broken")
    break_it(tmp_path / "broken")
    with pytest.raises(UserError) as refused:
        import_model("huggingface", tmp_path / "broken", tmp_path / "m")
    assert said in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path: Path) -> None:
    """Cut at the end of a line, which leaves a file that can be read."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def grow(path: Path) -> None:
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({**vocabulary, "one more": len(vocabulary)}))
