"""The server's application under Ray Serve: replicas on one machine or many (`pip install 'gpt1[ray]'`).

    serve run deploy/ray.yaml

The file names `gpt1.serving.ray_app:build_app` and gives it the runs and settings. Each replica is a process with its
own models; Ray Serve's proxy distributes the requests, and refuses what no replica can take soon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.errors import UserError
from gpt1.serving.errors import RETRY_SECONDS
from gpt1.serving.settings import read_api_key, serve_settings

NAME = "gpt1"
MAX_ONGOING, MAX_QUEUED = 64, 256
"""Requests of a replica, and of the proxy that wait for one; beyond them clients get status 429."""


def build_app(arguments: Mapping[str, Any]) -> Any:
    """The application for Ray Serve, which calls this with the `args` of its config file; see `make_deployment`."""
    return make_deployment(arguments).bind()


def make_deployment(arguments: Mapping[str, Any]) -> Any:
    """The server as a deployment of Ray Serve.

    Args:
        arguments: `runs`, a list as for `gpt1 serve`, and settings of `gpt1 serve` by name. Host and port are those of
            Ray Serve's proxy; `host: 0.0.0.0` says here that other machines reach it, so that an API key is needed.

    Returns:
        A deployment called `gpt1`, whose options the config file can override.

    Raises:
        UserError: A setting is not allowed, the runs are missing, or there is no API key where one is needed.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    settings = {name: value for name, value in arguments.items() if name != "runs"}
    runs = arguments.get("runs")
    if not runs or isinstance(runs, str):
        raise UserError("args.runs must be a list of runs or model folders.", "Use: args: {runs: [runs/books]}")
    config = serve_settings(settings)
    read_api_key(config)  # an error here, not in each replica

    def replica() -> Any:
        return replica_app(list(runs), settings)

    ingress = serve.ingress(replica)
    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        graceful_shutdown_timeout_s=config.drain_timeout,
    )
    return deployment(ingress(type("Server", (), {})))


def replica_app(runs: Sequence[str], settings: Mapping[str, Any]) -> Any:
    """The ASGI application of one replica, with its models loaded."""
    from gpt1.serving.app import create_app
    from gpt1.serving.metrics import Metrics
    from gpt1.serving.models import ServedModels

    config, metrics = serve_settings(settings), Metrics()
    models = ServedModels(runs, config, metrics, log=print_line)
    return create_app(models, config, read_api_key(config), metrics, print_line)


def print_line(line: str) -> None:
    """Write a line of the access log to the replica's log."""
    print(line, flush=True)
