"""Every reader of untrusted files with a small valid example of its input."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from report_runs import write_finetuning_run, write_pretraining_run, write_regression_run

ROWS = [{"text": f'row {i}, "quoted"\nand more', "label": i % 2, "list": ["a", f"b{i}"]} for i in range(4)]
TEXTS = ["the low lower lowest newest widest", "over and over the river\n\nand through the woods", "a b c d e"] * 3


@dataclass(frozen=True)
class Target:
    """A reader. `files`: path below the folder that `make` fills → how to mutate the file."""

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    files: dict[str, str]
    weight: int = 4
    """Share of the inputs, relative to the other targets."""


def table_target(ending: str) -> Target:
    from gpt1.corpus.readers import list_sources, read_source
    from gpt1.tables.facts import describe_table
    from gpt1.tables.table import read_table, write_table

    name = f"rows.{ending}"
    kind, _, compression = ending.partition(".")
    rows = [{k: v.replace("\n", " ") if k == "text" else str(v) for k, v in row.items()} for row in ROWS]

    def read(folder: Path) -> None:
        table = read_table(folder / name)
        describe_table(table)
        for source in list_sources([str(folder / name)]):
            for _ in islice(read_source(source), 1000):
                pass

    mutation = "binary" if compression or kind == "parquet" else "lines" if kind == "jsonl" else "text"
    return Target(lambda folder: write_table(folder / name, rows if kind == "tsv" else ROWS), read, {name: mutation})


def text_target(ending: str) -> Target:
    from gpt1.corpus.readers import list_sources, read_source

    name = f"a.{ending}"
    data = "\n".join(TEXTS).encode()
    zipped = {"": bytes, "gz": gzip.compress, "xz": lzma.compress, "zst": zstd}[ending.partition(".")[2]](data)

    def read(folder: Path) -> None:
        for source in list_sources([str(folder)]):
            for _ in islice(read_source(source), 1000):
                pass

    return Target(lambda folder: write_bytes(folder / name, zipped), read, {name: "binary"})


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


def tokenizer(pipeline: str) -> Any:
    from gpt1.tokenization.tokenizer import Tokenizer

    return Tokenizer.train(TEXTS, vocab_size=270, pipeline=pipeline)


def tiny_model(vocab_size: int) -> Any:
    import torch

    from gpt1.config import GPTConfig
    from gpt1.model.gpt import GPT

    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=vocab_size, n_layer=1, n_head=1, n_embd=64, context=8))


TOKENIZER_FILES = {"gpt1_tokenizer.json": "json", "vocab.json": "json", "merges.txt": "text"}


def make_tokenizer(folder: Path, pipeline: str) -> None:
    tokenizer(pipeline).save(folder)


def read_tokenizer(folder: Path) -> None:
    from gpt1.tokenization.tokenizer import Tokenizer

    loaded = Tokenizer.load(folder)
    loaded.decode(range(loaded.vocab_size))
    loaded.version_warning()
    if loaded.pipeline == "lossless":  # the other one starts spaCy
        loaded.encode("over the lowest\n\x00 é")


def make_released(folder: Path) -> None:
    make_tokenizer(folder, "original")
    (folder / "vocab.json").rename(folder / "encoder_bpe_40000.json")
    (folder / "merges.txt").rename(folder / "vocab_40000.bpe")
    (folder / "gpt1_tokenizer.json").unlink()


def make_model(folder: Path) -> None:
    own = tokenizer("lossless")
    tiny_model(own.vocab_size).save(folder, tokenizer=own.fingerprint)
    own.save(folder)


def read_model(folder: Path) -> None:
    from gpt1.inference.predictor import load

    load(folder).next_tokens("over", 3)


def make_huggingface(folder: Path) -> None:
    from gpt1.model.foreign_weights import write_huggingface

    own = tokenizer("original")
    model = tiny_model(own.vocab_size)
    write_huggingface(folder, model.config, model.state_dict())
    own.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()


def make_openai(folder: Path) -> None:
    import numpy as np

    from gpt1.model.foreign_weights import BLOCK_NAMES

    n, context, vocabulary = 64, 8, 20
    shapes = [[context, n], [vocabulary, n]]
    sizes = {"qkv": (n, 3 * n), "out": (n, n), "widen": (n, 4 * n), "narrow": (4 * n, n)}
    for _, part in BLOCK_NAMES:
        size = sizes.get(part.partition(".")[2])
        shapes += [[1, *size], [size[1]]] if size else [[n], [n]]
    total = sum(int(np.prod(shape)) for shape in shapes)
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(np.array_split(np.zeros(total, np.float32), 2)):
        np.save(folder / f"params_{i}.npy", part)
    (folder / "params_shapes.json").write_text(json.dumps(shapes))


def read_weights(folder: Path) -> None:
    from gpt1.model.gpt import GPT

    GPT.from_pretrained(folder)


def make_task(folder: Path) -> None:
    from gpt1.inference.task import save_task
    from gpt1.model.head import Head, TaskModel
    from gpt1.tasks.targets import Classes

    own = tokenizer("lossless")
    gpt = tiny_model(own.vocab_size)
    gpt.add_special_tokens()
    target = Classes(("neg", "pos"))
    task = {"kind": "classification", "columns": {"text": "text", "label": "label"}, "cut": "longest", "long": "cut"}
    task |= {"temperature": 1.5, "train": "all"}
    save_task(folder, TaskModel(gpt, Head(64, target.outputs, False)), own, task, target)


def read_task(folder: Path) -> None:
    from gpt1.inference.predictor import load

    model = load(folder)
    model.predict([{"text": "over the river"}] if type(model).__name__ == "TaskPredictor" else [])


def make_classifier(folder: Path) -> None:
    """A fine-tuned model as transformers' classifier, its tokenizer in one file, its weights in two."""
    import torch

    from gpt1.inference.convert import export_model
    from gpt1.model.weights import read_tensors, write_safetensors

    make_task(own := folder.with_name(folder.name + "-own"))
    folder.rmdir()
    weights = read_tensors(own / "model.safetensors")
    weights["blocks.0.norm_2.bias"] = torch.linspace(-1, 2, 64)  # takes the place of the head's bias
    write_safetensors(own / "model.safetensors", weights)
    export_model("huggingface", own, folder, verify=False)
    shutil.rmtree(own)
    for name in ("manifest.json", "gpt1_tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink()
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + name.startswith('transformer.h')}.safetensors" for name in tensors}
    for file in sorted(set(places.values())):
        write_safetensors(folder / file, {name: t for name, t in tensors.items() if places[name] == file})
    write_bytes(folder / "model.safetensors.index.json", json.dumps({"weight_map": places}).encode())


