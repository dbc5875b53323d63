# SPDX-License-Identifier: GPL-3.0-or-later
"""Who keeps a daemon running on this machine, without root: systemd --user, launchd, or a detached process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rbee.adapters import process, service_texts
from rbee.adapters.paths import write_atomic
from rbee.contracts import defaults
from rbee.core.errors import RbeeError

#: Chooses one by name instead of by looking: systemd-user, launchd, detached (then nothing is put into crontab).
VARIABLE = "RBEE_SUPERVISOR"


class Supervisor(Protocol):
    name: str

    def start(self, daemon: str, argv: Sequence[str], log: Path) -> list[str]:
        """Start it (again, with these words), now and at each boot; notes for the person. Raises RbeeError."""
        ...

    def stop(self, daemon: str) -> None:
        """Ask it to end and not to come back before the next `start`."""
        ...

    def forget(self, daemon: str) -> None:
        """Remove what `start` left for the next boot."""
        ...


def command(*argv: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a system's tool. A tool that is missing or hangs counts as failed (status 127)."""
    try:
        return subprocess.run(argv, check=False, capture_output=True, text=True, input=input, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(argv, 127, "", str(e))


def clean_environment() -> dict[str, str]:
    """Ours, without what belongs to this login or to the `rbee` command."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SSH_") and k != "RBEE_CONFIG"}


class SystemdUser:
    name = "systemd-user"

    def __init__(self) -> None:
        # The user manager's own place, whatever XDG_CONFIG_HOME says to us.
        self._units = Path.home() / ".config" / "systemd" / "user"

    def start(self, daemon: str, argv: Sequence[str], log: Path) -> list[str]:
        unit = service_texts.systemd_unit(daemon, argv, service_texts.kept(os.environ), str(log))
        write_atomic(self._units / self._unit(daemon), unit.encode(), mode=0o600)
        for words in (("daemon-reload",), ("reset-failed", self._unit(daemon)), ("enable", self._unit(daemon))):
            command("systemctl", "--user", *words)
        done = command("systemctl", "--user", "restart", self._unit(daemon))
        if done.returncode:
            raise RbeeError(f"systemd could not start the {daemon}: {done.stderr.strip()}", code="supervisor")
        return []

    def stop(self, daemon: str) -> None:
        if (self._units / self._unit(daemon)).exists():
            command("systemctl", "--user", "stop", self._unit(daemon))

    def forget(self, daemon: str) -> None:
        unit = self._units / self._unit(daemon)
        if unit.exists():
            command("systemctl", "--user", "disable", self._unit(daemon))
            unit.unlink(missing_ok=True)
            command("systemctl", "--user", "daemon-reload")

    @staticmethod
    def _unit(daemon: str) -> str:
        return f"rbee-{daemon}.service"


class Launchd:
    name = "launchd"

    def start(self, daemon: str, argv: Sequence[str], log: Path) -> list[str]:
        plist = service_texts.launchd_plist(self._label(daemon), argv, service_texts.kept(os.environ), str(log))
        self.stop(daemon)
        write_atomic(self._file(daemon), plist, mode=0o600)
        done = command("launchctl", "bootstrap", self._domain, str(self._file(daemon)))
        if done.returncode:
            raise RbeeError(f"launchd could not start the {daemon}: {done.stderr.strip()}", code="supervisor")
        return []

    def stop(self, daemon: str) -> None:
        command("launchctl", "bootout", f"{self._domain}/{self._label(daemon)}")

    def forget(self, daemon: str) -> None:
        self._file(daemon).unlink(missing_ok=True)

    @property
    def _domain(self) -> str:
        # Over SSH there may be no desktop session; the user's background domain is always there.
        gui = f"gui/{os.getuid()}"
        return gui if command("launchctl", "print", gui).returncode == 0 else f"user/{os.getuid()}"

    @staticmethod
    def _label(daemon: str) -> str:
        return f"org.rbee.{daemon}"

    def _file(self, daemon: str) -> Path:
        return Path.home() / "Library" / "LaunchAgents" / f"{self._label(daemon)}.plist"


class Detached:
    """A session of its own; `@reboot` in the user's crontab, where there is one, starts it again."""

    name = "detached"

    def __init__(self, *, crontab: bool = True) -> None:
        self._crontab = crontab and shutil.which("crontab") is not None

    def start(self, daemon: str, argv: Sequence[str], log: Path) -> list[str]:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > defaults.LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        process.spawn_detached(argv, log=log, env=clean_environment())
        again = [sys.executable, "-m", "rbee.adapters.service", "start", daemon]
        line = service_texts.crontab_line(daemon, again, service_texts.kept(os.environ))
        if self._crontab and not self._write(daemon, line):
            return [f"The {daemon} will not start by itself after a reboot: your crontab cannot be written."]
        return []

    def stop(self, daemon: str) -> None:
        return  # by its pid, as `service` does for every daemon

    def forget(self, daemon: str) -> None:
        if self._crontab:
            self._write(daemon, None)

    @staticmethod
    def _write(daemon: str, line: str | None) -> bool:
        listed = command("crontab", "-l")
        # Status 1 with "no crontab for" is an empty one; anything else must not be overwritten.
        if listed.returncode not in (0, 1) or (listed.returncode == 1 and "no crontab" not in listed.stderr.lower()):
            return False
        before = listed.stdout if listed.returncode == 0 else ""
        after = service_texts.with_line(before, daemon, line)
        return after == before or command("crontab", "-", input=after).returncode == 0


def choose(environ: Mapping[str, str]) -> tuple[Supervisor, list[str]]:
    """The best one here, and notes on what would be better. May turn linger on (needs no root on most systems)."""
    said = environ.get(VARIABLE, "")
    known: dict[str, Supervisor] = {
        "systemd-user": SystemdUser(), "launchd": Launchd(), "detached": Detached(crontab=False)
    }  # fmt: skip
    if said:
        if said not in known:
            raise RbeeError(f"{VARIABLE}={said} is not one of {', '.join(known)}.", code="invalid_request")
        return known[said], []
    if sys.platform == "darwin":
        return Launchd(), []
    runtime = Path(f"/run/user/{os.getuid()}")
    if "XDG_RUNTIME_DIR" not in os.environ and runtime.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    if command("systemctl", "--user", "show-environment").returncode == 0:
        user = command("id", "-un").stdout.strip()
        if Path(f"/var/lib/systemd/linger/{user}").exists() or command("loginctl", "enable-linger").returncode == 0:
            return SystemdUser(), []
        return Detached(), [
            f"systemd would stop {user}'s daemons at logout (no linger), so a detached process is used. An "
            f"administrator can change that once: sudo loginctl enable-linger {user}"
        ]
    return Detached(), []
