"""A server with more clients than it can answer at once: `starter` and a classifier of its size.

For a minute, 200 clients request texts (streamed), labels and next tokens in turn. Then they request more texts than
the server accepts, are refused with status 429, and disconnect; the result is how soon the server answers again. The
clients are threads of this process, so they share the machine with the server.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import BenchmarkResult, ResultTable
from benchmarks.serving import load_table, measure_loads, percentile, ratio, run_load, server
from gpt1.inference.predictor import load_model_and_tokenizer
from gpt1.inference.task import save_task
from gpt1.model.head import Head, TaskModel
from gpt1.tasks.targets import Classes

ROUNDS = 1
NEW_TOKENS, KEYSTROKES = 32, 100
TEXT = "the old man and a young woman walked to the house by the river when it began to rain in the night"
REFUSED = 429


@dataclass
class Traffic:
    """What the clients saw, from any number of threads."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    retry_after: list[str | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, status: int, seconds: float, retry_after: str | None) -> None:
        with self.lock:
            self.statuses[status] += 1
            if status == REFUSED:
                self.retry_after.append(retry_after)
            if status == http.client.OK:
                self.seconds.setdefault(path, []).append(seconds)


def run(rounds: int, quick: bool) -> BenchmarkResult:
    clients, duration = (8, 2.0) if quick else (200, 60.0)
    result = BenchmarkResult([])
    with tempfile.TemporaryDirectory(prefix="gpt1-") as folder:
        write_classifier(Path(folder) / "task")
        with server(["gpt1", "serve", "starter", f"{folder}/task", "--port", "0"]) as (port, process):
            add_together_and_alone(result, port, rounds, 4 if quick else 16)
            result.tables.append(keystroke_table(port, 5 if quick else KEYSTROKES))
            traffic = Traffic()
            memory: list[float] = []
            with sample_memory(process, memory):
                run_clients(port, clients, traffic, repeat(traffic, time.perf_counter() + duration))
            result.tables.append(traffic_table(traffic, clients, duration))
            start, end = memory[len(memory) // 3], max(memory[len(memory) // 3 :])
            result.tables.append(
                ResultTable("Memory of the server (MB)", ["after a third", "most since"], [[start, end]])
            )
            result.same_work["no answer of status 5xx, no broken connection"] = not traffic.failures and all(
                status < 500 for status in traffic.statuses
            )
            refused, recovery = overload(port, 40 if quick else clients)
            columns = ["requests", "refused (429)", "answered again after (s)"]
            result.tables.append(ResultTable("Overload", columns, [[len(refused), refused.count(REFUSED), recovery]]))
            result.same_work["what is too much is refused"] = REFUSED in refused
    return result


def write_classifier(folder: Path) -> None:
    """`starter` with a new head, as `finetune` writes it: two labels."""
    model, tokenizer = load_model_and_tokenizer("starter")
    target = Classes(("a", "b"))
    model.add_special_tokens()
    torch.manual_seed(0)
    head = Head(model.config.n_embd, target.outputs, False)
    task = {"kind": "classification", "columns": {"text": "text", "label": "label"}, "temperature": 1.0}
    folder.mkdir()
    save_task(folder, TaskModel(model, head), tokenizer, task, target)


def make_text(number: int, words: int) -> str:
    vocabulary = TEXT.split()
    return " ".join(vocabulary[(number * 7 + i * (1 + number % 5)) % len(vocabulary)] for i in range(words))


def completion(number: int) -> dict[str, Any]:
    return {
        "model": "starter",
        "prompt": make_text(number, 16),
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
    }


def classification(number: int) -> dict[str, Any]:
    return {"model": "task", "rows": [make_text(number, 12)]}


# ---- measurements


def add_together_and_alone(result: BenchmarkResult, port: int, rounds: int, clients: int) -> None:
    texts, rows = [completion(i) for i in range(clients)], [classification(i) for i in range(8 * clients)]
    for unit, path, requests, amount in (
        ("tokens", "/v1/completions", texts, NEW_TOKENS), ("rows", "/v1/classify", rows, 1),
    ):  # fmt: skip
        counts = {"together": clients, "one at a time": 1}
        loads = {name: partial(run_load, port, path, requests, count) for name, count in counts.items()}
        found = measure_loads(loads, rounds)
        title = f"starter, {clients} clients, {len(requests)} requests of {path}"
        result.tables.append(load_table(title, found, amount, unit))
        result.ratios[f"{unit}: together / one at a time"] = ratio(found["together"], found["one at a time"])


def keystroke_table(port: int, count: int) -> ResultTable:
    """Next tokens as a text is typed, one request after another."""
    text, seconds = make_text(1, 60), []
    for length in range(1, count + 1):
        start = time.perf_counter()
        ask(port, "/v1/next", {"model": "starter", "text": text[:length], "top": 10})
        seconds.append(1000 * (time.perf_counter() - start))
    return ResultTable(
        "Next token, one client (ms)", ["p50", "p99"], [[percentile(seconds, 50), percentile(seconds, 99)]]
    )


def repeat(traffic: Traffic, end: float) -> Callable[[int, int], None]:
    """A client that asks until `end`, for a text, a label and a next token in turn."""

    def client(port: int, number: int) -> None:
        kinds = (
            ("/v1/completions", completion),
            ("/v1/classify", classification),
            ("/v1/next", lambda i: {"model": "starter", "text": make_text(i, 16), "top": 10}),
        )
        while time.perf_counter() < end:
            for path, content in kinds:
                number += 1000
                start = time.perf_counter()
                status, headers = ask(port, path, content(number))
                traffic.add(path, status, time.perf_counter() - start, headers.get("retry-after"))
                if status == REFUSED:
                    time.sleep(float(headers["retry-after"]))

    return client


def traffic_table(traffic: Traffic, clients: int, duration: float) -> ResultTable:
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(traffic.statuses.items()))
    rows = []
    for path, seconds in sorted(traffic.seconds.items()):
        per_second = len(seconds) / duration * (NEW_TOKENS if path == "/v1/completions" else 1)
        unit = "tokens" if path == "/v1/completions" else "answers"
        rows.append(
            [path, len(seconds), f"{per_second:.3g} {unit}/s", percentile(seconds, 50), percentile(seconds, 99)]
        )
    title = f"{clients} clients for {duration:.0f} s: {statuses}; {len(traffic.failures)} broken connections"
    return ResultTable(title, ["", "answers", "rate", "p50 (s)", "p99 (s)"], rows)


