"""Serving: clients that ask a server on this machine, together and one at a time; texts (greedy, streamed) and labels.

The peer is plain FastAPI with transformers' `generate` on the same weights (benchmarks/serving_peer.py). Each request
has a prompt of its own, so that nothing is shared.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import BenchmarkResult, Ratio, ResultTable, speed_ratio, summarize_rounds
from benchmarks.models_and_data import describe_size, model_config
from gpt1.inference.task import save_model, save_task
from gpt1.model.foreign_weights import write_huggingface
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.tasks.targets import Classes
from gpt1.tokenization.pipelines import byte_characters
from gpt1.tokenization.tokenizer import Tokenizer

ROUNDS = 1
CLIENTS, PROMPT_TOKENS, NEW_TOKENS, ROW_WORDS = 16, 32, 64, 12


@dataclass(frozen=True)
class LoadResult:
    """What the clients of one load saw."""

    seconds: float
    latencies: list[float]
    first_tokens: list[float]
    answers: list[str]


def run(rounds: int, quick: bool) -> BenchmarkResult:
    clients, new = (4, 4) if quick else (CLIENTS, NEW_TOKENS)
    torch.manual_seed(0)
    prompts = torch.randint(128, (clients, PROMPT_TOKENS)).tolist()  # bytes of ASCII: no prompt ends within a character
    texts = [{"prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True} for prompt in prompts]
    rows = [{"model": "task", "rows": [" ".join(f"word{i * j}" for j in range(ROW_WORDS))]} for i in range(8 * clients)]
    result = BenchmarkResult([])
    with tempfile.TemporaryDirectory() as folder:
        size = write_models(Path(folder), quick)
        with server(["gpt1", "serve", f"{folder}/model", f"{folder}/task", "--port", "0"]) as (port, _):
            loads: dict[str, Callable[[], LoadResult]] = {
                "together": lambda: run_load(port, "/v1/completions", texts, clients),
                "one at a time": lambda: run_load(port, "/v1/completions", texts, 1),
            }
            ours = measure_loads(loads, rounds)
            labels = measure_loads(
                {
                    "together": lambda: run_load(port, "/v1/classify", rows, clients),
                    "one at a time": lambda: run_load(port, "/v1/classify", rows, 1),
                },
                rounds,
            )
        with server(["benchmarks.serving_peer", f"{folder}/huggingface"]) as (port, _):
            peer = measure_loads({"transformers": lambda: run_load(port, "/v1/completions", texts, clients)}, rounds)
    title = f"Texts, {describe_size(size)}, {clients} clients, {PROMPT_TOKENS} + {new} tokens, greedy, fp32"
    result.tables.append(load_table(title, {**ours, **peer}, new, "tokens"))
    title = f"Labels, {clients} clients, {len(rows)} rows of {ROW_WORDS} words"
    result.tables.append(load_table(title, labels, 1, "rows"))
    result.ratios.update(
        {
            f"texts: together / {name}": ratio(ours["together"], other)
            for name, other in (("one at a time", ours["one at a time"]), ("transformers", peer["transformers"]))
        }
    )
    result.ratios["labels: together / one at a time"] = ratio(labels["together"], labels["one at a time"])
    alone, together, theirs = (
        [load.answers for load in found] for found in (ours["one at a time"], ours["together"], peer["transformers"])
    )
    result.same_work["the same texts together and one at a time"] = alone == together
    expected = [[text_of(ids) for ids in answers] for answers in theirs]
    result.same_work["the same texts as transformers"] = together == expected
    return result


def measure_loads(loads: Mapping[str, Callable[[], LoadResult]], rounds: int) -> dict[str, list[LoadResult]]:
    """Each load in turn, after one round of warm-up."""
    found: dict[str, list[LoadResult]] = {name: [] for name in loads}
    for number in range(rounds + 1):
        for name, load in loads.items():
            result = load()
            if number:
                found[name].append(result)
    return found


def ratio(ours: Sequence[LoadResult], peer: Sequence[LoadResult]) -> Ratio:
    return speed_ratio([load.seconds for load in ours], [load.seconds for load in peer])


def load_table(title: str, loads: dict[str, list[LoadResult]], amount: int, unit: str) -> ResultTable:
    table_rows = []
    for name, found in loads.items():
        latencies = [seconds for load in found for seconds in load.latencies]
        first = [seconds for load in found for seconds in load.first_tokens]
        rate = summarize_rounds(amount * len(load.latencies) / load.seconds for load in found)
        table_rows.append([name, rate, *(percentile(values, p) for values in (first, latencies) for p in (50, 99))])
    columns = ["", f"{unit}/s", "first p50 (s)", "first p99", "whole p50", "whole p99"]
    return ResultTable(title, columns, table_rows)


def percentile(values: Sequence[float], p: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * p // 100)]


# ---- models and servers


def write_models(folder: Path, quick: bool) -> Any:
    """The same random weights as a model folder, with a head, and in Hugging Face's format; returns their config."""
    torch.manual_seed(0)
    model, tokenizer = GPT(model_config(quick)), byte_pair_tokenizer(model_config(quick).vocab_size)
    config = model.config
    (folder / "model").mkdir()
    save_model(folder / "model", model, tokenizer)
    (folder / "huggingface").mkdir()
    write_huggingface(folder / "huggingface", config, model.state_dict())
    model.add_special_tokens()
    target = Classes(("a", "b"))
    task = {"kind": "classification", "columns": {"text": "text", "label": "label"}, "temperature": 1.0}
    (folder / "task").mkdir()
    save_task(folder / "task", TaskModel(model, Head(config.n_embd, target.outputs, False)), tokenizer, task, target)
    return config


