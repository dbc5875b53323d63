# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection that a machine makes for us, as a socket for `http.client`."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import paramiko


class ChannelStream:
    """A channel as `http.client` wants its socket: it stays open until its readers are closed too."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._users = 1

    def sendall(self, data: bytes) -> None:
        self._channel.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        self._channel.settimeout(seconds)

    def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> BinaryIO:
        self._users += 1
        return cast(BinaryIO, io.BufferedReader(_ChannelReader(self._channel, self._release)))

    def close(self) -> None:
        self._release()

    def _release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._channel.close()


class _ChannelReader(io.RawIOBase):
    def __init__(self, channel: paramiko.Channel, release: Callable[[], None]) -> None:
        self._channel = channel
        self._release = release

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._release()
