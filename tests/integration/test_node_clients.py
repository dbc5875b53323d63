# SPDX-License-Identifier: GPL-3.0-or-later
"""Real clients of Node.js (tests/clients) against a real queen: OpenAI's own, and the Vercel AI SDK."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mock_engine import MockEngine, Script
from tests.support.openai_fleet import Fleet, fleet_in
from tests.support.queen import beat
from tests.support.workers import ROOT

pytestmark = pytest.mark.engine

CLIENTS = ROOT / "tests" / "clients"


@pytest.fixture(scope="session")
def node() -> str:
    """The program, with the packages of the lock in place."""
    found = shutil.which("node")
    if found is None:
        pytest.fail("Node.js is missing: `make packages` installs it on Debian (nodejs and npm, 18 or newer)")
    if not (CLIENTS / "node_modules" / ".package-lock.json").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=CLIENTS, check=True)
    return found


def call() -> bytes:
    """A streamed call of the tool `weather`, its arguments in pieces."""
    made = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": [made]}]
    deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": a}}]} for a in ('{"ci', 'ty": "K', 'öln"}')]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": d, "finish_reason": None} for d in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    head = {"id": "c", "created": 1, "model": "mock-tools", "object": "chat.completion.chunk"}
    frames = [json.dumps({**head, "choices": [choice]}, ensure_ascii=False) for choice in choices]
    return "".join(f"data: {f}\n\n" for f in [*frames, "[DONE]"]).encode()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """With a worker more, `mock-tools`, that calls a tool whatever it is asked."""
    body = call().decode("latin-1")  # a script is written byte for byte
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    script = Script(raw=f"{head}{len(body):x}\r\n{body}\r\n0\r\n\r\n", split=11)
    async with fleet_in(tmp_path) as made, MockEngine(script) as engine:
        await made.queen.heartbeat(beat("mock-2", engine.port, model="mock-tools", capabilities=("tools",)))
        yield made
        await made.all_idle()


@pytest.mark.parametrize("name", ["openai", "ai-sdk"])
async def test_a_client_of_node(node: str, fleet: Fleet, name: str) -> None:
    child = await asyncio.create_subprocess_exec(
        node, "--test", "--test-reporter=tap", f"{name}.test.mjs", cwd=CLIENTS,
        env={**os.environ, "RBEE_URL": fleet.url}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = (await child.communicate())[0].decode()
    assert child.returncode == 0, said
    # It ran them, and skipped none.
    counts = dict(re.findall(r"^# (tests|pass|skipped|todo) (\d+)$", said, re.MULTILINE))
    written = len(re.findall(r"\btest\(", (CLIENTS / f"{name}.test.mjs").read_text()))
    assert int(counts["tests"]) == int(counts["pass"]) >= written
    assert (counts["skipped"], counts["todo"]) == ("0", "0")


def test_the_lock_names_no_host_and_every_digest() -> None:
    packages = json.loads((CLIENTS / "package-lock.json").read_text())["packages"]
    for name, said in packages.items():
        assert "resolved" not in said, name
        assert name == "" or said["integrity"].startswith("sha512-"), name
        assert not said.get("hasInstallScript"), name