def make_corpus(folder: Path) -> None:
    from gpt1.corpus.corpus import write_corpus

    source = folder.with_name(folder.name + "-source.jsonl")
    write_bytes(source, "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode())
    folder.rmdir()
    write_corpus([str(source)], folder, tokenizer("lossless"))
    source.unlink()


def read_corpus(folder: Path) -> None:
    from gpt1.corpus.corpus import Corpus

    corpus = Corpus.open(folder)
    corpus.verify()
    loaded = corpus.load_tokenizer()
    ids = corpus.read(0, min(64, corpus.tokens))
    loaded.decode(ids.tolist())
    corpus.count_bytes(0, min(64, corpus.tokens))


STEP = "step-00000001"


def make_checkpoint(folder: Path) -> None:
    from gpt1.training import checkpoints

    model = tiny_model(20)
    state = {"best": {"step": 1, "loss": 2.5}, "fingerprints": {"corpus": "0" * 64}, "precision": "fp32"}
    optimizer = {"moment": model.tokens.weight.detach()[:2].clone()}
    checkpoints.save_checkpoint(folder, 1, model.state_dict(), optimizer, state)


def read_checkpoint(folder: Path) -> None:
    from gpt1.training import checkpoints

    checkpoints.load_checkpoint(folder / STEP)


def read_settings(folder: Path) -> None:
    from gpt1.config import PretrainConfig
    from gpt1.runs import folder as runs

    runs.resolve_settings(PretrainConfig, runs.user_settings(PretrainConfig, folder / "c.yaml", {}))


def read_run(folder: Path) -> None:
    from gpt1.inspect.folders import inspect_run
    from gpt1.progress import MetricsFile, Progress
    from gpt1.runs.folder import read_run_config

    inspect_run(str(folder), None, Progress())
    MetricsFile(folder / "metrics.jsonl").truncate_after(10)
    read_run_config(folder)


def read_page(folder: Path) -> None:
    from gpt1.report.sections import write_report

    write_report(folder)


def make_race(folder: Path) -> None:
    passage = {"article": "a text", "questions": ["q?"], "options": [["a", "b", "c", "d"]], "answers": ["B"]}
    for part in ("high", "middle"):
        write_bytes(folder / f"RACE/test/{part}/1.txt", json.dumps(passage).encode())


def read_race(folder: Path) -> None:
    from gpt1.datasets import find_data_set

    find_data_set("race").read("test", folder)


def make_archive(folder: Path) -> None:
    make_race(folder)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.add(folder / "RACE", "RACE")
    shutil.rmtree(folder / "RACE")
    write_bytes(folder / "RACE.tar.gz", data.getvalue())


def read_schemas(folder: Path) -> None:
    from gpt1.experiments.zeroshot import winograd

    winograd.read_schemas(folder / "test.c.txt")


def make_features(folder: Path) -> None:
    import torch

    from gpt1.progress import Progress
    from gpt1.training.head_only import write_cached_features

    write_cached_features(folder / "f.safetensors", torch.ones(4, 8), Progress())


def read_features(folder: Path) -> None:
    from gpt1.progress import Progress
    from gpt1.training.head_only import read_cached_features

    read_cached_features(folder / "f.safetensors", (4, 8), Progress())


def make_cells(folder: Path) -> None:
    from gpt1.experiments.result_store import ResultStore

    ResultStore(folder, {"model": {"weights": "x"}, "rows": 3}, {"a": {"score": 0.5, "seconds": 2.0}}).write()


def read_cells(folder: Path) -> None:
    from gpt1.experiments.result_store import ResultStore

    ResultStore.open(folder, {"model": {"weights": "x"}, "rows": 3})


def targets() -> Iterator[tuple[str, Target]]:
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        for compression in ("", ".gz", ".xz", ".zst"):
            yield f"table {kind}{compression}", table_target(kind + compression)
    for ending in ("txt", "txt.gz", "txt.xz", "txt.zst"):
        yield f"text {ending}", text_target(ending)
    for pipeline in ("original", "lossless"):
        make = lambda folder, pipeline=pipeline: make_tokenizer(folder, pipeline)  # noqa: E731
        yield f"tokenizer {pipeline}", Target(make, read_tokenizer, TOKENIZER_FILES)
    released = {"encoder_bpe_40000.json": "json", "vocab_40000.bpe": "text"}
    yield "tokenizer released", Target(make_released, read_tokenizer, released)
    model = {"config.json": "json", "model.safetensors": "binary"}
    yield "model", Target(make_model, read_model, model | TOKENIZER_FILES)
    yield "model huggingface", Target(make_huggingface, read_weights, model)
    arrays = {"params_0.npy": "binary", "params_1.npy": "binary", "params_shapes.json": "json"}
    yield "model openai", Target(make_openai, read_weights, arrays)
    yield "task", Target(make_task, read_task, {"task.json": "json", "model.safetensors": "binary"})
    classifier = dict.fromkeys(("config.json", "model.safetensors.index.json", "tokenizer.json"), "json")
    classifier |= dict.fromkeys(("model-1.safetensors", "model-2.safetensors", "head.safetensors"), "binary")
    yield "classifier", Target(make_classifier, read_task, classifier, 8)
    corpus = {"manifest.json": "json", "shard-00000.npy": "binary", "documents.npy": "binary"}
    yield "corpus", Target(make_corpus, read_corpus, corpus | {"tokenizer/vocab.json": "json"})
    checkpoint = {f"{STEP}/{name}.json": "json" for name in ("manifest", "state")}
    checkpoint[f"{STEP}/model.safetensors"] = "binary"
    yield "checkpoint", Target(make_checkpoint, read_checkpoint, checkpoint)
    settings = b"peak_lr: 1.0e-3\nn_layer: 2\nseed: 1\nrecipe: default\nmodel: tiny\ncompile: false\n"
    yield (
        "settings",
        Target(lambda folder: write_bytes(folder / "c.yaml", settings), read_settings, {"c.yaml": "yaml"}, 8),
    )
    run = {"config.yaml": "yaml", "results.json": "json", "metrics.jsonl": "lines"}
    rows = run | {"predictions.jsonl": "lines"}
    yield "run pretrain", Target(write_pretraining_run, read_run, run)
    yield "run finetune", Target(write_finetuning_run, read_run, rows)
    yield "page pretrain", Target(write_pretraining_run, read_page, run, 1)
    yield "page finetune", Target(write_finetuning_run, read_page, rows, 1)
    yield "page scores", Target(write_regression_run, read_page, rows, 1)
    yield "race", Target(make_race, read_race, {"RACE/test/high/1.txt": "json"})
    yield "archive", Target(make_archive, read_race, {"RACE.tar.gz": "binary"})
    schemas = b"The cat saw the dog and it ran.\nit\nThe cat,the dog\nThe cat\n\n"
    yield (
        "schemas",
        Target(lambda folder: write_bytes(folder / "test.c.txt", schemas), read_schemas, {"test.c.txt": "text"}),
    )
    yield "features", Target(make_features, read_features, {"f.safetensors": "binary"})
    yield "cells", Target(make_cells, read_cells, {"cells.json": "json"})
