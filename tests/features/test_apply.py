# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of apply.feature."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from openai import APIStatusError
from pytest_bdd import parsers, scenarios, then, when

from tests.features.conftest import Story
from tests.support.rbee_cli import until

pytestmark = pytest.mark.engine
scenarios("apply.feature")


@then(parsers.parse('the answer\'s headers name the worker "{worker}" and the hive "{hive}"'))
def _headers(story: Story, worker: str, hive: str) -> None:
    assert (story.headers["x-rbee-worker"], story.headers["x-rbee-hive"]) == (worker, hive)
    assert story.headers["x-request-id"]
    assert float(story.headers["x-rbee-overhead-ms"]) >= 0


@then(parsers.parse('the client\'s list of models names "{one}" and "{other}"'))
def _models(story: Story, one: str, other: str) -> None:
    assert {one, other} <= {m.id for m in story.client.models.list()}


@when(parsers.parse("a client sends {field} {value}"))
def _bad(story: Story, field: str, value: str) -> None:
    extra: dict[str, Any] = {field: float(value) if "." in value else int(value)}
    with pytest.raises(APIStatusError) as caught:
        story.client.chat.completions.create(
            model="bee-tiny", messages=[{"role": "user", "content": "Hello"}], extra_body=extra
        )
    story.error = caught.value


@then(parsers.parse('the client gets status {status:d} about "{param}"'))
def _about(story: Story, status: int, param: str) -> None:
    assert story.error is not None
    assert (story.error.status_code, story.error.param) == (status, param)


@then("every process is the one it was")
def _same(story: Story) -> None:
    before = dict(story.pids)
    story.remember()
    assert story.pids == before


@then(parsers.parse("the {what}'s process is the one it was"))
def _same_one(story: Story, what: str) -> None:
    assert story.pid(what) == story.pids[what]


@when(parsers.parse("the {what} is killed with SIGKILL"))
def _kill(story: Story, what: str) -> None:
    os.kill(story.pids[what], signal.SIGKILL)


@then("no engine of it is left")
def _no_engine(story: Story) -> None:
    until(lambda: story.pids["engine"] not in {p.pid for p in story.home.processes()}, "the engine to end", 10)


@when("it is applied until nothing changes")
def _until_still(story: Story) -> None:
    until(lambda: "No changes" in story.home.run("apply", "--auto-approve").out, "an apply without changes", 60)


@then("no model, engine, token or settings are left")
def _clean(story: Story) -> None:
    root = story.home.root
    left = [*root.glob("cache/rbee/models/*"), *root.glob("cache/rbee/workers/*"), *root.glob("config/rbee/*")]
    left += [*root.glob("data/rbee/*"), *root.glob("state/rbee/*.run.json")]
    assert not left
