# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs over a real server: made, read, streamed by many, resumed, cancelled, kept across a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from rbee.adapters.store import SqliteJobStore
from rbee.contracts.jobs import ChildJob, Job, job_of
from rbee.contracts.operations.fleet import QueenCheckResponse
from rbee.core.errors import NotFound
from rbee.daemons import sse
from rbee.daemons.access import Listener
from rbee.daemons.app import Route, Server, build
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import Handler, JobContext, JobRunner, Resume
from rbee.daemons.lanes import Lanes
from rbee.daemons.writing import BATCH_BYTES, send_json
from tests.support.waiting import eventually

SECRET = "very-secret-fleet-token"


class Bench:
    def __init__(self, runner: JobRunner, url: str, http: aiohttp.ClientSession) -> None:
        self.runner, self.url, self.http = runner, url, http

    async def submit(self, name: str = "QueenCheck", **fields: Any) -> str:
        async with self.http.post(f"{self.url}/v1/jobs", json={"operation": {name: fields}}) as answer:
            assert answer.status == 202, await answer.text()
            said = await answer.json()
            assert said["sse_url"] == f"/v1/jobs/{said['job_id']}/stream"
            return str(said["job_id"])

    async def stream(self, job_id: str, after: int | None = None, **query: str) -> str:
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.http.get(f"{self.url}/v1/jobs/{job_id}/stream", headers=headers, params=query) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            return await answer.text()

    async def all(self) -> list[Any]:
        async with self.http.get(f"{self.url}/v1/jobs") as answer:
            return list((await answer.json())["jobs"])

    async def job(self, job_id: str) -> dict[str, Any]:
        async with self.http.get(f"{self.url}/v1/jobs/{job_id}") as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            return found


@contextlib.asynccontextmanager
async def bench(
    path: Path,
    handler: Handler,
    lanes: Lanes | None = None,
    resumes: Mapping[str, Resume] | None = None,
    names: Sequence[str] = ("QueenCheck",),
    **store: int,
) -> AsyncIterator[Bench]:
    handlers = dict.fromkeys(names, handler)
    runner = JobRunner(SqliteJobStore(path, **store), handlers, "test", secrets=[SECRET], lanes=lanes, resumes=resumes)
    await runner.start()
    server = Server(build(JobRoutes(runner).routes()), [Listener("127.0.0.1", 0)])
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Bench(runner, server.urls[0], http)
    finally:
        await runner.stop()
        await server.stop(drain=1)


def frames(text: str) -> list[tuple[int | None, Any]]:
    """The id and data of each frame."""
    found: list[tuple[int | None, Any]] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in lines:
            data = lines["data"]
            found.append((int(lines["id"]) if "id" in lines else None, data if data == "[DONE]" else json.loads(data)))
    return found


async def three(context: JobContext, request: object) -> QueenCheckResponse:
    for i in range(3):
        context.narrate("queen_check_step", f"Step {i} of {SECRET}", step=i)
    return QueenCheckResponse(message="ok")


async def forever(context: JobContext, request: object) -> None:
    context.narrate("queen_check_start", "Started.")
    await asyncio.Event().wait()


