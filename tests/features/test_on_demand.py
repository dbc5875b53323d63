# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of on_demand.feature."""

from __future__ import annotations

import json

import pytest
from pytest_bdd import given, parsers, scenarios, then

from tests.features.conftest import Story
from tests.support.rbee_cli import ONE, RbeeHome

pytestmark = pytest.mark.engine
scenarios("on_demand.feature")


@given("a fleet whose two workers are on demand", target_fixture="story")
def _on_demand(own_home: RbeeHome) -> Story:
    own_home.write(ONE.replace("device: cpu,", "device: cpu, replicas: {min: 0, max: 2},"))
    assert "max: 2" in own_home.yaml.read_text()
    return Story(own_home)


@then("the machine has the model, the engine and no worker")
def _brought(story: Story) -> None:
    cache = story.home.root / "cache" / "rbee"
    assert list(cache.glob("models/bee-tiny/*.gguf"))
    assert list(cache.glob("workers/*/metadata.json"))
    assert not list((story.home.state / "workers").glob("*/process.json"))


@then(parsers.parse("the worker has {tokens:d} tokens of context"))
def _context(story: Story, tokens: int) -> None:
    (settings,) = (story.home.state / "workers").glob("*/worker.json")
    assert json.loads(settings.read_text())["options"]["context_length"] == tokens
