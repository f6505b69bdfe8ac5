"""Two replicas under Ray Serve on this machine: the same answers, 429 when full, and a replica that is killed."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from running_server import Answer, RunningServer, wait_for

import gpt1
from gpt1.errors import UserError

CLIENTS, REQUESTS = 8, 15
PATIENCE = 600
"""Seconds that Ray's processes may take to start where others use the CPUs."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no network
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(PATIENCE),
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": str(PATIENCE),
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'gpt1[ray]'"),
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of Ray Serve's proxy; Ray itself runs in this process and its children, without a network."""
    os.environ |= ENVIRONMENT
    import ray
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    root = str(Path(gpt1.__file__).parents[1])
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, object_store_memory=2**27,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )  # fmt: skip
    with suppress(TimeoutError):  # on a busy machine it takes longer than Ray Serve waits
        serve.start(http_options={"host": "127.0.0.1", "port": number})
    wait_for(lambda: is_open(number), PATIENCE)
    yield number
    serve.shutdown()
    ray.shutdown()


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10):
        return True
    return False


def deploy(port: int, runs: list[Path], **options: Any) -> RunningServer:
    from ray import serve

    from gpt1.serving.ray_app import make_deployment

    deployment = make_deployment({"runs": [str(run) for run in runs], "device": "cpu"})
    serve.run(deployment.options(ray_actor_options={"num_cpus": 0.1}, **options).bind(), route_prefix="/")
    return RunningServer(port)


def ask_until_answered(server: RunningServer, content: Any, tries: int) -> list[int]:
    """The status of each try until one is 200; 0 for a connection that was cut off."""
    found: list[int] = []
    while len(found) < tries and found[-1:] != [200]:
        try:
            found.append(server.ask("/v1/completions", content).status)
        except OSError:
            found.append(0)
    return found


def test_a_replica_answers_as_the_server_does(port: int, workspace: Path):
    server = deploy(port, [workspace / "runs/books", workspace / "runs/reviews"], num_replicas=1)
    model = gpt1.load(workspace / "runs/books", device="cpu")
    content = {"model": "books", "prompt": "the file", "max_tokens": 12, "temperature": 0}
    answer = server.ask("/v1/completions", content)
    assert "the file" + answer.json["choices"][0]["text"] == model.generate("the file", max_tokens=12, temperature=0)
    streamed = server.ask("/v1/completions", {**content, "stream": True}).body.decode()
    assert streamed.endswith("data: [DONE]\n\n")
    row = server.ask("/v1/classify", {"model": "reviews", "rows": ["the file is valid"]}).json["data"][0]
    task = gpt1.load(workspace / "runs/reviews", device="cpu")
    assert row["prediction"] == task.predict(["the file is valid"])[0]["prediction"]
    assert server.ask("/v1/completions", {"model": "none", "prompt": "a"}).error["code"] == "model_not_found"
    assert server.ask("/health/ready").status == 200
    assert server.ask("/v1/models", headers={"Host": "elsewhere.example"}).status == 400


def test_requests_beyond_the_capacity_of_all_replicas_get_429_and_a_time_to_retry(port: int, workspace: Path):
    server = deploy(port, [workspace / "runs/books"], num_replicas=1, max_ongoing_requests=1, max_queued_requests=2)
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(server.ask("/v1/completions", {"prompt": "the", "max_tokens": 400}))

    clients = [threading.Thread(target=ask) for _ in range(12)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(120)
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 429}, counts
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status == 429)
    wait_for(lambda: server.ask("/v1/completions", {"prompt": "the", "max_tokens": 1}).status == 200)


def replicas() -> list[dict[str, str]]:
    import ray

    return [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"].startswith("SERVE_REPLICA::")]


def test_no_request_is_lost_for_longer_than_one_retry_if_a_replica_is_killed(port: int, workspace: Path):
    import ray

    server = deploy(port, [workspace / "runs/books"], num_replicas=2)
    wait_for(lambda: len(replicas()) == 2, PATIENCE)
    tries: list[list[int]] = []

    def client(number: int) -> None:
        for i in range(REQUESTS):
            content = {"prompt": f"the file {number} {i}", "max_tokens": 60}
            tries.append(ask_until_answered(server, content, tries=2))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    wait_for(lambda: len(tries) >= CLIENTS * REQUESTS // 4, PATIENCE)
    killed = replicas()[0]
    ray.kill(ray.get_actor(**killed))
    for one in clients:
        one.join(PATIENCE)
    assert len(tries) == CLIENTS * REQUESTS
    assert all(statuses[-1] == 200 for statuses in tries), Counter(map(tuple, tries))
    wait_for(lambda: killed not in replicas() and len(replicas()) == 2, PATIENCE)  # Ray Serve has started another one
    print(Counter(map(tuple, tries)))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "args.runs must be a list"),
        ({"runs": "runs/books"}, "args.runs must be a list"),
        ({"runs": ["runs/books"], "max_batches": 3}, "there is no setting 'max_batches'"),
        ({"runs": ["runs/books"], "host": "0.0.0.0"}, "there is no API key"),
    ],
)
def test_wrong_arguments_are_refused_before_a_replica_starts(
    arguments: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
):
    from gpt1.serving.ray_app import build_app

    monkeypatch.delenv("GPT1_API_KEY", raising=False)
    with pytest.raises(UserError, match=problem):
        build_app(arguments)
