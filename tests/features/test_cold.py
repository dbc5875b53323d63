# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of cold.feature."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI
from pytest_bdd import given, parsers, scenarios, then, when

from rbee.adapters import system
from tests.features.conftest import Story
from tests.support.rbee_cli import RbeeHome
from tests.support.waiting import until

pytestmark = pytest.mark.engine
scenarios("cold.feature")

#: Seconds; a model that has just come stays for half a minute.
PATIENCE = "120"
TWO = """\
version: 1
fleet: test
queen: {listen: "127.0.0.1:{queen}"}
hives:
  here: {listen: "127.0.0.1:{hive}", worker_ports: {ports}}
models:
  first: {source: builtin:bee-tiny}
  second: {source: builtin:bee-tiny}
defaults:
  device: cpu
  options: {context_length: 256, parallel: 2, threads: %d}
workers:
  one: {model: first, replicas: {min: 0, max: 1}}
  two: {model: second, replicas: {min: 0, max: 1}}
"""


@given("a fleet whose two models take the whole machine each", target_fixture="story")
def _two(own_home: RbeeHome) -> Story:
    own_home.write(TWO.replace("%d", str(system.cores())))
    return Story(own_home)


@when(parsers.parse('{count:d} clients at once ask "{model}" and can wait'))
def _crowd(story: Story, count: int, model: str) -> None:
    with (
        OpenAI(base_url=f"{story.home.url}/v1", api_key="unused", max_retries=0, timeout=150) as client,
        ThreadPoolExecutor(count) as pool,
    ):

        def ask(_: int) -> tuple[str, int]:
            raw = client.chat.completions.with_raw_response.create(
                model=model,
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=4,
                extra_headers={"X-Request-Timeout": PATIENCE},
            )
            usage = raw.parse().usage
            return raw.headers["X-Rbee-Worker"], usage.completion_tokens if usage is not None else 0

        story.notes["answers"] = list(pool.map(ask, range(count)))


@then("each of them is answered")
def _answered(story: Story) -> None:
    assert all(tokens > 0 for _, tokens in story.notes["answers"])


@then(parsers.parse('one worker runs, which is "{worker_id}"'))
def _one(story: Story, worker_id: str) -> None:
    def running() -> set[int]:
        """As the hive has noted it, which looks at its workers every few moments."""
        noted = [json.loads(p.read_text()) for p in (story.home.state / "workers").glob("*/process.json")]
        return {w["pid"] for w in noted if w["status"] in ("ready", "busy")}

    until(lambda: running() == {story.pid("worker")}, "one worker")
    assert {by for by, _ in story.notes["answers"]} == {worker_id}


@then(parsers.parse('the queen has done {count:d} "{operation}"'))
def _done(story: Story, count: int, operation: str) -> None:
    def all_done() -> bool:
        with urllib.request.urlopen(f"{story.home.url}/v1/jobs?limit=100", timeout=10) as answer:
            jobs = json.load(answer)["jobs"]
        states = [j["state"] for j in jobs if j["operation"] == operation]
        assert len(states) <= count, states
        return states == ["completed"] * count

    until(all_done, f"{count} {operation}")
