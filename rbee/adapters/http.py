# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP for the controller's blocking use: the standard library's client over a machine's own connections."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from rbee.adapters.secrets import Token
from rbee.contracts import defaults
from rbee.core.errors import NotFound, RbeeError, Unauthorized, Unreachable
from rbee.fleet.ports import Shell

#: What a lost or refused connection raises, from the socket, from SSH, or from the HTTP client.
LOST = (OSError, EOFError, http.client.HTTPException)


class _Over(http.client.HTTPConnection):
    """A connection that a `Shell` makes."""

    def __init__(self, shell: Shell, host: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._shell = shell

    def connect(self) -> None:
        self.sock = cast(Any, self._shell.connect(self.host, int(self.port or 80), defaults.CONNECT_TIMEOUT))
        self.sock.settimeout(self.timeout)


def connection_over(shell: Shell, host: str, port: int, *, timeout: float) -> http.client.HTTPConnection:
    """A connection to `host:port` as that machine sees them; nothing is opened yet."""
    return _Over(shell, host, port, timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A queen or hive to be asked. `url` is as `shell`'s machine reaches it. Blocks; thread-safe."""

    shell: Shell
    url: str
    token: Token | None = None
    name: str = "daemon"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a good answer. Raises Unreachable, Unauthorized, or RbeeError with the daemon's code."""
        connection, answer = self.open(method, path, body, timeout=timeout, headers=headers)
        try:
            return answer.read()
        except LOST as e:
            raise self._lost(e) from None
        finally:
            connection.close()

    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Like `ask`, with the body still to be read; the caller closes the connection."""
        place = urlsplit(self.url)
        connection = connection_over(self.shell, place.hostname or "", place.port or 80, timeout=timeout)
        sent = {**(self.token.header if self.token else {}), **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            if answer.status < 400:
                return connection, answer
            words = answer.read(65536)
        except RbeeError:
            connection.close()
            raise
        except LOST as e:
            connection.close()
            raise self._lost(e) from None
        connection.close()
        raise self._refused(answer.status, words)

    def _lost(self, why: BaseException) -> Unreachable:
        return Unreachable(f"{self.name} at {self.url} cannot be reached: {why or type(why).__name__}.")

    def _refused(self, status: int, body: bytes) -> RbeeError:
        """The error that the body tells, in OpenAI's words; else the status."""
        message, code = f"{self.name} at {self.url} answered {status}.", "bad_answer"
        try:
            told = json.loads(body)["error"]
            message = told["message"] if isinstance(told, dict) else str(told)
            code = (told.get("code") if isinstance(told, dict) else None) or code
        except (ValueError, KeyError, TypeError):
            pass
        if status in (401, 403):
            return Unauthorized(
                f"{self.name} at {self.url} does not take this fleet's token: {message}",
                mend="Run `rbee apply`: it gives every machine the fleet's token.",
            )
        return (NotFound if status == 404 else RbeeError)(message, code=str(code))
