# SPDX-License-Identifier: GPL-3.0-or-later
"""Both daemons held against their own `/openapi.json`: whatever is sent, no 500, and answers as they are described.

The hive is one of an empty machine in a temporary directory: what random requests could delete or stop is not there,
and where models would come from nobody listens.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hive_tool import HiveMachine
from tests.support.workers import ROOT

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9"


#: Whoever is told of a queen sends her heartbeats: to nobody, here. And no pattern says what a worker's address is.
SETTINGS = f"""
hooks = "tests.support.schemathesis_hooks"

[parameters]
"query.queen_url" = "{NOWHERE}"

[[operations]]
include-path = "/v1/worker-heartbeat"
[operations.checks]
positive_data_acceptance.enabled = false
"""


def held_against(url: str, root: Path, *, examples: int) -> None:
    """Fails when the tool found anything, with all that it says."""
    (root / "schemathesis.toml").write_text(SETTINGS)
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(root / "schemathesis.toml")]
    argv += ["run", f"{url}/openapi.json", "--no-color", "--max-examples", str(examples), "--generation-deterministic"]
    argv += ["--request-timeout", "30", "--no-shrink", "--continue-on-failure", "--warnings", "off"]
    # DELETE of a job cancels it: what became of it is still told.
    argv += ["--exclude-checks", "use_after_free"]
    env = os.environ | {"COLUMNS": "160", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=root, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Operations: +(\d+) selected / \1 total", done.stdout), done.stdout


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[HiveMachine]:
    machine = HiveMachine(tmp_path)
    machine.env |= {"HF_ENDPOINT": NOWHERE, "http_proxy": NOWHERE, "https_proxy": NOWHERE}
    try:
        with machine.daemon():
            yield machine
    finally:
        machine.clear()


def test_a_hive_is_as_its_openapi_says(hive: HiveMachine) -> None:
    held_against(f"http://{hive.config.listen}", hive.root, examples=40)


def test_a_queen_is_as_her_openapi_says(hive: HiveMachine) -> None:
    with hive.queen() as url:
        held_against(url, hive.root, examples=15)