def byte_pair_tokenizer(size: int) -> Tokenizer:
    """A lossless tokenizer of any size: all bytes, and merges of pairs of them."""
    characters = byte_characters()
    pairs = [(a, b) for a in characters for b in characters][: size - len(characters)]
    tokens = [*characters, *("".join(pair) for pair in pairs)]
    return Tokenizer({token: i for i, token in enumerate(tokens)}, pairs, "lossless")


def text_of(answer: str) -> str:
    """The text of the ids that the peer answers."""
    ids = json.loads(answer)
    tokenizer = byte_pair_tokenizer(model_config(False).vocab_size)
    return b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")


@contextmanager
def server(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The port of a server in a process of its own, and the id of the process."""
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        for line in process.stderr:
            if " at http://" in line:
                break
        port = int(line.partition("http://127.0.0.1:")[2].partition(";")[0])
        threading.Thread(target=lambda: [None for _ in process.stderr or []], daemon=True).start()
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


# ---- clients


def run_load(port: int, path: str, requests: Sequence[dict[str, Any]], clients: int) -> LoadResult:
    """Send the requests from this many clients, each of which waits for an answer before it asks again."""
    waiting = list(enumerate(requests))[::-1]
    found: dict[int, tuple[float, float, str]] = {}
    failures: list[BaseException] = []

    def client() -> None:
        while waiting and not failures:
            try:
                number, content = waiting.pop()
            except IndexError:  # another client took the last one
                return
            try:
                found[number] = ask(port, path, content)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if failures:
        raise failures[0]
    firsts, latencies, answers = zip(*(found[i] for i in range(len(requests))), strict=True)
    return LoadResult(seconds, list(latencies), list(firsts), list(answers))


def ask(port: int, path: str, content: dict[str, Any]) -> tuple[float, float, str]:
    """(seconds to the first line, to the last, text) of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.perf_counter()
    connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
    response = connection.getresponse()
    lines, first = [], 0.0
    for line in response:
        first = first or time.perf_counter() - start
        lines.append(line.decode().strip())
    seconds = time.perf_counter() - start
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {lines}")
    return first, seconds, answer_text(lines)


def answer_text(lines: Sequence[str]) -> str:
    """The text of a stream of gpt1, the ids of the peer's, the predictions of rows."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    if not events:
        return json.dumps([row["prediction"] for row in json.loads(lines[0])["data"]])
    if events[-1] != "[DONE]":
        return events[-1]
    return "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])
