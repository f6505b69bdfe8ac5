"""Hostile folders in every command that takes a folder: each gives one error and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_targets as examples
import numpy as np
import pytest
import torch
from fuzz_mutations import reseal
from report_runs import write_pretraining_run
from safetensors.torch import load_file, save_file
from workspace import edit_json, list_files

from gpt1.corpus.shards import manifest_fingerprint
from gpt1.files.manifest import write_manifest

SECONDS = 20  # CPU time of one command: none reads more than a few KB
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # what changes a terminal

Damage = Callable[[Path], None]


def replace_by_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replace_by_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def fill_weight(path: Path, value: float, dtype: torch.dtype = torch.float32) -> None:
    """One tensor of a weights file gets another value or type."""
    tensors = load_file(path)
    name = "blocks.0.mlp.widen.weight"
    save_file({**tensors, name: torch.full(tensors[name].shape, value, dtype=dtype)}, path)


def change_after_manifest(model: Path) -> None:
    write_manifest(model, "gpt1-model-files-1")
    edit_json(model / "config.json", dropout=0)


def add_file(corpus: Path, name: str) -> None:
    """The manifest names one more file of the tokenizer, and its checksums are right."""
    path = corpus / "manifest.json"
    manifest = json.loads(path.read_text())
    content = b"escaped"
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][name] = entry
    path.write_text(json.dumps({**manifest, "fingerprint": manifest_fingerprint(manifest)}))
    target = Path(os.path.normpath(corpus / name))
    if target.is_relative_to(corpus.parents[1]):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def link_outside(corpus: Path) -> None:
    """A shard is a link to a file outside the folder."""
    (corpus / "shard-00000.npy").rename(corpus.with_name("outside.npy"))
    (corpus / "shard-00000.npy").symlink_to(corpus.with_name("outside.npy"))


def replace_shard(corpus: Path, ids: Any) -> None:
    np.save(corpus / "shard-00000.npy", ids, allow_pickle=True)
    reseal(corpus)


def load_shard(corpus: Path) -> Any:
    return np.load(corpus / "shard-00000.npy")


CORPORA: dict[str, Damage] = {
    "name-leads-out": lambda f: add_file(f, "tokenizer/../../../escaped.txt"),
    "name-is-absolute": lambda f: add_file(f, "/tmp/gpt1-hostile-corpus-escaped.txt"),
    "name-recolors-the-terminal": lambda f: add_file(f, "tokenizer/\x1b[31mred"),
    "shard-is-a-link": link_outside,
    "shard-is-a-fifo": lambda f: replace_by_fifo(f / "shard-00000.npy"),
    "shard-of-objects": lambda f: replace_shard(f, load_shard(f).astype(object)),
    "ids-beyond-the-vocabulary": lambda f: replace_shard(f, np.full_like(load_shard(f), 60_000)),
    "manifest-deep": lambda f: (f / "manifest.json").write_text("[" * 2000) and None,
    "manifest-fifo": lambda f: replace_by_fifo(f / "manifest.json"),
}
MODELS: dict[str, Damage] = {
    "a-billion-layers": lambda f: edit_json(f / "config.json", n_layer=10**9),
    "a-wide-model": lambda f: edit_json(f / "config.json", n_embd=10**7),
    "a-large-vocabulary": lambda f: edit_json(f / "config.json", vocab_size=10**9),
    "more-layers-than-weights": lambda f: edit_json(f / "config.json", n_layer=1000),
    "long-dropout": lambda f: edit_json(f / "config.json", dropout=10**400),
    "layers-of-text": lambda f: edit_json(f / "config.json", n_layer="x"),
    "layers-in-a-list": lambda f: edit_json(f / "config.json", n_layer=[1]),
    "layers-of-truth": lambda f: edit_json(f / "config.json", n_layer=True),
    "deep": lambda f: (f / "config.json").write_text("[" * 2000) and None,
    "config-fifo": lambda f: replace_by_fifo(f / "config.json"),
    "config-device": lambda f: replace_by_device(f / "config.json"),
    "weights-fifo": lambda f: replace_by_fifo(f / "model.safetensors"),
    "weights-device": lambda f: replace_by_device(f / "model.safetensors"),
    "vocabulary-device": lambda f: replace_by_device(f / "vocab.json"),
    "merges-device": lambda f: replace_by_device(f / "merges.txt"),
    "merges-fifo": lambda f: replace_by_fifo(f / "merges.txt"),
    "vocabulary-deep": lambda f: (f / "vocab.json").write_text('{"a":' * 2000) and None,
    "weights-nan": lambda f: fill_weight(f / "model.safetensors", float("nan")),
    "weights-infinite": lambda f: fill_weight(f / "model.safetensors", float("inf")),
    "weights-int8": lambda f: fill_weight(f / "model.safetensors", 1, torch.int8),
    "weights-complex": lambda f: fill_weight(f / "model.safetensors", 1, torch.complex64),
    "changed-after-its-manifest": change_after_manifest,
    "weights-cut": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100) and None,
}
RUNS: dict[str, Damage] = {
    "yaml-laughs": lambda f: (f / "config.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n") and None,
    "yaml-fifo": lambda f: replace_by_fifo(f / "config.yaml"),
    "yaml-number-key": lambda f: (f / "config.yaml").write_text("1: 2\n") and None,
    "yaml-null-key": lambda f: (f / "config.yaml").write_text("null: 1\n") and None,
    "yaml-timestamp": lambda f: (f / "config.yaml").write_text("command: !!timestamp x\n") and None,
    "yaml-set": lambda f: (f / "config.yaml").write_text("command: !!set {a, b}\n") and None,
}


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ has valid examples, models/ and runs/ damaged copies, texts/ files that never end."""
    root = tmp_path_factory.mktemp("hostile")
    good, corpus = root / "good", root / "corpus"
    good.mkdir()
    corpus.mkdir()
    examples.make_model(good)
    examples.make_corpus(corpus)
    for name, damage in MODELS.items():
        shutil.copytree(good, root / "models" / name)
        damage(root / "models" / name)
    for name, damage in CORPORA.items():
        shutil.copytree(corpus, root / "corpora" / name)
        damage(root / "corpora" / name)
    for name, damage in RUNS.items():
        (root / "runs" / name).mkdir(parents=True)
        shutil.copytree(good, root / "runs" / name / "model")
        write_pretraining_run(root / "runs" / name)
        damage(root / "runs" / name)
    for name in ("fifo", "device"):
        (root / "texts" / name).mkdir(parents=True)
        {"fifo": replace_by_fifo, "device": replace_by_device}[name](root / "texts" / name / "a.txt")
        {"fifo": replace_by_fifo, "device": replace_by_device}[name](root / f"{name}.csv")
    (root / "rows.csv").write_text("text,label\n" + "".join(f"some words {i},{i % 2}\n" for i in range(8)))
    return root


