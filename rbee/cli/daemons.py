# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemons' composition roots: settings and token read, adapters built, the process run to its end.

`queen-rbee`, `rbee-hive` and `llm-worker-rbee --config FILE`; also `python -m rbee.cli.daemons queen|hive|worker`.
`rbee-hive COMMAND` is the hive's own tool (`rbee.cli.hive_cmds`).
Exit codes: 0 stopped as asked, 1 could not start or go on, 2 the settings forbid it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from rbee.adapters.secrets import BadSecret
from rbee.core.errors import RbeeError

#: Errors that the person who wrote the settings must mend: exit code 2.
_SETTINGS = ("token_required", "bad_token_file", "bad_config", "invalid_request")


def queen() -> None:
    """`queen-rbee`: the queen, and the hive of this machine in the same process when the settings have one."""
    sys.exit(_main("queen", None))


def hive() -> None:
    """`rbee-hive`: the hive of a machine; with a command, what can be asked of it."""
    sys.exit(_main("hive", None))


def worker() -> None:
    """`llm-worker-rbee --config FILE`: one worker."""
    sys.exit(_main("worker", None))


def _main(who: str, argv: list[str] | None) -> int:
    # Until the event loop listens for it, which takes imports: by default it would end the process.
    signal.signal(signal.SIGHUP, lambda number, frame: None)
    # Words behind are of the hive's own tool, which also tells how all of it is used.
    parser = argparse.ArgumentParser(
        prog={"queen": "queen-rbee", "hive": "rbee-hive"}.get(who, "llm-worker-rbee"),
        add_help=who != "hive",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, default=os.environ.get("RBEE_CONFIG"), help="settings file (JSON)")
    said, words = parser.parse_known_args(argv)
    if who == "hive" and words not in ([], ["run"]):
        return _hive_command(words, said.config)
    if who != "hive" and words:
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    config = Path(said.config) if said.config is not None else None
    try:
        if who == "queen":
            _queen(config)
        elif who == "hive":
            _hive(config)
        else:
            return _worker(config)
    except BadSecret as e:
        return _refuse(e, 2)
    except RbeeError as e:
        return _refuse(e, 2 if e.code in _SETTINGS else 1)
    return 0


def _refuse(error: RbeeError, code: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return code


def _queen(path: Path | None) -> None:
    from rbee.cli.compose import run_queen

    run_queen(path)


def _hive(path: Path | None) -> None:
    from rbee.cli.compose import run_hive

    run_hive(path)


def _hive_command(words: list[str], config: Path | str | None) -> int:
    """`rbee-hive COMMAND ...`: the settings' file may be named before the command too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config is not None:
        os.environ["RBEE_CONFIG"] = str(config)
    from rbee.cli.hive_cmds import main

    main(words, prog_name="rbee-hive")
    return 0


def _worker(path: Path | None) -> int:
    from rbee.daemons.worker.app import main

    if path is None:
        raise RbeeError("A worker needs its settings.", code="bad_config", mend="Give --config FILE.")
    return int(main(path) or 0)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("queen", "hive", "worker"):
        sys.exit("usage: python -m rbee.cli.daemons queen|hive|worker [--config FILE]")
    sys.exit(_main(sys.argv[1], sys.argv[2:]))
