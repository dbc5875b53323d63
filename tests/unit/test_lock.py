# SPDX-License-Identifier: GPL-3.0-or-later
"""One apply at a time on a machine, with real processes."""

from __future__ import annotations

import getpass
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee.adapters.lock import held
from rbee.core.errors import Conflict, RbeeError

SINCE = "2026-01-01T00:00:00Z"
HOLD = """
import sys
from pathlib import Path
from rbee.adapters.lock import held
with held(Path(sys.argv[1]), "rbee apply", "2026-01-01T00:00:00Z"):
    print("held", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "apply.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_one_is_told_who_does_what_since_when(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(Conflict) as e, held(path, "rbee destroy", SINCE):
        raise AssertionError("both hold it")
    who = f"{getpass.getuser()}@{socket.gethostname()} (pid {holder.pid})"
    assert e.value.code == "locked"
    assert e.value.message == f"Another rbee is at work on this machine: `rbee apply` of {who} since {SINCE}."
    assert "Ctrl-C" in e.value.mend
    assert "rbee apply" in path.read_text()  # the holder's words are still there


def test_the_lock_dies_with_its_holder_however_that_dies(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(20)
    with held(path, "rbee apply", SINCE):
        assert "rbee apply" in path.read_text()


def test_the_lock_is_let_go_at_the_end(path: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "let go\n"
    with held(path, "rbee apply", SINCE):
        pass
    assert path.read_text() == ""


def test_an_error_in_the_block_lets_it_go_too(path: Path) -> None:
    with pytest.raises(KeyError), held(path, "rbee apply", SINCE):
        raise KeyError
    with held(path, "rbee apply", SINCE):
        pass


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder is needed")
    with pytest.raises(RbeeError, match="cannot be made"), held(tmp_path / "state" / "apply.lock", "rbee apply", SINCE):
        raise AssertionError("nobody holds it")


@pytest.mark.parametrize("words", ["", "nonsense", "[1]", '{"pid": 1}'])
def test_a_holder_that_has_not_said_who_it_is(path: Path, holder: subprocess.Popen[str], words: str) -> None:
    path.write_text(words)
    with pytest.raises(Conflict, match="it has not said who it is"), held(path, "rbee apply", SINCE):
        pass
