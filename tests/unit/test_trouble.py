# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong on the wire, in words for a person."""

from __future__ import annotations

import asyncio
import errno
import socket

import aiohttp
import pytest

from rbee.adapters.trouble import words


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncio.TimeoutError(), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 9)"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset by peer"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its name is not known"),
        (aiohttp.ServerDisconnectedError(), "it closed the connection"),
        (OSError("Multiple exceptions"), "multiple exceptions"),
        (aiohttp.ClientPayloadError("the body broke off"), "the body broke off"),
        (aiohttp.ClientError(), "ClientError"),
    ],
)
def test_words(error: Exception, said: str) -> None:
    assert words(error) == said


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.get(url)
    assert words(refused.value) == "connection refused"
