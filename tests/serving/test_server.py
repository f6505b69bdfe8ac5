"""The listening socket."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gpt1.errors import UserError
from gpt1.serving.server import bind
from gpt1.serving.settings import ServeConfig


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
