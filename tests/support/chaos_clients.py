# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests made by chance, whose answers can be told right from wrong, and clients that send them as badly as they may.

Every request has an id and a text of its own, and says what its worker is to do with it: so an answer that is
another's, or that has an event twice, is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence
from typing import Any

from tests.support.gateway import Client as Raw
from tests.support.mock_engine import event

#: What the queen may answer herself.
CODES = {
    *("queue_full", "queue_timeout", "no_worker_ready", "model_loading", "deadline_exceeded", "deadline_unmeetable"),
    *("rate_limited", "too_many_concurrent", "policy_rejected", "model_not_found", "worker_timeout"),
}
_CUT = {"worker_died", "deadline_exceeded"}


class WrongAnswer(Exception):
    """It is none that this request may have."""


class Ask:
    """One request. `fails`: its worker does not answer it whole."""

    def __init__(self, rng: random.Random, number: str, names: Sequence[str], keys: Sequence[str]) -> None:
        self.id = number
        self.stream = rng.random() < 0.6
        self.tokens, self.size = rng.randint(0, 25), rng.choice((0, 1, 700, 5000, rng.randint(1, 800_000)))
        self.text = f"{number}:" + "é🐝" * rng.choice((0, 0, 3, 500))
        self.script: dict[str, Any] = {"tokens": self.tokens, "text": self.text} if self.stream else {"size": self.size}
        self.deadline = rng.random() * 1.5 if rng.random() < 0.2 else None
        self.fails = False
        #: It has come, as a worker was told to give it.
        self.answered = False
        self._behave(rng)
        self.wire = self._written(rng, rng.choice(names), rng.choice(("", *keys)))

    def _behave(self, rng: random.Random) -> None:
        kind = rng.random()
        if kind < 0.15:
            self.script["delay"] = rng.random() * 0.2
        elif kind < 0.25:
            self.script["die_after"], self.fails = rng.randint(0, 12), True
            self.script["die_inside"] = rng.choice((0, rng.randint(1, 60)))
        elif kind < 0.3:
            self.script["hang"], self.fails = True, True
            self.deadline = rng.random() * 0.5
        elif kind < 0.5:
            self.script[rng.choice(("close_after", "say_close", "until_close"))] = True
        elif kind < 0.6 and self.stream:
            self.script["interval"] = 0.005
        elif kind < 0.65:
            self.script["status"], self.fails = 503, True

    def _written(self, rng: random.Random, name: str, key: str) -> bytes:
        messages = [{"role": "user", "content": "x" * rng.choice((1, 10, 300, 70_000))}]
        fields = {"model": name, "stream": self.stream, "messages": messages, "mock": self.script}
        body = json.dumps(fields).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: q", f"X-Request-Id: {self.id}"]
        lines += [f"X-Request-Timeout: {self.deadline}"] * (self.deadline is not None)
        lines += [f"Authorization: Bearer {key}"] * bool(key) + ["X-Priority: batch"] * (rng.random() < 0.15)
        if rng.random() < 0.25:
            size = rng.randint(20, 5000)
            pieces = [body[i : i + size] for i in range(0, len(body), size)]
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def check(self, status: int, headers: dict[str, str], body: bytes, whole: bool) -> None:
        """Raises WrongAnswer."""
        if headers.get("x-request-id") != self.id:
            raise WrongAnswer(f"of {headers.get('x-request-id')}")
        if "x-rbee-worker" not in headers:
            if not whole or json.loads(body)["error"]["code"] not in CODES:
                raise WrongAnswer(f"{status} {body[:300]!r}")
            return
        wanted = b"".join(event(i, self.text) for i in range(self.tokens)) + b"data: [DONE]\n\n"
        wanted = wanted if self.stream else b"x" * self.size
        if body == wanted and whole:
            self.answered = True
            return
        may_fail = self.fails or self.deadline is not None
        part, mark, error = body.partition(b'data: {"error"')
        if mark and json.loads(b'{"error"' + error)["error"]["code"] not in _CUT:
            raise WrongAnswer(f"ends with {error!r}")
        if not may_fail or not wanted.startswith(part.rstrip(b"\n")) or (mark and part and not part.endswith(b"\n\n")):
            raise WrongAnswer(f"{len(body)} of {len(wanted)} bytes: {body[-200:]!r}")


async def answer(raw: Raw) -> tuple[int, dict[str, str], bytes, bool]:
    """Status, headers, body, and whether that is whole as far as can be seen."""
    status, headers = await raw.head()
    pieces: list[bytes] = []
    try:
        if "content-length" in headers:
            left = int(headers["content-length"])
            while left:
                piece = await raw.reader.read(min(left, 1 << 16))
                if not piece:
                    return status, headers, b"".join(pieces), False
                pieces.append(piece)
                left -= len(piece)
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await raw.reader.readuntil(b"\r\n"), 16):
                pieces.append((await raw.reader.readexactly(size + 2))[:-2])
            await raw.reader.readexactly(2)
        else:
            pieces.append(await raw.reader.read())
    except asyncio.IncompleteReadError:
        return status, headers, b"".join(pieces), False
    return status, headers, b"".join(pieces), True


async def client(port: int, rng: random.Random, asks: list[Ask]) -> None:
    """Sends them on as few connections as it can, in pieces or at once, and reads all answers, or leaves in the middle.

    Raises WrongAnswer; IncompleteReadError where there is none.
    """
    leaves, pipelined, slow = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.2
    by_aiohttp = not pipelined and rng.random() < 0.15
    while asks:
        raw, cut = await Raw.connect(port), False
        try:
            if by_aiohttp:
                raw.ask(head="GET /v1/models HTTP/1.1")
                assert (await raw.answer())[0] == 200
            if pipelined:
                raw.writer.write(b"".join(ask.wire for ask in asks))
            while asks:
                ask = asks.pop(0)
                if leaves and rng.random() < 0.4:
                    await _leave(raw, rng, b"" if pipelined else ask.wire)
                    return
                if not pipelined:
                    await _send(raw, rng, ask.wire)
                if slow:
                    await asyncio.sleep(rng.random() * 0.1)
                try:
                    status, headers, body, whole = await answer(raw)
                except asyncio.IncompleteReadError as e:
                    if not cut or e.partial:
                        raise
                    asks.insert(0, ask)  # a stream that was cut was not surely in order: its connection was not kept
                    break
                ask.check(status, headers, body, whole)
                cut = b'data: {"error"' in body
                if not whole or headers.get("connection") == "close":
                    assert await raw.rest() == b""
                    break
        finally:
            with contextlib.suppress(ConnectionError):
                await raw.close()


async def _send(raw: Raw, rng: random.Random, wire: bytes) -> None:
    if rng.random() < 0.7 or len(wire) > 2000:
        raw.writer.write(wire)
        return
    while wire:
        size = rng.randint(1, 300)
        raw.writer.write(wire[:size])
        wire = wire[size:]
        await asyncio.sleep(0)


async def _leave(raw: Raw, rng: random.Random, wire: bytes) -> None:
    raw.writer.write(wire[: rng.choice((len(wire), rng.randint(0, len(wire))))])
    await asyncio.sleep(rng.random() * 0.2)
    if rng.random() < 0.5:
        raw.writer.transport.abort()
