# SPDX-License-Identifier: GPL-3.0-or-later
"""What several handlers do on a machine: write and remove small files, start and stop a daemon."""

from __future__ import annotations

from typing import Any

from rbee.contracts import defaults
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts
from rbee.fleet import commands
from rbee.fleet.facts import answer
from rbee.fleet.ports import Shell


def python_of(facts: MachineFacts) -> str:
    """Interpreter for scripts on a machine. Raises RbeeError `no_python`."""
    if facts.python is None:
        raise RbeeError("The machine has no Python 3.10 or newer.", code="no_python")
    return facts.python.path


def files(shell: Shell, facts: MachineFacts, **asked: Any) -> None:
    """Run `remote/files.py` there. Raises RbeeError with the machine's own words (disk full, no permission)."""
    done = shell.run(
        commands.script(python_of(facts), "files"), input=commands.script_input("files", asked), timeout=120.0
    )
    told = answer(done)
    if told.get("error"):
        raise RbeeError(str(told["error"]), code="remote_files", mend=_mend(told))


def _mend(told: dict[str, Any]) -> str:
    return "Free some space there and apply again." if told.get("errno") == 28 else ""


def service(shell: Shell, python: str, verb: str, daemon: str) -> dict[str, Any]:
    """Start, stop or restart a daemon by the machine's own supervisor; returns what it told.

    Raises RbeeError when the daemon did not come up or did not end, with the last words of its log.
    """
    limit = defaults.DAEMON_START_TIMEOUT + defaults.DAEMON_DRAIN + 15.0
    done = shell.run(commands.service(python, verb, daemon), timeout=limit)
    told = answer(done)
    if told.get("error"):
        raise RbeeError(str(told["error"]), code=str(told.get("code") or "service"), mend=str(told.get("mend") or ""))
    return told