@pytest.fixture(autouse=True)
def bounded_time() -> Iterator[None]:
    """Fail the test if a command hangs: an alarm in real time, far above what any command takes."""

    def end(signum: int, frame: object) -> None:
        pytest.fail("the command hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(30 * SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_refusal(run_cli: Any, root: Path, *words: str) -> str:
    before = list_files(root)
    answer = run_cli(*words)
    errors = [line for line in answer.stderr.splitlines() if line.startswith("gpt1: ")]
    assert answer.exit_code in (1, 2), (words, answer)
    assert len(errors) == 1, (words, answer.stderr)
    assert "Traceback" not in answer.stderr
    assert not CONTROL.search(answer.stderr + answer.stdout), words
    assert list_files(root) == before, words
    return answer.stderr


MODEL_COMMANDS = [
    "next {} hello",
    "generate {} hello --max-tokens 2",
    "evaluate {} rows.csv",
    "predict {} rows.csv",
    "inspect {}",
    "inspect rows.csv --from {}",
    "finetune rows.csv --from {} --out new --kind classification --text text --label label",
    "pretrain corpus --from {} --out new --steps 1",
    "export huggingface {} --out new",
    "import huggingface {} --out new",
    "curve rows.csv --from {} --out new --kind classification --text text --label label",
    "reproduce table2 --from {} --data-dir texts --out new",
    "zeroshot rows.csv --run {} --kind classification --text text --label label --words 0=bad,1=good",
]


@pytest.mark.parametrize("command", MODEL_COMMANDS, ids=lambda command: " ".join(command.split()[:2]))
def test_a_hostile_model_is_one_error(
    command: str, hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile_folder)
    for name in MODELS:
        message = read_refusal(run_cli, hostile_folder, *command.format(f"models/{name}").split())
        assert f"models/{name}" in message, message


CORPUS_COMMANDS = [
    "pretrain {} --out new --steps 1 --model tiny --context 8 --batch-size 2",
    "pretrain corpus --valid {} --out new --steps 1 --model tiny --context 8 --batch-size 2",
    "evaluate good {}",
    "inspect {}",
]


@pytest.mark.parametrize("command", CORPUS_COMMANDS, ids=lambda command: " ".join(command.split()[:3]))
@pytest.mark.parametrize("name", CORPORA)
def test_a_hostile_corpus_is_one_error(
    command: str, name: str, hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile_folder)
    read_refusal(run_cli, hostile_folder, *command.format(f"corpora/{name}").split())
    assert not Path("/tmp/gpt1-hostile-corpus-escaped.txt").exists()


@pytest.mark.parametrize("name", ["vocabulary-device", "merges-device", "merges-fifo", "vocabulary-deep"])
def test_a_hostile_tokenizer_is_one_error(
    name: str, hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile_folder)
    read_refusal(run_cli, hostile_folder, "tokenize", "rows.csv", "--out", "new", "--tokenizer", f"models/{name}")


@pytest.mark.parametrize("name", RUNS)
def test_hostile_settings_are_one_error(name: str, hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(hostile_folder)
    read_refusal(run_cli, hostile_folder, "pretrain", "corpus", "--out", "new", "--config", f"runs/{name}/config.yaml")
    read_refusal(run_cli, hostile_folder, "pretrain", "corpus", "--out", f"runs/{name}", "--resume")


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_an_endless_text_or_table_is_one_error(
    kind: str, hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile_folder)
    read_refusal(run_cli, hostile_folder, "tokenize", f"texts/{kind}", "--out", "new", "--vocab-size", "300")
    read_refusal(run_cli, hostile_folder, "inspect", f"{kind}.csv")
    read_refusal(
        run_cli,
        hostile_folder,
        "finetune",
        f"{kind}.csv",
        *["--from", "good", "--out", "new", "--kind", "classification"],
    )
    read_refusal(run_cli, hostile_folder, "evaluate", "good", f"{kind}.csv")


def test_a_url_without_its_package_is_one_error_with_the_fix(
    hostile_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile_folder)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    commands = ["inspect {}/a.csv", "tokenize {}/a.txt --out new", "pretrain {}/corpus --out new"]
    for words in commands:
        words = words.format("http://localhost/x")
        assert "pip install aiohttp" in read_refusal(run_cli, hostile_folder, *words.split())
