# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that several features share: every fleet is real, from the rbee command to llama.cpp and the client."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import APIStatusError, OpenAI
from pytest_bdd import given, parsers, then, when

from tests.support.rbee_cli import Ran, RbeeHome, rbee_home
from tests.support.waiting import until

pytestmark = pytest.mark.engine


_clients: list[OpenAI] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Clients of a scenario end with it, not whenever their garbage is collected."""
    yield
    while _clients:
        _clients.pop().close()


@dataclass
class Story:
    """What a scenario has done so far."""

    home: RbeeHome
    ran: Ran | None = None
    text: str = ""
    finish: str | None = None
    headers: Any = None
    error: APIStatusError | None = None
    pids: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def client(self) -> OpenAI:
        made = OpenAI(base_url=f"{self.home.url}/v1", api_key="unused", max_retries=0, timeout=30)
        _clients.append(made)
        return made

    def last(self) -> Ran:
        assert self.ran is not None
        return self.ran

    def pid(self, what: str) -> int:
        """Pid of this home's queen, worker or engine; fails when there is not exactly one."""
        marks = {"queen": "queen", "worker": "worker", "engine": "xllamacpp_server.py"}
        found = [p.pid for p in self.home.processes() if marks[what] in " ".join(p.cmdline()[1:4]) and _kind(p) == what]
        assert len(found) == 1, f"{what}: {[(p.pid, p.cmdline()) for p in self.home.processes()]}"
        return found[0]

    def remember(self) -> None:
        self.pids = {what: self.pid(what) for what in ("queen", "worker", "engine")}


def _kind(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    if "xllamacpp_server.py" in line:
        return "engine"
    return "worker" if "worker" in process.cmdline() else "queen"


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RbeeHome]:
    with rbee_home(tmp_path_factory.mktemp("shared")) as home:
        home.run("apply", "--auto-approve", rc=0)
        yield home


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[RbeeHome]:
    with rbee_home(tmp_path) as home:
        yield home


@given("a fleet of one machine that was applied", target_fixture="story")
def _shared(shared_home: RbeeHome) -> Story:
    story = Story(shared_home)
    story.remember()
    return story


@given("a fleet of its own that was applied", target_fixture="story")
def _own_applied(own_home: RbeeHome) -> Story:
    own_home.run("apply", "--auto-approve", rc=0)
    story = Story(own_home)
    story.remember()
    return story


@given("a fleet that was not applied", target_fixture="story")
def _own(own_home: RbeeHome) -> Story:
    return Story(own_home)


@when(parsers.parse('the command "{line}" is run'))
def _command(story: Story, line: str) -> None:
    story.ran = story.home.run(*shlex.split(line))


@when("it is applied again")
def _again(story: Story) -> None:
    story.ran = story.home.run("apply", "--auto-approve")


@then(parsers.parse('the command ends with {rc:d} and says "{words}"'))
def _ended(story: Story, rc: int, words: str) -> None:
    ran = story.last()
    assert ran.rc == rc, f"{ran.rc}\n{ran.out}\n{ran.err}\n{story.home.logs()}"
    assert words in ran.out + ran.err, f"{ran.out}\n{ran.err}"


@then(parsers.parse('it says "{words}"'))
def _says(story: Story, words: str) -> None:
    assert words in story.last().out + story.last().err


@when(parsers.parse('"{old}" becomes "{new}" in the file'))
def _edit(story: Story, old: str, new: str) -> None:
    text = story.home.yaml.read_text()
    assert old in text
    story.home.yaml.write_text(text.replace(old, new))


@when(parsers.parse('a client asks "{model}" for a streamed answer to "{question}"'))
def _stream(story: Story, model: str, question: str) -> None:
    with story.client.chat.completions.with_streaming_response.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=120, stream=True
    ) as answer:
        story.headers = answer.headers
        for chunk in answer.parse():
            for choice in chunk.choices:
                story.text += choice.delta.content or ""
                story.finish = choice.finish_reason or story.finish


@when(parsers.parse('a client asks "{model}" for one answer to "{question}"'))
def _ask(story: Story, model: str, question: str) -> None:
    try:
        answer = story.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=120
        )
    except APIStatusError as e:
        story.error = e
        return
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    story.text, story.finish = answer.choices[0].message.content or "", answer.choices[0].finish_reason


@then("whole English sentences come back, ended by the model itself")
def _sentences(story: Story) -> None:
    assert story.finish == "stop", (story.text, story.finish)
    assert story.text[:1].isalpha() and story.text.rstrip()[-1] in ".!?" and len(story.text.split()) >= 3, story.text


@then(parsers.parse('a client that keeps asking "{model}" is answered again'))
def _keeps(story: Story, model: str) -> None:
    def answered() -> bool:
        story.error = None
        _ask(story, model, "Hello")
        return story.error is None and story.finish == "stop"

    until(answered, "an answer", 40)


@then(parsers.parse('the client gets status {status:d} with code "{code}"'))
def _refused(story: Story, status: int, code: str) -> None:
    assert story.error is not None
    assert (story.error.status_code, story.error.code) == (status, code)


@then("no process of it is left")
def _none_left(story: Story) -> None:
    until(lambda: not story.home.processes(), "all processes to end")
