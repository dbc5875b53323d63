# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations that belong to a hive: run there as a child job, told here as it goes, cancelled together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from typing import Any

import aiohttp

from rbee.adapters.secrets import Token
from rbee.adapters.sse import Event, Parser
from rbee.adapters.trouble import words
from rbee.contracts import codec, defaults
from rbee.contracts.jobs import KEY_HEADER, ChildJob, job_of
from rbee.contracts.operations import wire
from rbee.core.errors import Interrupted, NotFound, RbeeError, Unreachable
from rbee.daemons.jobs import JobContext
from rbee.daemons.queen.known.hives import Hives

log = logging.getLogger(__name__)

#: A child's stream that broke is taken up again for so long.
_RESUME_FOR = 60.0
#: A child that was asked for may still be on its way for so long, when nobody heard the answer.
_ARRIVES_WITHIN = 5.0
_NOTHING = b"null"
_TROUBLE = (aiohttp.ClientError, asyncio.TimeoutError, TimeoutError, OSError)


class _HiveUnknown(Exception):
    """Not to be asked at the moment."""


class _Ended(Exception):
    """The child's stream said `[DONE]`."""


class _Unsure(Unreachable):
    """The hive may have begun, and was not heard."""


class _Missing(RbeeError):
    """The hive knows no such job."""


