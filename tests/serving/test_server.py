"""The listening socket, and what happens if another program listens there."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.serving.app import create_app
from gpt1.serving.metrics import Metrics
from gpt1.serving.models import ServedModels
from gpt1.serving.server import bind, make_server, run_server
from gpt1.serving.settings import ServeConfig, serve_settings


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_in_two_packets_does_not_wait_for_an_acknowledgement(host: str):
    try:
        listener = bind(ServeConfig(host=host, port=0))
    except UserError as error:
        pytest.skip(f"{host} is not an address of this machine: {error}")

    async def read_no_delay() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def handle_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(handle_connection, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            value = await found
            writer.close()
        return value

    assert asyncio.run(read_no_delay())


def test_the_second_of_two_servers_that_start_at_once_names_the_address(workspace: Path):
    config = serve_settings({"port": 0, "device": "cpu"})
    first = bind(config)
    config = replace(config, port=first.getsockname()[1])
    second, started, metrics = bind(config), list[None](), Metrics()  # both load their models; then the first listens
    first.listen()
    models = ServedModels([workspace / "runs/books"], config, metrics)
    server = make_server(create_app(models, config, None, metrics, print), config)
    with pytest.raises(UserError, match=rf"port={config.port} cannot be used: address already in use"):
        run_server(server, second, lambda: started.append(None))
    assert not started
    models.close()
    first.close()