def overload(port: int, clients: int) -> tuple[list[int], float]:
    """The statuses of requests for more texts than the server accepts, and the seconds until it answers afterwards."""
    statuses: list[int] = []

    def client(port: int, number: int) -> None:
        content = {"model": "starter", "prompt": [make_text(number + i, 16) for i in range(64)], "max_tokens": 128}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        try:
            statuses.append(send(connection, "/v1/completions", content)[0])
        except TimeoutError:  # it was accepted; the client disconnects
            statuses.append(0)
        finally:
            connection.close()

    run_clients(port, clients, Traffic(), client)
    start = time.perf_counter()
    while ask(port, "/v1/completions", {"model": "starter", "prompt": "the", "max_tokens": 1})[0] == REFUSED:
        time.sleep(0.01)
    return statuses, time.perf_counter() - start


# ---- clients


def run_clients(port: int, count: int, traffic: Traffic, client: Callable[[int, int], None]) -> None:
    def guarded(number: int) -> None:
        try:
            client(port, number)
        except (OSError, http.client.HTTPException) as error:
            traffic.failures.append(repr(error))

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(port: int, path: str, content: Any) -> tuple[int, dict[str, str]]:
    """The status and the headers of the answer to a request, which is read to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        return send(connection, path, content)
    finally:
        connection.close()


def send(connection: http.client.HTTPConnection, path: str, content: Any) -> tuple[int, dict[str, str]]:
    connection.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


@contextmanager
def sample_memory(process: int, samples: list[float]) -> Iterator[None]:
    """Add the resident memory of a process (MB) to `samples`, ten times a second."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.1):
            pages = Path(f"/proc/{process}/statm").read_text().split()[1]
            samples.append(int(pages) * 4096 / 1e6)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def missing_requirement(quick: bool) -> str:
    return "" if Path("/proc/self/statm").exists() else "it reads the server's memory from /proc"
