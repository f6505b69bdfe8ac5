"""Imported models give the logits of their source, exported ones the same logits in transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.errors import ResourceError, UserError
from gpt1.inference import convert
from gpt1.inference.convert import export_model, import_model
from gpt1.inference.predictor import load
from gpt1.inference.task import save_task
from gpt1.model.foreign_weights import BLOCK_NAMES
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.tasks.targets import Answers
from gpt1.tokenization.tokenizer import Tokenizer

TEXT = "the file is opened and closed"


@pytest.fixture(scope="module")
def transformers_export(english: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, model) written by transformers, with its file names of the vocabulary."""
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
def openai_release(english: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPT]:
    """(folder, model) in the format of the release: ten flat arrays, their shapes, the vocabulary."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("released")
    model = GPT(GPTConfig(vocab_size=english.vocab_size, n_layer=2, n_head=2, n_embd=128, context=16)).eval()
    weights = model.state_dict()
    arrays = [weights["positions.weight"], weights["tokens.weight"]]
    for layer in range(2):
        for _, name in BLOCK_NAMES:
            weight = weights[f"blocks.{layer}.{name}.weight"]
            arrays += [weight.T[None] if weight.dim() == 2 else weight, weights[f"blocks.{layer}.{name}.bias"]]
    flat = np.concatenate([array.numpy().ravel() for array in arrays])
    for i, part in enumerate(np.array_split(flat, 10)):
        np.save(folder / f"params_{i}.npy", part)
    (folder / "params_shapes.json").write_text(json.dumps([list(array.shape) for array in arrays]))
    english.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()
    (folder / "vocab.json").rename(folder / "encoder_bpe_40000.json")
    (folder / "merges.txt").rename(folder / "vocab_40000.bpe")
    return folder, model


def test_an_imported_hugging_face_model_gives_the_same_logits(
    transformers_export: Any, english: Tokenizer, tmp_path: Path, run_cli: Any
):
    folder, model = transformers_export
    answer = run_cli("import", "huggingface", str(folder), "--out", str(tmp_path / "m"))
    assert answer.exit_code == 0, answer.stderr
    assert f"{sum(p.numel() for p in model.transformer.parameters()):,} parameters" in answer.stderr
    assert f"next: gpt1 next {tmp_path / 'm'}" in answer.stderr
    ids = torch.tensor([english.encode(TEXT)[:16]])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "m").gpt(ids), model(ids).logits, atol=1e-4, rtol=0)


def test_the_imported_release_gives_the_same_logits(
    openai_release: Any, english: Tokenizer, tmp_path: Path, run_cli: Any
):
    folder, model = openai_release
    assert run_cli("import", "openai", str(folder), "--out", str(tmp_path / "m")).exit_code == 0
    ids = torch.tensor([english.encode(TEXT)[:16]])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "m").gpt(ids), model(ids), atol=1e-6, rtol=0)


def test_an_imported_model_works_with_gpt1_next(
    transformers_export: Any, english: Tokenizer, tmp_path: Path, run_cli: Any
):
    folder, model = transformers_export
    assert run_cli("import", "huggingface", str(folder), "--out", str(tmp_path / "m")).exit_code == 0
    answer = run_cli("next", str(tmp_path / "m"), TEXT, "--top", "3", "--json")
    with torch.no_grad():
        probabilities = model(torch.tensor([english.encode(TEXT)])).logits[0, -1].softmax(-1)
    best = probabilities.topk(3)
    assert [token["id"] for token in json.loads(answer.stdout)] == best.indices.tolist()
    assert [token["probability"] for token in json.loads(answer.stdout)] == pytest.approx(
        best.values.tolist(), abs=1e-5
    )
    assert Tokenizer.load(tmp_path / "m").fingerprint == english.fingerprint


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), "neither vocab_40000.bpe nor merges.txt"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: truncate(folder / "vocab.json"), "broken/vocab.json cannot be read as JSON"),
        (
            lambda folder: shorten(folder / "merges.txt"),
            "broken/vocab.json does not match its merges: none of them produces",
        ),
        (lambda folder: grow(folder / "vocab.json"), "301 tokens, the model 300"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "is not a model in the huggingface format"),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_file_and_nothing_is_written(
    damage: Any, problem: str, transformers_export: Any, tmp_path: Path
):
    shutil.copytree(transformers_export[0], tmp_path / "broken")
    damage(tmp_path / "broken")
    with pytest.raises(UserError) as refused:
        import_model("huggingface", tmp_path / "broken", tmp_path / "m")
    assert problem in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path: Path) -> None:
    """Truncate at the end of a line: the file remains readable."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def grow(path: Path) -> None:
    vocabulary = json.loads(path.read_text())
    path.write_text(json.dumps({**vocabulary, "one more": len(vocabulary)}))


