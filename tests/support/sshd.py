# SPDX-License-Identifier: GPL-3.0-or-later
"""A real sshd of a test's own, on loopback, with its own keys; skipped by name where there is none."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def make_key(path: Path, kind: str = "ed25519") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", path.name, "-f", str(path)], check=True)
    return path


@dataclass
class Sshd:
    """`config` is an ssh config with a Host for each sshd made; the user's own files are never looked at."""

    home: Path
    config: Path
    known_hosts: Path
    key: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @classmethod
    def make(cls, home: Path) -> Sshd:
        if SSHD is None or shutil.which("ssh-keygen") is None:
            reason = "this machine has no sshd (apt-get install openssh-server)"
            if os.environ.get("RBEE_LAB") == "require":  # CI: a missing install step is a failure, not a skip
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        home.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        made = cls(home, home / "config", home / "known_hosts", make_key(home / "id"))
        made.config.write_text("")
        made.known_hosts.write_text("# written by a test\n")
        return made

    def start(
        self,
        name: str,
        *,
        environment: dict[str, str] | None = None,
        jump: str = "",
        trust: bool = True,
        more: str = "",
    ) -> int:
        """Start one more and name it in the config; `trust` puts its host key into known_hosts, `more` is
        a line of its sshd_config."""
        place = self.home / name
        place.mkdir()
        key = make_key(place / "host_key")
        port = free_port()
        settings = [
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {key}",
            f"AuthorizedKeysFile {self.key}.pub",
            f"PidFile {place / 'pid'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            *([more] if more else []),
            *(["SetEnv " + " ".join(f"{k}={v}" for k, v in environment.items())] if environment else []),
        ]
        (place / "sshd_config").write_text("\n".join(settings) + "\n")
        log = (place / "log").open("wb")
        with log:
            child = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(place / "sshd_config")], stderr=log)
        self.processes.append(child)
        self._wait(port, child, place)
        if trust:
            self.trust(port, key)
        with self.config.open("a") as f:
            f.write(f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n")
            f.write(f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n")
            f.write(f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n")
            if jump:
                f.write(f"  ProxyJump {jump}\n")
        return port

    def trust(self, port: int, key: Path) -> None:
        kind, blob = key.with_suffix(".pub").read_text().split()[:2]
        with self.known_hosts.open("a") as f:
            f.write(f"[127.0.0.1]:{port} {kind} {blob}\n")

    @staticmethod
    def _wait(port: int, child: subprocess.Popen[bytes], place: Path) -> None:
        end = time.monotonic() + 10
        while child.poll() is None and time.monotonic() < end:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"sshd did not start: {(place / 'log').read_text()}")

    def stop(self) -> None:
        for child in self.processes:
            child.terminate()
            child.wait()