async def test_a_job_tells_all_it_did_to_whoever_comes_late(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", three) as b:
        job_id = await b.submit()
        text = await b.stream(job_id)
        told = frames(text)
        assert [i for i, _ in told] == [1, 2, 3, 4, None]
        assert [x["event"] for _, x in told[:-1]] == ["queen_check_step"] * 3 + ["result"]
        assert told[-1] == (None, "[DONE]")
        assert told[0][1]["step"] == 0
        assert told[0][1]["action"] == "queen_check_step"
        assert told[0][1]["actor"] == "test"
        assert told[0][1]["job_id"] == job_id
        assert SECRET not in text
        assert told[3][1]["result"] == {"message": "ok"}
        job = await b.job(job_id)
        assert (job["state"], job["result"], job["error"]) == ("completed", {"message": "ok"}, None)
        assert job["created_at"] <= job["started_at"] <= job["ended_at"]
        assert await b.stream(job_id) == text


async def test_many_readers_see_the_same_and_each_can_resume(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def handler(context: JobContext, request: object) -> QueenCheckResponse:
        context.narrate("first", "one")
        await go.wait()
        thread = threading.Thread(target=lambda: context.narrate("from_thread", "two"))
        thread.start()
        await asyncio.to_thread(thread.join)
        return QueenCheckResponse(message="ok")

    async with bench(tmp_path / "a.db", handler) as b:
        job_id = await b.submit()
        readers = [asyncio.create_task(b.stream(job_id, after)) for after in (None, None, 1)]
        await eventually(lambda: b.runner._live[job_id].feed._readers == 3)
        go.set()
        texts = await asyncio.gather(*readers)
        assert texts[0] == texts[1]
        assert [x["event"] for _, x in frames(texts[0])[:-1]] == ["first", "from_thread", "result"]
        assert [i for i, _ in frames(texts[2])] == [2, 3, None]


async def test_who_asks_for_the_head_only_waits_for_no_end(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", forever) as b:
        url = f"{b.url}/v1/jobs/{await b.submit()}/stream"
        async with b.http.head(url) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(b.url.rpartition(":")[2]))
        for _ in range(2):  # the connection can be used again
            writer.write(b"HEAD /v1/jobs/x HTTP/1.1\r\nHost: x\r\n\r\nHEAD " + url[url.index("/v1") :].encode())
            writer.write(b" HTTP/1.1\r\nHost: x\r\n\r\n")
            for status in (b"HTTP/1.1 404", b"HTTP/1.1 200"):
                assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(status)
        writer.close()


async def test_cancel_reaches_the_handler_and_a_second_one_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", forever) as b:
        job_id = await b.submit()
        reader = asyncio.create_task(b.stream(job_id))
        async with b.http.delete(f"{b.url}/v1/jobs/{job_id}") as answer:
            assert answer.status == 200
            assert (await answer.json())["state"] == "cancelled"
        told = frames(await reader)
        assert told[-2][1]["event"] == "cancelled"
        assert told[-1][1] == "[DONE]"
        async with b.http.delete(f"{b.url}/v1/jobs/{job_id}") as answer:
            assert answer.status == 409
            assert (await answer.json())["error"]["code"] == "job_ended"


async def test_errors_end_a_job_with_their_code(tmp_path: Path) -> None:
    async def refuse(context: JobContext, request: object) -> None:
        raise NotFound(f"No such model, says {SECRET}.", code="model_not_found", mend="Look again.")

    async with bench(tmp_path / "a.db", refuse) as b:
        job_id = await b.submit()
        told = frames(await b.stream(job_id))
        assert told[0][0] is None
        assert told[0][1]["code"] == "model_not_found"
        assert told[0][1]["error"] == "No such model, says [redacted]. Look again."
        assert told[1][1] == "[DONE]"
        assert (await b.job(job_id))["state"] == "failed"


async def test_what_breaks_unforeseen_is_internal(tmp_path: Path) -> None:
    async def burst(context: JobContext, request: object) -> None:
        raise ZeroDivisionError("boom")

    async with bench(tmp_path / "a.db", burst) as b:
        job_id = await b.submit()
        await b.stream(job_id)
        assert (await b.job(job_id))["error"]["code"] == "internal"


async def test_jobs_outlive_the_daemon_and_running_ones_are_interrupted(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", three) as b:
        done = await b.submit()
        text = await b.stream(done)
    async with bench(tmp_path / "a.db", forever) as b:
        assert await b.stream(done) == text
        stopped = await b.submit()
        reader = asyncio.create_task(b.stream(stopped))
        await eventually(lambda: b.runner._live[stopped].feed._readers == 1)
        await b.runner.stop()
        assert frames(await reader)[-2][1]["code"] == "interrupted"
    async with bench(tmp_path / "a.db", three) as b:
        assert (await b.job(stopped))["error"]["code"] == "interrupted"
        # Who had read a part goes on after it, in the next life as in the one before.
        assert frames(await b.stream(done, after=2)) == frames(text)[2:]
        told = frames(await b.stream(stopped, after=1))
        assert [x if x == "[DONE]" else x["code"] for _, x in told] == ["interrupted", "[DONE]"]


async def test_a_dead_daemons_running_job_is_found_interrupted(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "a.db")
    await store.open()
    store.put(Job(job_id="job-1", operation="QueenCheck", state="running", created_at="2026-01-01T00:00:00Z"))
    await store.close()
    async with bench(tmp_path / "a.db", three) as b:
        job = await b.job("job-1")
        assert (job["state"], job["error"]["code"]) == ("failed", "interrupted")
        assert job["ended_at"]


async def test_the_list_is_paged_newest_first_and_bounded(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", three, jobs_kept=5) as b:
        made = []
        for _ in range(8):
            made.append(await b.submit())
            await b.stream(made[-1])
        seen: list[str] = []
        cursor = ""
        while True:
            async with b.http.get(f"{b.url}/v1/jobs?limit=2&state=completed{cursor}") as answer:
                page = await answer.json()
            seen += [j["job_id"] for j in page["jobs"]]
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert seen == made[::-1][: len(seen)]
        assert 5 <= len(seen) <= 6
        async with b.http.get(f"{b.url}/v1/jobs?state=failed") as answer:
            assert (await answer.json())["jobs"] == []
        for query in ("state=odd", "limit=0", "limit=x", "cursor=x"):
            async with b.http.get(f"{b.url}/v1/jobs?{query}") as answer:
                assert answer.status == 400


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"nonsense", 400, "invalid_request"),
        (b'{"operation": {"QueenChek": {}}}', 400, "invalid_request"),
        (b'{"operation": {"Status": {}}}', 501, "not_served"),
    ],
)
async def test_bad_operations_are_refused(tmp_path: Path, body: bytes, status: int, code: str) -> None:
    async with bench(tmp_path / "a.db", three) as b:
        async with b.http.post(f"{b.url}/v1/jobs", data=body) as answer:
            assert answer.status == status
            assert (await answer.json())["error"]["code"] == code
        async with b.http.get(f"{b.url}/v1/jobs/job-none/stream") as answer:
            assert answer.status == 404
        async with b.http.put(f"{b.url}/v1/jobs") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST, GET"


@pytest.mark.parametrize(
    "query",
    [
        *("limit=%C2%B2", "limit=0", "limit=1e3", "limit=1001", "cursor=%C2%B2", "state=done"),
        *("operation=QueenChek", "since=yesterday", "since=", "since=0001-01-01T00:00:00%2B14:00"),
    ],
)
async def test_what_the_list_does_not_know_is_refused(tmp_path: Path, query: str) -> None:
    async with (
        bench(tmp_path / "a.db", three) as b,
        b.http.get(URL(f"{b.url}/v1/jobs?{query}", encoded=True)) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def test_a_result_that_was_not_written_before_the_daemon_died_is_not_told(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "a.db")
    await store.open()
    store.put(Job(job_id="job-1", operation="QueenCheck", state="running", created_at="2026-01-01T00:00:00Z"))
    store.append("job-1", 1, b'{"event":"step"}')
    store.append("job-1", 2, b'{"event":"result","result":')
    await store.close()
    async with bench(tmp_path / "a.db", three) as b:
        told = frames(await b.stream("job-1"))
        assert [x["event"] if i else None for i, x in told] == ["step", None, None]
        assert told[1][1]["code"] == "interrupted"


async def test_a_large_result_is_kept_whole_and_left_out_of_lists(tmp_path: Path) -> None:
    text = f"{SECRET} " + "x" * 3_000_000

    async def large(context: JobContext, request: object) -> QueenCheckResponse:
        return QueenCheckResponse(message=text)

    async with bench(tmp_path / "a.db", large) as b:
        job_id = await b.submit()
        told = frames(await b.stream(job_id))
        expected = {"message": text.replace(SECRET, "[redacted]")}
        assert [told[0][1]["result"], told[1][1]] == [expected, "[DONE]"]
        assert await b.stream(job_id, large="false") == "data: [DONE]\n\n"
        job = await b.job(job_id)
        assert job["result"] == expected
        assert job["result_bytes"] == len(json.dumps(expected, separators=(",", ":")))
        async with b.http.get(f"{b.url}/v1/jobs") as answer:
            (listed,) = (await answer.json())["jobs"]
        assert (listed["result"], listed["result_bytes"]) == (None, job["result_bytes"])
    async with bench(tmp_path / "a.db", three) as b:
        assert await b.job(job_id) == job
        assert frames(await b.stream(job_id)) == told
        assert await b.stream(job_id, large="false") == "data: [DONE]\n\n"
        small = await b.submit()
        assert await b.stream(small, large="false") == await b.stream(small), "only what is large is left out"


async def test_a_large_result_is_left_out_for_who_follows_as_well(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def made(context: JobContext, request: object) -> bytes:
        context.narrate("queen_check_step", "One.")
        await go.wait()
        context.narrate("queen_check_step", f"Two of {SECRET}.")
        return b'{"message":"%b %b"}' % (SECRET.encode(), b"x" * 200_000)

    async with bench(tmp_path / "a.db", made) as b:
        job_id = await b.submit()
        async with b.http.get(f"{b.url}/v1/jobs/{job_id}/stream?large=false") as answer:
            await answer.content.readuntil(b"\n\n")
            go.set()
            told = frames((await answer.read()).decode())
        assert [x if i is None else (i, x["message"]) for i, x in told] == [(2, "Two of [redacted]."), "[DONE]"]
        whole = frames(await b.stream(job_id))
        assert [i for i, _ in whole] == [1, 2, 3, None]
        assert whole[2][1]["result"] == (await b.job(job_id))["result"] == {"message": "[redacted] " + "x" * 200_000}


async def test_a_list_has_what_was_asked_for(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", three) as b:
        job_id = await b.submit()
        await b.stream(job_id)
        made = (await b.job(job_id))["created_at"]

        async def listed(query: str) -> list[str]:
            async with b.http.get(URL(f"{b.url}/v1/jobs?{query}", encoded=True)) as answer:
                assert answer.status == 200, await answer.text()
                return [j["job_id"] for j in (await answer.json())["jobs"]]

        for query in ("operation=QueenCheck", f"since={made}", "since=2020-01-01T02:00:00+02:00", "since=2020-01-01"):
            assert await listed(query) == [job_id], query
        for query in ("operation=Status", "hive_id=h1", "since=2999-01-01T00:00:00Z", "state=failed"):
            assert await listed(query) == [], query


async def test_who_does_not_follow_gets_what_is_there(tmp_path: Path) -> None:
    async with bench(tmp_path / "a.db", forever) as b:
        job_id = await b.submit()
        first = await b.http.get(f"{b.url}/v1/jobs/{job_id}/stream")
        await first.content.readuntil(b"\n\n")  # it has begun
        told = frames(await b.stream(job_id, follow="false"))
        assert [(i, x["event"]) for i, x in told] == [(1, "queen_check_start")]
        assert await b.stream(job_id, after=1, follow="false") == ""
        first.close()
        await b.runner.cancel(job_id)
        assert frames(await b.stream(job_id, follow="false"))[-1][1] == "[DONE]"


async def test_a_job_that_a_hive_does_goes_on_in_the_daemons_next_life(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def begins(context: JobContext, request: object) -> None:
        context.ties.on_child(ChildJob(hive_id="h1", job_id="job-child"))
        for n in range(1, 4):
            context.relay({"event": "step", "job_id": "job-child", "n": n}, n)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert context.ties.leaving
            left.set()
            raise

    async def goes_on(context: JobContext, child: ChildJob, after: int) -> bytes:
        assert (child.job_id, after) == ("job-child", 3)
        context.relay({"event": "step", "job_id": "job-child", "n": 4}, 4)
        return b'{"message":"ok"}'

    async with bench(tmp_path / "a.db", begins, resumes={"QueenCheck": goes_on}) as b:
        job_id = await b.submit()
        first = await b.http.get(f"{b.url}/v1/jobs/{job_id}/stream")
        for _ in range(3):
            await first.content.readuntil(b"\n\n")
        await b.runner.stop()
        assert await first.content.read() == b"", "no end: who reads it comes again"
        assert left.is_set()
    async with bench(tmp_path / "a.db", begins, resumes={"QueenCheck": goes_on}) as b:
        told = frames(await b.stream(job_id, after=2))
        assert [(i, x if i is None else x.get("n")) for i, x in told] == [(3, 3), (4, 4), (5, None), (None, "[DONE]")]
        assert frames(await b.stream(job_id))[2:] == told
        job = await b.job(job_id)
        assert (job["state"], job["result"], job["child"]["job_id"]) == ("completed", {"message": "ok"}, "job-child")


async def test_one_that_cannot_go_on_is_interrupted_and_says_where_its_part_goes_on(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "a.db")
    await store.open()
    child = ChildJob(hive_id="cellar", job_id="job-child")
    made = Job(job_id="job-1", operation="QueenCheck", state="running", created_at="2026-01-01T00:00:00Z", child=child)
    store.put(made)
    store.append("job-1", 1, b'{"event":"step"}')
    await store.close()
    async with bench(tmp_path / "a.db", three) as b:
        told = frames(await b.stream("job-1", after=0))
        assert [i for i, _ in told] == [1, None, None]
        assert told[1][1]["code"] == "interrupted"
        assert "job-child of the hive cellar" in told[1][1]["error"]


async def test_what_is_asked_again_under_its_key_is_the_same_job(tmp_path: Path) -> None:
    begun: list[object] = []

    async def once(context: JobContext, request: object) -> QueenCheckResponse:
        begun.append(request)
        return QueenCheckResponse(message="ok")

    async def ask(b: Bench, key: str, name: str = "QueenCheck") -> tuple[int, dict[str, Any]]:
        body: dict[str, Any] = {"operation": {name: {}}}
        async with b.http.post(f"{b.url}/v1/jobs", json=body, headers={"Idempotency-Key": key}) as answer:
            return answer.status, await answer.json()

    async with bench(tmp_path / "a.db", once) as b:
        told = await asyncio.gather(*(ask(b, "nightly") for _ in range(8)))
        job_id = job_of("nightly")
        assert [(status, said["job_id"]) for status, said in told] == [(202, job_id)] * 8
        assert frames(await b.stream(job_id))[-1][1] == "[DONE]"
        assert (await ask(b, "nightly"))[1]["job_id"] == job_id, "also when it has ended"
        assert len(begun) == 1
        assert (await ask(b, "weekly"))[1]["job_id"] == job_of("weekly") != job_id
        status, said = await ask(b, "two words")
        assert (status, said["error"]["code"]) == (400, "invalid_request")
    async with bench(tmp_path / "a.db", three) as b:
        assert (await ask(b, "nightly"))[1]["job_id"] == job_id, "and after a restart"
        assert (await b.job(job_id))["result"] == {"message": "ok"}
    async with bench(tmp_path / "a.db", three, names=("QueenCheck", "Status")) as b:
        status, said = await ask(b, "nightly", "Status")
        assert (status, said["error"]["code"]) == (409, "key_used")
        assert len(await b.all()) == 2


@pytest.mark.parametrize("query", ["follow=0", "large=0", "large=null", "large=", "large=false&large=false"])
async def test_large_is_true_or_false(tmp_path: Path, query: str) -> None:
    async with bench(tmp_path / "a.db", three) as b, b.http.get(f"{b.url}/v1/jobs/x/stream?{query}") as answer:
        said = f"`{query.partition('=')[0]}` must be true or false."
        assert (answer.status, (await answer.json())["error"]["message"]) == (400, said)


async def test_a_large_answer_is_held_once_for_who_stops_reading_it(tmp_path: Path) -> None:
    transports: list[asyncio.Transport] = []

    async def answered(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        transports.append(request.transport)
        return await send_json(request, {"text": "x" * int(request.match_info["size"])})

    server = Server(build([Route("GET", "/{size}", answered)]), [Listener("127.0.0.1", 0)])
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], limit=1024)
    try:
        writer.write(b"GET /30000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # and no more
        async with aiohttp.ClientSession(server.urls[0]) as http:
            for size in (5, 30_000_000):
                async with http.head(f"/{size}") as head, http.get(f"/{size}") as answer:
                    assert await head.read() == b""
                    assert {a.headers["Content-Length"] for a in (head, answer)} == {str(size + 11)}
                    assert {a.content_type for a in (head, answer)} == {"application/json"}
                    assert await answer.json() == {"text": "x" * size}
        assert 0 < transports[0].get_write_buffer_size() <= 3 * BATCH_BYTES
    finally:
        writer.close()
        await server.stop(drain=0.1)


async def test_a_reader_that_stops_reading_holds_up_nobody(tmp_path: Path) -> None:
    count = 3_000
    go = asyncio.Event()

    async def talk(context: JobContext, request: object) -> QueenCheckResponse:
        await go.wait()
        for i in range(count):
            context.narrate("step", "x" * 2_000, step=i)
            if i % 50 == 0:
                await asyncio.sleep(0)
        return QueenCheckResponse(message="ok")

    async with bench(tmp_path / "a.db", talk) as b:
        job_id = await b.submit()
        port = int(b.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")  # and no more
        go.set()
        told = frames(await b.stream(job_id))
        assert [x["step"] for _, x in told if x != "[DONE]" and x["event"] == "step"] == list(range(count))
        writer.close()


async def test_a_reader_that_stops_reading_holds_a_buffer_and_no_more(tmp_path: Path) -> None:
    feed = sse.Feed()
    transports: list[asyncio.Transport] = []

    async def stream(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        transports.append(request.transport)
        return await sse.serve(request, feed)

    server = Server(build([Route("GET", "/stream", stream)]), [Listener("127.0.0.1", 0)])
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], limit=1024)
    try:
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # and no more
        data = b'"' + b"x" * 30_000_000 + b'"'  # more than the kernel's own buffers take
        feed.append(data)
        feed.end(b"data: [DONE]\n\n")
        async with aiohttp.ClientSession() as http, http.get(f"{server.urls[0]}/stream") as answer:
            assert await answer.read() == b"id: 1\ndata: %b\n\ndata: [DONE]\n\n" % data
        assert 0 < transports[0].get_write_buffer_size() <= 3 * BATCH_BYTES
    finally:
        writer.close()
        await server.stop(drain=0.1)


async def test_a_quiet_stream_is_kept_alive() -> None:
    feed = sse.Feed()

    async def stream(request: web.Request) -> web.StreamResponse:
        return await sse.serve(request, feed, keepalive=0.05)

    server = Server(build([Route("GET", "/stream", stream)]), [Listener("127.0.0.1", 0)])
    await server.start()
    try:
        async with aiohttp.ClientSession() as http, http.get(f"{server.urls[0]}/stream") as answer:
            for _ in range(2):
                assert await answer.content.readexactly(len(sse.KEEPALIVE)) == sse.KEEPALIVE
            feed.append(b"{}")
            assert await answer.content.readuntil(b"{}\n\n") in (
                b"id: 1\ndata: {}\n\n",
                sse.KEEPALIVE + b"id: 1\ndata: {}\n\n",
            )
            feed.end(b"data: [DONE]\n\n")
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
    finally:
        await server.stop(drain=1)


def test_a_feed_keeps_only_so_many() -> None:
    feed = sse.Feed(limit=8)
    for i in range(100):
        assert feed.append(b"%d" % i) == i + 1
    assert 8 <= feed.next_seq - feed.first <= 9
    last, data = feed.after(0)
    assert last == 100
    assert isinstance(data, bytes)
    assert data.startswith(b"id: %d\n" % feed.first)
    assert feed.after(99)[1] == b"id: 100\ndata: 99\n\n"
    assert feed.after(100) == (100, b"")
    assert feed.after(500) == (500, b"")


def test_a_feed_keeps_only_so_many_bytes() -> None:
    feed = sse.Feed(limit=1000, limit_bytes=10_000)
    for _ in range(100):
        feed.append(b"x" * 500)
        assert len(feed.after(0, 1000)[1]) <= 11_250
    assert (feed.next_seq, feed.after(0, 1000)[0]) == (101, 100)
    feed.append(b"y" * 50_000)
    last, data = feed.after(0)
    assert (last, feed.first) == (101, 101)
    assert len(data) > 50_000
    feed.append(b"z")
    assert feed.after(0)[1] == b"id: 102\ndata: z\n\n"
