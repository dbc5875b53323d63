# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of idle.feature."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.features.conftest import Story
from tests.support.rbee_cli import ONE, RbeeHome
from tests.support.waiting import until

pytestmark = pytest.mark.engine
scenarios("idle.feature")


@given("a fleet whose worker may be idle for a second", target_fixture="story")
def _idle(own_home: RbeeHome) -> Story:
    own_home.write(ONE.replace("device: cpu,", "device: cpu, replicas: 1, idle_timeout: 1s,"))
    assert "idle_timeout" in own_home.yaml.read_text()
    return Story(own_home)


def _workers(story: Story) -> list[dict[str, Any]]:
    """As the machine has them noted."""
    noted = (story.home.state / "workers").glob("*/process.json")
    return [json.loads(path.read_text()) for path in noted]


@when(parsers.parse('"{worker_id}" is unloaded'))
def _unloaded(story: Story, worker_id: str) -> None:
    def gone() -> bool:
        return [(w["status"], w["pid"]) for w in _workers(story)] == [("unloaded", 0)]

    until(gone, f"{worker_id} to be unloaded")


@when("the hive is asked for its workers")
def _asked(story: Story) -> None:
    (story.notes["worker"],) = _workers(story)


@then(parsers.parse("the worker is the one it was and may be idle for {seconds:d} seconds"))
def _the_one(story: Story, seconds: int) -> None:
    (worker,) = _workers(story)
    assert (worker["pid"], worker["start_time"]) == tuple(story.notes["worker"][k] for k in ("pid", "start_time"))
    (settings,) = (story.home.state / "workers").glob("*/worker.json")
    assert json.loads(settings.read_text())["idle_timeout"] == seconds


@then("the worker is loaded")
def _loaded(story: Story) -> None:
    (worker,) = _workers(story)
    assert (worker["status"], worker["pid"] > 0) == ("ready", True)


@then("the hive has no worker")
def _none(story: Story) -> None:
    assert _workers(story) == []
