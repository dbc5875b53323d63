# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands for machines, as argv lists: quoted once, at the edge, by the shell that runs them.

Programs and data go by standard input: no command line holds a secret, a newline, or more than a few words.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from rbee.contracts.defaults import HIVE_PYTHON

_NEWEST: Final = 14
#: Reads its own program from standard input; what follows it there is the program's input.
_BOOT: Final = (
    f"import sys;sys.version_info[:2]>={HIVE_PYTHON!r} or sys.exit(97);n=int(sys.argv.pop(1));"
    "exec(compile(sys.stdin.buffer.read(n),'rbee','exec'))"
)
_ASK: Final = "import sys;v=sys.version_info;print('%d.%d.%d=%s'%(v[0],v[1],v[2],sys.executable))"
#: Runs the program with the first Python that is new enough, or tells what there is. POSIX sh. A Python that is too
#: old (97) or not really there (a shim, an installer's stub) has read nothing of the input, so the next one can.
_FIND: Final = (
    'boot=$1; size=$2; ask=$3; shift 3; old=; PATH="$PATH:/usr/local/bin:/opt/homebrew/bin:$HOME/.local/bin"; '
    'for p; do command -v "$p" >/dev/null 2>&1 || continue; "$p" -c "$boot" "$size"; rc=$?; '
    'case $rc in 97) old="$old $("$p" -c "$ask" </dev/null 2>/dev/null)" ;; 0) exit 0 ;; esac; done; '
    'echo; echo "rbee-nopython: $(uname -s) $(uname -m)$old"'
)


@cache
def program(name: str) -> bytes:
    """Text of one of the scripts in `rbee/fleet/remote`."""
    return (Path(__file__).parent / "remote" / f"{name}.py").read_bytes()


def script_input(name: str, parameters: dict[str, Any]) -> bytes:
    """Standard input for a script: itself and its line of parameters; its data may follow."""
    return program(name) + json.dumps(parameters).encode() + b"\n"


def script(python: str, name: str) -> list[str]:
    """Runs a script (given by `script_input`) with a known Python."""
    return [python, "-c", _BOOT, str(len(program(name)))]


def pythons(configured: str | None) -> list[str]:
    """Names to look for, best first; one that the user configured is the only one."""
    if configured:
        return [configured]
    return ["python3", *(f"python3.{minor}" for minor in range(_NEWEST, HIVE_PYTHON[1] - 1, -1))]


def find_python_and(name: str, configured: str | None = None) -> list[str]:
    """Runs a script with the first Python on the machine that is new enough (answers also when there is none)."""
    return ["sh", "-c", _FIND, "rbee", _BOOT, str(len(program(name))), _ASK, *pythons(configured)]


def service(python: str, verb: str, daemon: str) -> list[str]:
    """`verb` is start, stop, restart or status; run by the release's own Python."""
    return [python, "-m", "rbee.adapters.service", verb, daemon]
