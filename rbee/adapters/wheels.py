# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels of others, fetched on the controller for another machine's Python and platform, each by its hash.

What was fetched once is kept in `~/.cache/rbee/wheels/<sha256>.whl`; the same requirements for the same target need
no network again.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rbee.adapters.paths import write_atomic
from rbee.contracts import codec
from rbee.core.digest import digest
from rbee.core.errors import RbeeError
from rbee.fleet.ports import Target, Wheel

_MACHINES = {("linux", "arm64"): "aarch64"}
#: Oldest macOS that is served; wheels made for it and for older ones fit.
_MACOS = 12
FETCH_TIMEOUT = 900.0


def environment(target: Target) -> dict[str, str]:
    """The values of a requirement's markers on the target."""
    system, _, arch = target.platform.partition("-")
    linux = system == "linux"
    version = ".".join(map(str, target.python))
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": _MACHINES.get((system, arch), arch),
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux" if linux else "Darwin",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux" if linux else "darwin",
        "extra": "",
    }


def platform_tags(target: Target) -> list[str]:
    """Tags of the wheels that run there, best first."""
    system, _, arch = target.platform.partition("-")
    machine = _MACHINES.get((system, arch), arch)
    if system == "macos":
        newest = [f"macosx_{v}_0_{machine}" for v in range(_MACOS, 10, -1)]
        return newest + ([f"macosx_10_{v}_x86_64" for v in range(16, 8, -1)] if machine == "x86_64" else [])
    if target.libc == "musl":
        return [f"musllinux_1_{v}_{machine}" for v in (2, 1)]
    major, minor = target.libc_version
    tags = [f"manylinux_{major}_{v}_{machine}" for v in range(minor, 16, -1)]
    older = [(17, "manylinux2014"), (12, "manylinux2010"), (5, "manylinux1")]
    for at, name in older[: 3 if machine == "x86_64" else 1]:
        if minor >= at:
            tags += [f"manylinux_{major}_{at}_{machine}", f"{name}_{machine}"]
    return [*tags, f"linux_{machine}"]


def for_target(text: str, target: Target) -> list[str]:
    """Lines of a hash-locked requirements file that the target needs, without their markers.

    Raises RbeeError `bad_lock` for a line that is none, has no hash or is not pinned.
    """
    from packaging.requirements import InvalidRequirement, Requirement  # only who installs something needs it

    out = []
    for line in text.replace("\\\n", " ").splitlines():
        line = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not line:
            continue
        words, *hashes = re.split(r"\s+(?=--hash=)", line)
        try:
            wanted = Requirement(words)
        except InvalidRequirement as e:
            raise RbeeError(f"{words!r} is no requirement: {e}", code="bad_lock") from None
        if not hashes or not str(wanted.specifier).startswith("=="):
            raise RbeeError(f"{words!r} is not pinned to a version and hashes.", code="bad_lock")
        if wanted.marker is None or wanted.marker.evaluate(environment(target)):
            out.append(" ".join([f"{wanted.name}{wanted.specifier}", *(h.strip() for h in hashes)]))
    return out


class WheelStore:
    """Content-addressed wheels on this machine. Blocks; thread-safe, and safe beside other processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def put(self, name: str, data: bytes) -> Wheel:
        """Keep a wheel that was made here."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._root / f"{sha256}.whl"
        if not path.exists():
            write_atomic(path, data)
        return Wheel(name=name, sha256=sha256, size=len(data), path=path)

    def fetch(self, lines: Sequence[str], target: Target, *, index: str | None, find_links: str | None) -> list[Wheel]:
        """The wheels of these requirements (nothing else: no dependencies are looked up) for a target.

        Raises RbeeError `fetch_failed` with pip's own words: no network, no wheel for that target, a wrong hash.
        """
        key = digest([sorted(lines), platform_tags(target), target.python, index, find_links], 32)
        with self._guard:
            lock = self._locks[key]
        with lock:
            return self._known(key) or self._download(key, lines, target, index, find_links)

    def _known(self, key: str) -> list[Wheel] | None:
        try:
            listed = codec.decode(list[tuple[str, str, int]], (self._root / "lists" / f"{key}.json").read_bytes())
        except (OSError, codec.CodecError):
            return None
        found = [Wheel(name=n, sha256=s, size=size, path=self._root / f"{s}.whl") for n, s, size in listed]
        return found if all(w.path.is_file() and w.path.stat().st_size == w.size for w in found) else None

    def _download(
        self, key: str, lines: Sequence[str], target: Target, index: str | None, find_links: str | None
    ) -> list[Wheel]:
        self._root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self._root) as place:
            (Path(place) / "lock.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
            argv += ["--retries", "2"]
            argv += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", place]
            argv += ["--python-version", ".".join(map(str, target.python)), "--implementation", "cp"]
            argv += [word for tag in platform_tags(target) for word in ("--platform", tag)]
            argv += ["--index-url", index] if index else []
            argv += ["--find-links", find_links] if find_links else []
            argv += ["--requirement", f"{place}/lock.txt"]
            _run(argv, target)
            wheels = [self.put(path.name, path.read_bytes()) for path in sorted(Path(place).glob("*.whl"))]
        if len(wheels) != len(lines):
            raise RbeeError(f"{len(lines)} wheels were wanted and {len(wheels)} came.", code="fetch_failed")
        listed = codec.encode([(w.name, w.sha256, w.size) for w in wheels])
        write_atomic(self._root / "lists" / f"{key}.json", listed)
        return wheels


def _run(argv: list[str], target: Target) -> None:
    try:
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=FETCH_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise RbeeError(
            "The wheels did not come in time.", code="fetch_failed", mend="Is this machine online?"
        ) from None
    if done.returncode:
        words = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        shown = " ".join(words[-2:]) or done.stderr.strip()[-300:]
        version = ".".join(map(str, target.python))
        raise RbeeError(
            f"The packages for {target.platform}, Python {version}, cannot be fetched: {shown}",
            code="fetch_failed",
            mend="This machine must be online the first time; later applies use what it has kept.",
        )
