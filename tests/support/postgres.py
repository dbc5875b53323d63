# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL of this machine's packages: one cluster for the whole session, a database for each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.ports import free_port

#: Quick, and good enough for data that nobody needs after the test.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "80",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
}
PASSWORD = "a-password-of-the-tests"
USER = "rbee"


def binaries() -> Path | None:
    """Where Debian (or PATH) has initdb, postgres and pg_ctl."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parent.parent.name))
    if found:
        return found[-1].parent
    there = shutil.which("postgres")
    return Path(there).parent if there and shutil.which("initdb") else None


def _somebody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it runs as Debian's own user for it."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


class Cluster:
    """A running server. `stop` and `start` again keep its port and its data."""

    def __init__(self, root: Path) -> None:
        found = binaries()
        assert found is not None
        self._bin, self._root, self._data = found, root, root / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        root.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(root, "postgres")
        (root / "password").write_text(PASSWORD)
        (root / "password").chmod(0o644)
        self._run("initdb", "-D", str(self._data), "-U", USER, "-A", "scram-sha-256", "-N", "-E", "UTF8", "--locale=C",
                  f"--pwfile={root / 'password'}")  # fmt: skip
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._bin / program, *arguments], check=True, capture_output=True, cwd="/", **_somebody())

    def start(self) -> None:
        settings = [x for name, value in SETTINGS.items() for x in ("-c", f"{name}={value}")]
        where = ["-D", str(self._data), "-p", str(self.port), "-k", str(self._root)]
        log = (self._root / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", *where, *settings],
                stdout=log, stderr=log, **_somebody(), cwd="/",
            )  # fmt: skip
        end = time.monotonic() + 30
        while True:
            try:
                self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
                return
            except subprocess.CalledProcessError:
                assert self._process.poll() is None, (self._root / "log").read_text()
                assert time.monotonic() < end, "PostgreSQL did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        """At once; as a crash for those who are connected."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: immediate
            self._process.wait(30)
            self._process = None

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    async def ask(self, database: str, text: str, *values: Any) -> list[Any]:
        db = await asyncpg.connect(self.url(database), password=PASSWORD)
        try:
            return list(await db.fetch(text, *values))
        finally:
            await db.close()

    async def make(self) -> str:
        """A new database; its name."""
        name = f"t_{uuid.uuid4().hex}"
        await self.ask("template1", f'CREATE DATABASE "{name}"')
        return name


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    # A short path: its socket's must be short too.
    root = Path(tempfile.mkdtemp(prefix="rbee-pg-", dir="/tmp"))
    made: Cluster | None = None
    try:
        made = Cluster(root)
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(root, ignore_errors=True)
