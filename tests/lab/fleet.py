# SPDX-License-Identifier: GPL-3.0-or-later
"""The real `rbee` against lab hosts: a user's home on this machine whose ssh knows the hosts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ports import free_port, free_range
from tests.support.rbee_cli import Ran, RbeeHome
from tests.support.waiting import until

from .hosts import Host
from .lab import Lab
from .shell import LabError

#: Wheels that all labs of this user share: they are the same every time and are fetched once.
WHEELS = Path(os.environ.get("RBEE_LAB_WHEELS", "~/.cache/rbee-lab/wheels")).expanduser()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    hive: str
    text: str


class Applying:
    """An `rbee apply -o json` that runs meanwhile: wait for one of its events, do harm, see how it ends."""

    def __init__(self, home: RbeeHome, *args: str) -> None:
        self.process = home.start("apply", "--auto-approve", "-o", "json", *args)
        self.events: list[dict[str, Any]] = []
        self._errors: list[bytes] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._out, self._err)]
        for reader in self._readers:
            reader.start()

    def _out(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.events.append(json.loads(line))

    def _err(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._errors += lines

    def until(self, type: str, seconds: float = 60, **about: Any) -> dict[str, Any]:
        """The first event of that type with those fields."""
        wanted = {"type": type, **about}

        def seen() -> dict[str, Any] | None:
            found = next((e for e in self.events if wanted.items() <= e.items()), None)
            assert found or self._readers[0].is_alive(), f"it ended without {wanted}: {self.events}\n{self._errors!r}"
            return found

        event: dict[str, Any] = until(seen, f"{wanted}", seconds)
        return event

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, rc: int | None = None, seconds: float = 120) -> Ran:
        """Wait for its end; another status than `rc` is a failure that shows all events."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it does not end: {self.events[-20:]}") from None
        for reader in self._readers:
            reader.join(10)
        ran = Ran(code, "\n".join(map(json.dumps, self.events)), b"".join(self._errors).decode())
        assert rc is None or code == rc, f"{code}\n{ran.out}\n{ran.err}"
        return ran


@dataclass(slots=True)
class Fleet:
    """`home.run("apply", ...)` acts on the lab's hosts."""

    lab: Lab
    home: RbeeHome

    def write(
        self,
        hosts: Sequence[str],
        *,
        more: str = "",
        hive_more: str = "",
        ssh: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        """One model and one worker for each host (`m-h1`, `w-h1`), so that each can be asked by name.

        `ssh` and `sources` say, by host, how it is reached and where its model is from.
        """
        ways, from_where = ssh or {}, sources or {}
        lines = [
            "version: 1",
            f"fleet: {name or self.lab.id}",
            f'queen: {{listen: "127.0.0.1:{self.home.queen}"}}',
            "hives:",
        ]
        lines += [f"  {h}: {{ssh: {ways.get(h, h)}{hive_more}}}" for h in hosts]
        lines += ["models:", *(f"  m-{h}: {{source: '{from_where.get(h, 'builtin:bee-tiny')}'}}" for h in hosts)]
        lines += ["workers:"]
        lines += [f"  w-{h}: {{model: m-{h}, hive: {h}, device: cpu, options: {{context_length: 256}}}}" for h in hosts]
        self.home.yaml.write_text("\n".join([*lines, more]) + "\n")

    def apply(self, rc: int | None = 0, *args: str) -> Any:
        return self.home.run("apply", "--auto-approve", *args, rc=rc, timeout=300)

    def applying(self, *args: str) -> Applying:
        return Applying(self.home, *args)

    def plan(self, *args: str) -> Ran:
        """`rbee plan -o json`."""
        return self.home.run("plan", "-o", "json", *args)

    def ask(self, host: str) -> Answer:
        """One answer of a host's own worker, through the queen."""
        body = {"model": f"m-{host}", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.home.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found = json.load(answer)
                return Answer(answer.status, answer.headers["X-Rbee-Hive"], found["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as e:
            with e:
                return Answer(e.code, "", e.read().decode())

    def asks_well(self, host: str, seconds: float = 40) -> Answer:
        """Ask until it is answered; a failure names the host."""
        last: list[Answer] = []

        def answered() -> Answer | None:
            last.append(self.ask(host))
            return last[-1] if last[-1].status == 200 and last[-1].text else None

        try:
            answer: Answer = until(answered, f"an answer from {host}", seconds)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{last[-1]}\n{self.home.run('status').out}\n{self.logs(host)}") from None
        return answer

    def logs(self, host: str) -> str:
        command = "tail -n 20 ~/.local/state/rbee/*.log ~/.local/state/rbee/workers/*/*.log"
        return self.lab.hosts[host].exec(["sh", "-c", f"HOME=/home/bee; {command}"], check=False).stdout

    def left(self, host: str) -> list[str]:
        """Every file of rbee's on a host, logs and lock files not counted."""
        command = "find /home/bee -path '*rbee*' -type f ! -name '*.log' ! -name '*.lock' | sort"
        return self.lab.hosts[host].exec(["sh", "-c", command], user="root").stdout.split()

    def pids(self, host: str) -> dict[str, list[int]]:
        """Pids on a host of its hive, its workers and their engines."""
        found: dict[str, list[int]] = {"hive": [], "worker": [], "engine": []}
        for process in self.lab.hosts[host].processes():
            line = " ".join(process.argv)
            if "xllamacpp_server.py" in line and "guard.py" not in line:
                found["engine"].append(process.pid)
            elif "rbee.cli.daemons" in line:
                found["worker" if " worker" in line else "hive"].append(process.pid)
        return found


@contextlib.contextmanager
def fleet_of(lab: Lab, root: Path, *, wipe: bool = True) -> Iterator[Fleet]:
    """A user's home for the lab; at its end everything of it on hosts and here is gone (on hosts: if `wipe`)."""
    home = RbeeHome(root, queen=free_port(), hive=free_port(), ports=free_range(4))
    home.extra_env = {"HOME": str(lab.home), "PIP_CACHE_DIR": str(WHEELS.parent / "pip")}
    WHEELS.mkdir(parents=True, exist_ok=True)
    cache = root / "cache" / "rbee"
    cache.mkdir(parents=True)
    (cache / "wheels").symlink_to(WHEELS)
    try:
        yield Fleet(lab, home)
    finally:
        home.close()
        if wipe:
            with ThreadPoolExecutor() as pool:
                list(pool.map(_wipe, lab.hosts.values()))


def _wipe(host: Host) -> None:
    for process in host.processes():
        if "rbee" in " ".join(process.argv):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.outer, signal.SIGKILL)
    folders = [f"/home/bee/{p}/rbee" for p in (".config", ".cache", ".local/share", ".local/state")]
    with contextlib.suppress(LabError):
        host.exec(["rm", "-rf", *folders], user="root", check=False)
