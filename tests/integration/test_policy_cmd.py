# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee explain` and `rbee policy test` against a running queen, and the policies of docs/routing.md."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rbee.cli.main import main
from rbee.contracts import codec
from rbee.contracts.decisions import DecisionRecord
from tests.support.queen import MODEL, Client, queen_in, workers

ROOT = Path(__file__).parents[2]
HEAD = f"version: 1\nfleet: test\nhives: {{here: {{}}}}\nmodels: {{{MODEL}: {{source: 'builtin:bee-tiny'}}}}\n"


async def rbee(home: Path, *words: str) -> Result:
    """A command, in a thread beside the queen's loop. No file of this machine's user plays a part."""
    env = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CONFIG", "CACHE", "DATA", "STATE")}
    return await asyncio.to_thread(CliRunner().invoke, main, list(words), env=env)


def written(home: Path, policies: str) -> str:
    file = home / "rbee.yaml"
    file.write_text(f"{HEAD}policies:\n{policies}")
    return str(file)


async def ask(client: Client, request_id: str, **more: Any) -> str:
    async with client.chat(headers={"X-Request-Id": request_id, "X-Team": "law"}, **more) as answer:
        await answer.read()
        return str(answer.headers.get("X-Rbee-Worker", ""))


async def test_explain_tells_one_decision(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2"):
        worker = await ask(c, "one")
        told = await rbee(tmp_path, "explain", "one", "--queen-url", c.url)
        assert told.exit_code == 0, told.output
        assert told.output.splitlines()[0].startswith("Request one, ")
        assert f"  sent to {worker}. Asked longest ago of 2 equals." in told.output.splitlines()
        assert [line.split()[:2] for line in told.output.splitlines() if line.startswith("* ")] == [["*", worker]]
        as_json = await rbee(tmp_path, "explain", "one", "--queen-url", c.url, "-o", "json")
        assert codec.decode(DecisionRecord, as_json.output).worker_id == worker
        missing = await rbee(tmp_path, "explain", "two", "--queen-url", c.url)
        assert missing.exit_code == 1
        assert "remembers no request 'two'" in missing.output
        assert (await rbee(tmp_path, "explain", "--queen-url", c.url)).exit_code == 2
        assert (await rbee(tmp_path, "explain", "one", "--all", "--queen-url", c.url)).exit_code == 2


async def test_a_recording_is_played_again(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1", "w2"):
        assert {await ask(c, "r1", user="a"), await ask(c, "r2", messages=[{"role": "user", "content": "b"}])} == {
            "w1",
            "w2",
        }
        all_of_them = await rbee(tmp_path, "explain", "--all", "--queen-url", c.url)
        assert [json.loads(line)["request_id"] for line in all_of_them.output.splitlines()] == ["r1", "r2"]
        last = await rbee(tmp_path, "explain", "--all", "--limit", "1", "--queen-url", c.url)
        assert [json.loads(line)["request_id"] for line in last.output.splitlines()] == ["r2"]
        file = written(
            tmp_path, "  only:\n    filter: worker.id == 'w2' && request.headers[?'x-team'].orValue('') == 'law'\n"
        )
        live = await rbee(tmp_path, "policy", "test", "-f", file, "--queen-url", c.url)
        assert live.exit_code == 0, live.output
        assert live.output.splitlines()[-1] == "2 requests: 1 changed, 0 rejected, 0 with a policy that failed."
    recording = tmp_path / "calls.jsonl"
    recording.write_text(all_of_them.output)
    # From a file, no queen is asked.
    again = await rbee(
        tmp_path, "policy", "test", "-f", file, "--requests", str(recording), "-o", "json", "--fail-on-change"
    )
    assert again.exit_code == 1
    lines = [json.loads(line) for line in again.output.splitlines()]
    assert [line["type"] for line in lines] == ["version", "request", "request", "result"]
    assert {line["now"] for line in lines[1:3]} == {"w2"}
    assert sorted(line["changed"] for line in lines[1:3]) == [False, True]
    assert lines[-1] == {"type": "result", "requests": 2, "changed": 1, "failed": 0}


async def test_refusals_failures_and_single_policies(tmp_path: Path) -> None:
    async with queen_in(tmp_path) as c, workers(c, "w1"):
        await ask(c, "r1", max_tokens=9000)
        await ask(c, "r2")
        file = written(
            tmp_path,
            "  short: {reject: request.max_tokens > 8192, reason: Ask for less.}\n"
            "  broken: {filter: \"worker.capabilities[3] == 'x'\"}\n",
        )
        both = await rbee(tmp_path, "policy", "test", "-f", file, "--queen-url", c.url)
        assert both.exit_code == 1
        assert "rejected by short: Ask for less." in both.output
        assert "failed: broken: filter: Index error" in both.output
        one = await rbee(tmp_path, "policy", "test", "-f", file, "--queen-url", c.url, "--policy", "short")
        assert one.exit_code == 0
        assert one.output.splitlines()[-1] == "2 requests: 1 changed, 1 rejected, 0 with a policy that failed."
        unknown = await rbee(tmp_path, "policy", "test", "-f", file, "--queen-url", c.url, "--policy", "shrt")
        assert unknown.exit_code == 1
        assert "Did you mean 'short'?" in unknown.output


async def test_what_is_no_recording_and_no_policy(tmp_path: Path) -> None:
    file = written(tmp_path, "  p: {score: '1.0'}\n")
    (tmp_path / "bad.jsonl").write_text('{"request_id": 3}\n')
    bad = await rbee(tmp_path, "policy", "test", "-f", file, "--requests", str(tmp_path / "bad.jsonl"))
    assert bad.exit_code == 1
    assert "bad.jsonl:1: no recorded decision" in bad.output
    assert (
        await rbee(tmp_path, "policy", "test", "-f", file, "--requests", str(tmp_path / "none.jsonl"))
    ).exit_code == 1
    typo = written(tmp_path, "  p:\n    score: >\n      1.0 -\n      worker.laod\n")
    for words in (["validate"], ["plan"], ["policy", "test"]):
        told = await rbee(tmp_path, *words, "-f", typo)
        assert told.exit_code == 1
        assert "rbee.yaml:9:14" in told.output
        assert "Did you mean 'load'?" in told.output


BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "routing.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
async def test_the_examples_of_the_page_are_valid(tmp_path: Path, block: str) -> None:
    has = {line.partition(":")[0] for line in block.splitlines() if line[:1].isalpha()}
    rest = {
        "version": "version: 1\n",
        "fleet": "fleet: home\n",
        "hives": "hives:\n  attic: {labels: {region: eu-west, power: loud}}\n"
        "  shed: {ssh: shed, labels: {region: us-east, power: quiet}}\n",
        "models": "models:\n  llama: {source: 'builtin:bee-tiny'}\n  mistral: {source: 'builtin:bee-tiny'}\n",
        "aliases": "aliases: {best: [llama, mistral]}\n",
    }
    (tmp_path / "key").write_text("a-key-of-24-characters..\n")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "rbee.yaml").write_text("".join(text for name, text in rest.items() if name not in has) + block)
    told = await rbee(tmp_path, "validate", "-f", str(tmp_path / "rbee.yaml"), "-o", "json")
    lines = [json.loads(line) for line in told.output.splitlines()]
    assert lines[-1]["valid"], told.output
    assert lines[-1]["warnings"] == 0, told.output


def test_the_page_has_examples() -> None:
    assert len(BLOCKS) >= 4