# ---- export


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes of small Transformers."""
    n_head = draw(st.integers(1, 3))
    shape = {"n_layer": draw(st.integers(1, 3)), "n_head": n_head, "n_embd": n_head * draw(st.integers(1, 8))}
    return {**shape, "context": draw(st.integers(1, 20)), "dropout": draw(st.sampled_from([0.0, 0.1, 0.25]))}


def write_random_model(folder: Path, tokenizer: Tokenizer, **shape: Any) -> GPT:
    """A model folder with large weights: a wrong activation, transpose or epsilon changes the logits."""
    torch.manual_seed(2)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 16, **shape}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.2, std=0.5)
    model.save(folder, tokenizer=tokenizer.fingerprint)
    tokenizer.save(folder)
    return model


@settings(max_examples=10)
@given(shape=shapes())
def test_transformers_gives_the_logits_of_an_exported_model(
    shape: dict[str, Any], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("ours")
    model = write_random_model(folder / "model", tokenizer, **shape)
    export_model("huggingface", folder / "model", folder / "theirs")
    theirs, loading_info = transformers.OpenAIGPTLMHeadModel.from_pretrained(
        folder / "theirs", output_loading_info=True
    )
    assert not any(loading_info.values()), loading_info
    assert theirs.dtype == torch.float32
    assert theirs.lm_head.weight is theirs.transformer.tokens_embed.weight
    assert {theirs.config.embd_pdrop, theirs.config.resid_pdrop, theirs.config.attn_pdrop} == {shape["dropout"]}
    ids = torch.randint(0, tokenizer.vocab_size, (3, shape["context"]))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, model(ids), atol=1e-5, rtol=1e-5)


@settings(max_examples=10)
@given(shape=shapes(), original=st.booleans())
def test_export_then_import_restores_model_and_tokenizer_bit_for_bit(
    shape: dict[str, Any],
    original: bool,
    english: Tokenizer,
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
):
    own, folder = english if original else tokenizer, tmp_path_factory.mktemp("ours")
    model = write_random_model(folder / "model", own, **shape)
    export_model("huggingface", folder / "model", folder / "theirs")
    import_model("huggingface", folder / "theirs", folder / "back")
    for name in ("config.json", "model.safetensors", "gpt1_tokenizer.json", "vocab.json", "merges.txt"):
        assert (folder / "back" / name).read_bytes() == (folder / "model" / name).read_bytes(), name
    assert GPT.from_pretrained(folder / "back").config == model.config
    assert Tokenizer.load(folder / "back").encode(TEXT) == own.encode(TEXT)


@pytest.fixture(scope="module")
def exported_folder(tokenizer: Tokenizer, english: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported model of each pipeline."""
    folder = tmp_path_factory.mktemp("exported")
    for own in (tokenizer, english):
        write_random_model(folder / "ours" / own.pipeline, own)
        export_model("huggingface", folder / "ours" / own.pipeline, folder / own.pipeline)
    return folder


@given(text=st.text())
@example(text=" Mr . O 'Neill did n't \n\n go , he 's  there !")
def test_transformers_tokenizes_any_text_as_the_exported_lossless_tokenizer(
    text: str, exported_folder: Path, tokenizer: Tokenizer
):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(exported_folder / "lossless")
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text


