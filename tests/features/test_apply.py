# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of apply.feature."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from openai import APIStatusError, OpenAI
from pytest_bdd import given, parsers, scenarios, then, when

from tests.features.conftest import Story
from tests.support.waiting import until

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


@then(parsers.parse('the client is refused with {status:d} and "{words}"'))
def _refused_with(story: Story, status: int, words: str) -> None:
    assert story.error is not None
    assert (story.error.status_code, words in story.error.message) == (status, True)


class Asking:
    """Two clients, each of which streams one answer after the other until `end`."""

    def __init__(self, clients: list[OpenAI], model: str) -> None:
        self.answers: list[tuple[str, str | None]] = []
        self.went_wrong: list[Exception] = []
        self._ends = threading.Event()
        self._first = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(c, model)) for c in clients]
        for thread in self._threads:
            thread.start()
        assert self._first.wait(60)

    def _ask(self, client: OpenAI, model: str) -> None:
        while not self._ends.is_set():
            text, finish = "", None
            try:
                asked: list[Any] = [{"role": "user", "content": "What is rbee?"}]
                for chunk in client.chat.completions.create(
                    model=model, messages=asked, temperature=0, max_tokens=120, stream=True
                ):
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        finish = choice.finish_reason or finish
            except Exception as e:
                self.went_wrong.append(e)
            self.answers.append((text, finish))
            self._first.set()

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def crowds() -> Iterator[list[Asking]]:
    """They end with the scenario, however it ends."""
    made: list[Asking] = []
    yield made
    for asking in made:
        asking.end()


@given(parsers.parse('clients that ask "{model}" for streamed answers all the time'))
def _all_the_time(story: Story, crowds: list[Asking], model: str) -> None:
    crowds.append(Asking([story.client, story.client], model))


@when("the file has further lines")
def _further(story: Story, docstring: str) -> None:
    with story.home.yaml.open("a") as file:
        file.write(f"{docstring}\n")


@then("the clients had every answer whole, those during the apply too")
def _every_answer(story: Story, crowds: list[Asking]) -> None:
    (asking,) = crowds
    asking.end()
    assert asking.went_wrong == []
    assert len(asking.answers) > 2, "they asked during the apply"
    assert len(set(asking.answers)) == 1, "the same question, the same answer"
    text, finish = asking.answers[0]
    assert finish == "stop" and text


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


@then("the queen's log tells of nothing that was left open")
def _all_closed(story: Story) -> None:
    log = (story.home.state / "queen.log").read_text()
    assert "cannot be used" in log
    assert "Unclosed" not in log and "never retrieved" not in log, log


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