class Forwarder:
    """Makes child jobs on hives. One for the queen."""

    def __init__(self, hives: Hives, http: aiohttp.ClientSession, token: Token | None) -> None:
        self._hives = hives
        self._http = http
        self._headers = token.header if token is not None else {}
        #: Set when the queen ends: what hives have begun for her goes on there.
        self.closing = False

    async def run(self, context: JobContext, request: Any) -> bytes:
        """Handler of every operation of a hive: its result, as the JSON that the hive made.

        Which job of the hive it becomes is known, and noted, before the hive is asked: whenever the queen dies, her
        next life finds it. Raises RbeeError with the child's code and message, NotFound for an unknown hive,
        Unreachable. Cancelled: the child is cancelled too, unless it is the queen that ends.
        """
        return await self._forward(context, request, context.job_id)

    async def part(self, context: JobContext, request: Any) -> bytes:
        """As `run`, for a job of the queen's own that needs a hive, or several times."""
        return await self._forward(context, request, f"{context.job_id}/{uuid.uuid4()}")

    async def _forward(self, context: JobContext, request: Any, key: str) -> bytes:
        hive = self._hives.get(request.hive_id)
        request = dataclasses.replace(request, hive_id=hive.known.hive_id)
        url = hive.known.url.rstrip("/")
        child = ChildJob(hive_id=request.hive_id, job_id=job_of(key))
        context.ties.on_child(child)
        submitting = asyncio.ensure_future(self._submit(url, wire(request), key))
        try:
            return await self._follow_new(context, child, submitting)
        except asyncio.CancelledError:
            if self.closing or context.ties.leaving:
                await asyncio.shield(self._leave(context, child, submitting))
            else:
                await asyncio.shield(self._cancel(child, submitting))
            raise

    async def _follow_new(self, context: JobContext, child: ChildJob, submitting: asyncio.Future[str]) -> bytes:
        try:
            job_id = await asyncio.shield(submitting)
        except _Unsure as unheard:
            try:
                return await self._follow(context, child, 0, unsure=True)
            except _Missing:
                context.ties.on_child(None)
                raise Unreachable(unheard.message) from None
        except RbeeError:
            context.ties.on_child(None)
            raise
        # An older hive knows nothing of keys, and names its jobs itself.
        return await self._follow(context, dataclasses.replace(child, job_id=job_id), 0)

    async def resume(self, context: JobContext, child: ChildJob, after: int) -> bytes:
        """Goes on with what `run` began in an earlier life of the queen, or another queen, behind the child's event
        number `after`; it may never have come to be. Its hive may only be found again in a moment. Raises as `run`,
        and Interrupted for a child that its hive does not know."""
        try:
            return await self._follow(context, child, after, unsure=True)
        except _Missing:
            context.ties.on_child(None)
            text = "The daemon ended while the job ran, and its hive knows nothing of it: it may not have been done."
            raise Interrupted(text) from None
        except asyncio.CancelledError:
            if not (self.closing or context.ties.leaving):
                await asyncio.shield(self._cancel(child))
            raise

    async def _follow(self, context: JobContext, child: ChildJob, after: int, *, unsure: bool = False) -> bytes:
        context.ties.on_child(child)
        await _Child(self, context, child, after, unsure).follow()
        return await self._result(self.job_url(child))

    async def _leave(self, context: JobContext, child: ChildJob, submitting: asyncio.Future[str]) -> None:
        """The child goes on; which one it is may just be becoming known."""
        with contextlib.suppress(*_TROUBLE, RbeeError):
            job_id = await asyncio.wait_for(submitting, defaults.CONNECT_TIMEOUT)
            context.ties.on_child(dataclasses.replace(child, job_id=job_id))

    def _url(self, hive_id: str) -> str:
        """Raises NotFound."""
        return self._hives.get(hive_id).known.url.rstrip("/")

    def job_url(self, child: ChildJob) -> str:
        """Raises NotFound."""
        return f"{self._url(child.hive_id)}/v1/jobs/{child.job_id}"

    async def _submit(self, url: str, body: dict[str, Any], key: str) -> str:
        """The id of the child job. Raises _Unsure when it may have begun, RbeeError when it has not."""
        headers = {**self._headers, KEY_HEADER: key}
        timeout = aiohttp.ClientTimeout(total=defaults.PROBE_TIMEOUT, connect=defaults.CONNECT_TIMEOUT)
        try:
            async with self._http.post(
                f"{url}/v1/jobs", data=codec.encode(body), headers=headers, timeout=timeout
            ) as answer:
                found = _json(await answer.read())
                if answer.status != 202:
                    raise _error_of(found, answer.status, url)
                return str(found["job_id"])
        except _TROUBLE as e:
            text = f"The hive at {url} does not answer: {words(e)}."
            refused = isinstance(e, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise Unreachable(text) if refused else _Unsure(text) from None

    async def _result(self, job_url: str) -> bytes:
        job = await self._job(job_url)
        state, result = job.get("state", b""), job.get("result", _NOTHING)
        if state == b'"completed"':
            if result == _NOTHING != job.get("result_bytes", _NOTHING):
                raise RbeeError("The hive keeps the job's result no more.", code="result_gone", mend="Ask again.")
            return result
        if state == b'"cancelled"':
            raise RbeeError("The job was cancelled on the hive.", code="cancelled")
        error = _json(job.get("error", _NOTHING))
        raise RbeeError(str(error.get("error", "The job failed.")), code=str(error.get("code", "internal")))

    async def _job(self, url: str) -> dict[str, bytes]:
        """Its fields as they came: a list of a big catalog is not taken apart only to be put together again."""
        timeout = aiohttp.ClientTimeout(total=defaults.PROBE_TIMEOUT, connect=defaults.CONNECT_TIMEOUT)
        try:
            async with self._http.get(url, headers=self._headers, timeout=timeout) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise _error_of(_json(data), answer.status, url)
                return codec.fields(data)
        except codec.CodecError:
            raise Unreachable(f"{url} answers with what is no job.") from None
        except _TROUBLE as e:
            raise Unreachable(f"{url} does not answer: {words(e)}.") from None

    async def _cancel(self, child: ChildJob, submitting: asyncio.Future[str] | None = None) -> None:
        """Cancels the child, also one that is just being made: the hive may have begun already."""
        timeout = aiohttp.ClientTimeout(total=defaults.CONNECT_TIMEOUT)
        job_url = "the child job"
        try:
            if submitting is not None:
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError, _Unsure):
                    job_id = await asyncio.wait_for(submitting, defaults.CONNECT_TIMEOUT)
                    child = dataclasses.replace(child, job_id=job_id)
            job_url = self.job_url(child)
            async with self._http.delete(job_url, headers=self._headers, timeout=timeout) as answer:
                if answer.status not in (200, 202, 404, 409):
                    log.warning("cancelling %s: status %d", job_url, answer.status)
        except (*_TROUBLE, RbeeError) as e:
            log.warning("cancelling %s: %s", job_url, words(e))

    def stream(self, job_url: str, after: int) -> Any:
        headers = {**self._headers, "Last-Event-ID": str(after)}
        timeout = aiohttp.ClientTimeout(
            total=None, connect=defaults.CONNECT_TIMEOUT, sock_read=defaults.SSE_KEEPALIVE * 3
        )
        return self._http.get(f"{job_url}/stream?large=false", headers=headers, timeout=timeout)


