"""Fixtures for the command line: a user's folder with valid and invalid files, and a way to run commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hints import find_wrong_advice

from gpt1.cli.main import cli, main
from gpt1.tables.table import Table, write_table

TINY_FLAGS = "--model tiny --n-layer 2 --n-head 2 --n-embd 32 --context 32 --batch-size 8 --precision fp32 --device cpu"
CLASSIFICATION_FLAGS = "--kind classification --text text --label label --from runs/books"


class CommandResult(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]):
    """Run a command in this process; an exception, or advice that the command does not have, fails the test."""

    def run(*words: str) -> CommandResult:
        capfd.readouterr()
        code = 0
        try:
            main(list(words))
        except SystemExit as stop:
            code = int(stop.code or 0)
        result = CommandResult(code, *capfd.readouterr())
        if words and words[0] in cli.commands:
            assert not (wrong := find_wrong_advice(result.stderr, words[0], words)), (wrong, result.stderr)
        return result

    return run


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="session")
def workspace(
    corpus: Path,
    pretrained_run: Path,
    table: Table,
    tokenizer: Any,
    prose: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with valid and invalid files, runs and corpora."""
    from gpt1.training.finetune import finetune

    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(corpus, folder / "corpus")
    shutil.copytree(pretrained_run, folder / "runs" / "books")
    write_tables(folder, table)
    write_corpora(folder, tokenizer)
    write_broken_runs(folder)
    write_huggingface_folder(folder / "theirs", prose)
    settings = {"from_": folder / "runs/books", "epochs": 1, "precision": "fp32", "device": "cpu"}
    train = {"kind": "classification", "text": "text", "label": "label"}
    finetune(folder / "reviews.csv", out=folder / "runs/reviews", **train, **settings)
    return folder


def write_tables(workspace: Path, table: Table) -> None:
    reviews = [{"text": row["text"], "label": row["label"], "stars": row["stars"]} for row in table.rows]
    write_table(workspace / "reviews.csv", reviews)
    write_table(workspace / "new.csv", [{"text": row["text"]} for row in table.rows[:5]])
    write_table(workspace / "unknown.csv", [{"text": "a", "label": "yes"}, {"text": "b", "label": "perhaps"}])
    write_table(workspace / "single.csv", [{"text": f"text {i}", "label": "yes"} for i in range(4)])
    write_table(workspace / "repeats.csv", [{"text": "same", "label": label} for label in ("yes", "no", "yes")])
    write_table(workspace / "gaps.csv", [{"text": "a", "label": "yes"}, {"text": "b", "label": ""}])
    write_table(workspace / "lists.jsonl", [{"text": ["a", "b"], "label": "yes"}, {"text": "c", "label": "no"}])
    for name, score in {"nan": float("nan"), "words": "high", "none": None, "inf": float("inf")}.items():
        write_table(workspace / f"{name}.jsonl", [{"a": "x", "b": "y", "s": 1}, {"a": "x", "b": "z", "s": score}])
    write_table(workspace / "flat.jsonl", [{"a": "x", "b": "y", "s": 2}, {"a": "x", "b": "z", "s": 2}])
    write_table(workspace / "one-answer.jsonl", [{"p": "x", "c": ["only"], "r": 0}])
    write_table(workspace / "far-answer.jsonl", [{"p": "x", "c": ["a", "b"], "r": 2}])
    write_table(workspace / "two-readings.jsonl", [{"p": "x", "c": ["1", "0"], "r": "1"}])
    for ending in ("csv", "txt", "jsonl"):
        (workspace / f"empty.{ending}").write_bytes(b"")
        (workspace / f"latin.{ending}").write_bytes("text,label\nfaçade,a\nx,b\n".encode("latin-1"))
        (workspace / f"binary.{ending}").write_bytes(b"\x7fELF\0\0\0\1" * 100)
    (workspace / "header.csv").write_text("text,label\n")
    (workspace / "short.txt").write_text("a few words")
    (workspace / "nothing-in-it").mkdir()
    (workspace / "full").mkdir()
    (workspace / "full" / "letter.doc").write_text("x")
    files = {"misspelled": "peek_lr: 1", "worded": "peak_lr: fast", "listed": "- peak_lr", "broken": "a: ["}
    files |= {"blank": "", "null": "peak_lr: null", "far": "dropout: 2", "head": "train: head"}
    for name, text in files.items():
        (workspace / f"{name}.yaml").write_text(text)


def write_corpora(workspace: Path, tokenizer: Any) -> None:
    from gpt1.corpus.corpus import write_corpus
    from gpt1.tokenization.tokenizer import Tokenizer

    write_corpus([str(workspace / "short.txt")], workspace / "short", tokenizer)
    other = Tokenizer.train(["other words for another vocabulary"], vocab_size=270, pipeline="lossless")
    write_corpus([str(workspace / "reviews.csv")], workspace / "other", other)
    shutil.copytree(workspace / "corpus", workspace / "damaged")
    data = bytearray((workspace / "damaged/shard-00000.npy").read_bytes())
    data[-1] ^= 1
    (workspace / "damaged/shard-00000.npy").write_bytes(data)
    shutil.copytree(workspace / "corpus", workspace / "cut")
    (workspace / "cut/manifest.json").write_text((workspace / "corpus/manifest.json").read_text()[:-20])


def write_broken_runs(workspace: Path) -> None:
    """Copies of a valid run, each with one fault."""
    for name in ("swapped", "no-model", "no-task", "cut-weights"):
        shutil.copytree(workspace / "runs/books", workspace / "broken" / name)
        (workspace / "broken" / name / "model/manifest.json").unlink()
    shutil.copytree(workspace / "other/tokenizer", workspace / "broken/swapped/model", dirs_exist_ok=True)
    shutil.rmtree(workspace / "broken/no-model/model")
    (workspace / "broken/no-task/model/task.json").write_text("{}")
    weights = workspace / "broken/cut-weights/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def write_huggingface_folder(folder: Path, prose: list[str]) -> None:
    """A small openai-gpt folder as transformers writes it, with a vocabulary of the original pipeline."""
    import torch
    from safetensors.torch import save_file

    from gpt1.model.foreign_weights import BLOCK_NAMES
    from gpt1.tokenization.tokenizer import Tokenizer

    n, layers, context = 32, 2, 16
    tokenizer = Tokenizer.train(prose, vocab_size=300, pipeline="original")
    tokenizer.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()
    shape = {"vocab_size": tokenizer.vocab_size, "n_layer": layers, "n_head": 2, "n_embd": n, "n_positions": context}
    (folder / "config.json").write_text(json.dumps({"model_type": "openai-gpt", **shape}))
    sizes = {"c_attn": (n, 3 * n), "attn.c_proj": (n, n), "c_fc": (n, 4 * n), "mlp.c_proj": (4 * n, n)}
    weights = {"tokens_embed.weight": torch.randn(tokenizer.vocab_size, n)}
    weights["positions_embed.weight"] = torch.randn(context, n)
    for layer in range(layers):
        for part, _ in BLOCK_NAMES:
            size = next((size for name, size in sizes.items() if part.endswith(name)), (n,))
            weights[f"h.{layer}.{part}.weight"] = torch.randn(size) * 0.02
            weights[f"h.{layer}.{part}.bias"] = torch.zeros(size[-1])
    save_file(weights, folder / "model.safetensors")
