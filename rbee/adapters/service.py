# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, stop and look at a daemon of this machine: `python -m rbee.adapters.service VERB DAEMON`.

Run by the Python that has the release in it (over SSH, or here for the queen). Prints one line `rbee: {...}` and
exits with 0, or 1 when the answer is an error.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rbee.adapters import process
from rbee.adapters.paths import Paths
from rbee.adapters.process import Identity
from rbee.adapters.supervisors import Detached, Launchd, Supervisor, SystemdUser, choose
from rbee.contracts import codec, defaults
from rbee.core.errors import RbeeError

VERBS = ("start", "stop", "restart", "status")
DAEMONS = ("hive", "queen")
_PROGRAMS = {"hive": "rbee-hive", "queen": "queen-rbee"}
_MODULE = "rbee.cli.daemons"
_POLL = 0.05
#: How long a daemon that runs may not answer before it is started anew.
_GRACE = 5.0
#: What a daemon needs after it has let requests end, before it is taken for one that does not end.
_TIDY = 5.0
#: Lines of a log that are shown.
_TAIL = 15


def run_file(paths: Paths, daemon: str) -> dict[str, Any]:
    """What a running daemon told of itself; empty when there is none or it cannot be read."""
    try:
        return codec.decode(dict[str, Any], (paths.state / f"{daemon}.run.json").read_bytes())
    except (OSError, codec.CodecError):
        return {}


def running(paths: Paths, daemon: str) -> Identity | None:
    """The daemon's process: the one that wrote the runtime file, or that holds the lock and has not got so far.

    None unless it lives and is a daemon of ours.
    """
    told = run_file(paths, daemon)
    pid, start = told.get("pid"), told.get("start_time")
    identity = Identity(pid=pid, start_time=start) if isinstance(pid, int) and isinstance(start, int) else None
    if identity is None or not process.alive(identity):
        identity = _lock_holder(paths.state / f"{daemon}.lock")
    if identity is None:
        return None
    words = process.argv_of(identity.pid)
    ours = _MODULE in words or any(Path(w).name in _PROGRAMS.values() for w in words)
    return identity if ours and process.alive(identity) else None


def _lock_holder(lock: Path) -> Identity | None:
    try:
        with lock.open("r") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = f.read().strip()
                return process.identify(int(said)) if said.isdigit() else None
    except OSError:
        pass
    return None


def healthy(url: str) -> bool:
    """Whether its /health answers 200."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def log_tail(log: Path, start: int = 0) -> str:
    """The last lines of what was logged from byte `start` on."""
    try:
        with log.open("rb") as f:
            f.seek(max(start, log.stat().st_size - 65536))
            lines = f.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_TAIL:])


def why_it_ended(log: Path, start: int) -> str:
    """A daemon's last words, its plain log lines left out where something else was said. What it said at each of
    several tries is told once."""
    lines = [line for line, _ in itertools.groupby(log_tail(log, start).splitlines())]
    said = [line for line in lines if not line.startswith("{")]
    return "\n".join(line.removeprefix("error: ") for line in said) or "\n".join(lines)


class Service:
    """One daemon of this machine. Blocks."""

    def __init__(self, paths: Paths, daemon: str, supervisor: Supervisor, notes: list[str]) -> None:
        self._paths, self._daemon, self._supervisor, self._notes = paths, daemon, supervisor, notes
        self._log = paths.state / f"{daemon}.log"

    def status(self) -> dict[str, Any]:
        told, identity = run_file(self._paths, self._daemon), running(self._paths, self._daemon)
        if identity is None:
            return {"state": "stopped"}
        url = str(told.get("url", ""))
        return {
            "state": "running" if healthy(url) else "unhealthy",
            "pid": identity.pid,
            "url": url,
            "release": told.get("release", ""),
            "supervisor": self._supervisor.name,
            "notes": self._notes,
        }

    def start(self) -> dict[str, Any]:
        """Does nothing when it runs and answers. Raises RbeeError `start_failed` with the last words of its log."""
        end = time.monotonic() + _GRACE
        while (found := self.status())["state"] == "unhealthy" and time.monotonic() < end:
            time.sleep(_POLL)  # somebody started it a moment ago, perhaps
        if found["state"] == "running":
            return found
        return self.restart()

    def restart(self) -> dict[str, Any]:
        """Stop, then start with this release and the settings as they are now; workers live on."""
        self._end()
        return self._start()

    def stop(self) -> dict[str, Any]:
        """Also forgotten by every supervisor: it does not come back by itself."""
        self._end()
        for supervisor in _all(self._supervisor):
            supervisor.forget(self._daemon)
        return {"state": "stopped", "notes": self._notes}

    def _start(self) -> dict[str, Any]:
        argv = [sys.executable, "-m", _MODULE, self._daemon]
        before = self._log.stat().st_size if self._log.exists() else 0
        begun = time.monotonic()
        notes = self._supervisor.start(self._daemon, argv, self._log)
        while time.monotonic() - begun < defaults.DAEMON_START_TIMEOUT:
            found = self.status()
            if found["state"] == "running":
                return {**found, "notes": [*self._notes, *notes]}
            if self._ended():
                break
            time.sleep(_POLL)
        words = why_it_ended(self._log, before if self._log.exists() and self._log.stat().st_size >= before else 0)
        raise RbeeError(
            f"The {self._daemon} did not start: {words or 'it said nothing'}",
            code="start_failed",
            mend=f"Its log is {self._log}.",
        )

    @staticmethod
    def _ended() -> bool:
        """Whether a daemon that is our child has ended; one that a supervisor started is given the whole time."""
        try:
            return os.waitpid(-1, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return False

    def _end(self) -> None:
        """By its supervisors, and then, whoever started it, by SIGTERM, a bounded wait, SIGKILL."""
        for supervisor in _all(self._supervisor):
            supervisor.stop(self._daemon)
        identity = running(self._paths, self._daemon)
        if identity is not None:
            process.stop(identity, defaults.DAEMON_DRAIN + _TIDY)


def _all(chosen: Supervisor) -> list[Supervisor]:
    """The chosen one and those that an earlier apply may have used. An explicit choice is left alone with it."""
    if os.environ.get("RBEE_SUPERVISOR"):
        return [chosen]
    others: list[Supervisor] = [Launchd()] if sys.platform == "darwin" else [SystemdUser(), Detached()]
    return [chosen, *(s for s in others if s.name != chosen.name)]


def perform(verb: str, daemon: str) -> dict[str, Any]:
    """Raises RbeeError."""
    supervisor, notes = choose(os.environ)
    service = Service(Paths.of_environment(), daemon, supervisor, notes)
    found: dict[str, Any] = getattr(service, verb)()
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rbee.adapters.service")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("daemon", choices=DAEMONS)
    said = parser.parse_args(argv)
    try:
        answer = perform(said.verb, said.daemon)
    except RbeeError as e:
        answer = {"error": e.message, "code": e.code, "mend": e.mend}
    except OSError as e:
        answer = {"error": f"{e.strerror or e}: {e.filename}", "code": "os_error", "mend": ""}
    sys.stdout.write("\nrbee: " + codec.encode(answer).decode() + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