def test_transformers_loads_an_exported_original_tokenizer_as_its_gpt1_tokenizer(
    exported_folder: Path, english: Tokenizer
):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(exported_folder / "original")
    assert type(theirs).__name__.startswith("OpenAIGPTTokenizer")
    assert theirs.get_vocab() == json.loads((exported_folder / "original/vocab.json").read_text())
    assert theirs(TEXT)["input_ids"] == english.encode(TEXT)
    assert (theirs.unk_token_id, theirs.model_max_length) == (english.unknown_id, 16)


def test_export_prints_a_summary_and_warns_of_the_different_tokenizer(
    exported_folder: Path, tmp_path: Path, run_cli: Any
):
    for pipeline, differs in [("original", True), ("lossless", False)]:
        out = tmp_path / pipeline
        answer = run_cli("export", "huggingface", str(exported_folder / "ours" / pipeline), "--out", str(out))
        assert answer.exit_code == 0, answer.stderr
        assert f"{out}: 11,616 parameters, 300 tokens" in answer.stderr
        assert ("gives different ids for many texts" in answer.stderr) == differs
        assert f"OpenAIGPTLMHeadModel.from_pretrained('{out}')" in answer.stderr


@pytest.mark.parametrize(
    ("format", "source", "problem"),
    [
        ("hugingface", "lm", "unknown format. Did you mean huggingface?"),
        ("onnx", "lm", "Formats: gpt1, huggingface."),
        ("huggingface", "lstm", "is an LSTM; transformers' openai-gpt is a Transformer"),
        ("huggingface", "reviews", "gpt1 export huggingface 'my runs/books' --out DIR"),
        ("huggingface", "reviews/model", "gpt1 export huggingface 'my runs/books' --out DIR"),
        ("huggingface", "alone", "gpt1 export huggingface RUN --out DIR"),
        ("huggingface", "no-task", "a fine-tuned model's special tokens, but no task.json"),
        ("huggingface", "revews", "revews does not exist. Did you mean reviews?"),
        ("huggingface", "empty", "is not a model folder"),
        ("huggingface", "swapped", "the tokenizer has 300 tokens, the model 299"),
    ],
)
def test_a_model_that_transformers_cannot_represent_is_an_error_and_nothing_is_written(
    format: str, source: str, problem: str, tokenizer: Tokenizer, tmp_path: Path
):
    write_random_model(tmp_path / "lm", tokenizer)
    write_random_model(tmp_path / "lstm", tokenizer, architecture="lstm", lstm_units=4)
    for folder in ("alone", "reviews/model", "no-task"):
        model = TaskModel(write_random_model(tmp_path / folder, tokenizer, special_tokens=3), Head(16, 1, each=True))
        columns = {"context": "c", "choices": "x"}
        save_task(tmp_path / folder, model, tokenizer, {"kind": "choice", "columns": columns}, Answers(2))
    for name in ("task.json", "manifest.json"):
        (tmp_path / "no-task" / name).unlink()
    (tmp_path / "reviews/config.yaml").write_text("stage: finetune\ncommand:\n  from: my runs/books\n")
    (tmp_path / "empty").mkdir()
    GPT(GPTConfig(vocab_size=299, n_layer=1, n_head=1, n_embd=8, context=8)).save(tmp_path / "swapped")
    tokenizer.save(tmp_path / "swapped")
    with pytest.raises(UserError) as refused:
        export_model(format, tmp_path / source, tmp_path / "new" / "out")
    assert problem in str(refused.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_empty_is_not_written(exported_folder: Path, tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        export_model("huggingface", exported_folder / "ours/lossless", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failed_export_leaves_nothing_behind(exported_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def raise_disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "write_huggingface_tokenizer", raise_disk_full)
    with pytest.raises(ResourceError, match="the disk is full"):
        export_model("huggingface", exported_folder / "ours/lossless", tmp_path / "out")
    assert [*tmp_path.iterdir()] == []