class _Child:
    """One child job's stream, taken up again where it broke. `unsure`: the child may not be there, or not yet."""

    def __init__(
        self, forwarder: Forwarder, context: JobContext, child: ChildJob, after: int, unsure: bool = False
    ) -> None:
        self._forwarder = forwarder
        self._context = context
        self._child = child
        self._last = after
        self._unsure = unsure

    async def follow(self) -> None:
        """Relays every event once, until the child has ended. Raises Unreachable when the hive stays away, or
        unknown; _Missing when it does not know the child."""
        loop = asyncio.get_running_loop()
        trouble_since: float | None = None
        missing_since: float | None = None
        wait = defaults.BACKOFF_FIRST
        while True:
            before = self._last
            try:
                await self._read()
            except _Ended:
                return
            except _Missing:
                missing_since = missing_since or loop.time()
                if not self._unsure or loop.time() - missing_since > _ARRIVES_WITHIN:
                    raise
                await asyncio.sleep(defaults.BACKOFF_FIRST)
            except (*_TROUBLE, _HiveUnknown) as e:
                if trouble_since is None or self._last != before:
                    trouble_since, wait = loop.time(), defaults.BACKOFF_FIRST
                if loop.time() - trouble_since > _RESUME_FOR:
                    raise Unreachable(f"The hive was lost while the job ran: {words(e)}.") from None
                await asyncio.sleep(wait)
                wait = min(wait * 2, defaults.BACKOFF_MAX)

    async def _read(self) -> None:
        parser = Parser()
        try:
            url = self._forwarder.job_url(self._child)
        except NotFound as e:  # a queen that has just started may not know it yet
            raise _HiveUnknown(e.message) from None
        async with self._forwarder.stream(url, self._last) as answer:
            if answer.status != 200:
                error = _error_of(_json(await answer.read()), answer.status, url)
                raise _Missing(error.message, code=error.code) if error.code == "job_not_found" else error
            self._unsure = False
            async for data in answer.content.iter_any():
                for event in parser.feed(data):
                    if event.data == "[DONE]":
                        raise _Ended
                    self._tell(event)
        raise ConnectionResetError("the stream ended early")

    def _tell(self, told: Event) -> None:
        if not told.id.isdecimal() or int(told.id) <= self._last:
            return  # without an id of its own: the child's end, which its job tells too
        self._last = int(told.id)
        event = _json(told.data.encode())
        if event.get("event") != "result":
            self._context.relay(event, self._last)


def _json(data: bytes) -> dict[str, Any]:
    try:
        return codec.decode(dict[str, Any], data)
    except codec.CodecError:
        return {}


def _error_of(found: dict[str, Any], status: int, url: str) -> RbeeError:
    error = found.get("error")
    if not isinstance(error, dict):
        return Unreachable(f"{url} answers with status {status}.")
    return RbeeError(str(error.get("message", status)), code=str(error.get("code") or "error"))
