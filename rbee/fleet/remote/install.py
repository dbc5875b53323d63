# SPDX-License-Identifier: GPL-3.0-or-later
"""Install a bundle of wheels as one directory, without internet and without pip.

Parameters: `directory` (where it ends up), `store` (kept wheels, by SHA-256), `wheels` ([{name, sha256, size}]),
`metadata` (of the installed directory; `{path}`, `{python}`, `{size}`, `{now}` are filled in), `stream` (SHA-256s of
the wheels that follow on standard input, in order; null: none do, and what is missing is answered), `prune`
({fleet, keep}: older ones of that fleet that may go, but for those to keep; or null). A directory is
there whole or not at all: it is made beside its place and renamed. Python's own `venv`, wheels unzipped, every file
checked against its RECORD.
"""

from __future__ import annotations

import base64
import compileall
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import shlex
import shutil
import sys
import time
import venv
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

#: Of the unpacked size: compiled files and a file system's rounding.
OVERHEAD = 1.6


class Refused(Exception):
    """Something that was sent is not what it should be."""


def receive(store: Path, wheels: list[dict[str, Any]], stream: list[str]) -> None:
    """Take the wheels that follow into the store; one with another digest is refused and not kept."""
    by_digest = {w["sha256"]: w for w in wheels}
    for sha256 in stream:
        wheel = by_digest[sha256]
        part = store / f"{sha256}.part"
        got, left = hashlib.sha256(), int(wheel["size"])
        try:
            with part.open("wb") as f:
                while left:
                    chunk = sys.stdin.buffer.read(min(left, 2**20))
                    if not chunk:
                        raise Refused(f"{wheel['name']} was cut off")
                    got.update(chunk)
                    f.write(chunk)
                    left -= len(chunk)
                f.flush()
                os.fsync(f.fileno())
            if got.hexdigest() != sha256:
                raise Refused(f"{wheel['name']} arrived with another SHA-256 ({got.hexdigest()})")
            part.replace(store / f"{sha256}.whl")
        finally:
            part.unlink(missing_ok=True)


def kept(store: Path, wheel: dict[str, Any]) -> bool:
    try:
        return (store / f"{wheel['sha256']}.whl").stat().st_size == int(wheel["size"])
    except OSError:
        return False


def destination(name: str) -> PurePosixPath | None:
    """Where in site-packages a member belongs; None for what is not needed (scripts, headers). Raises Refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Refused(f"a wheel has a file that would escape: {name!r}")
    if path.parts[0].endswith(".data"):
        return PurePosixPath(*path.parts[2:]) if path.parts[1] in ("purelib", "platlib") else None
    return path


def unpack(wheel: Path, name: str, site: Path) -> None:
    """Unzip a wheel, each file checked by its RECORD; a file that is not in it is refused."""
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        records = [m for m in members if m.filename.endswith(".dist-info/RECORD") and m.filename.count("/") == 1]
        if len(records) != 1:
            raise Refused(f"{name} has no RECORD")
        said = {row[0]: row[1] for row in csv.reader(io.StringIO(archive.read(records[0]).decode())) if row}
        for member in members:
            place = destination(member.filename)
            data = archive.read(member)
            if member is not records[0] and not member.filename.endswith((".jws", ".p7s")):
                kind, _, told = said.get(member.filename, "").partition("=")
                if kind != "sha256":
                    raise Refused(f"{name}: {member.filename} is not in its RECORD with a SHA-256")
                if base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=") != told:
                    raise Refused(f"{name}: {member.filename} is not as its RECORD says")
            if place is not None:
                target = site / place
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                if member.external_attr >> 16 & 0o111:
                    target.chmod(0o755)


def unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(m.file_size for m in archive.infolist())


def need(place: Path, needed: float) -> None:
    """Raises OSError (no space) before anything is written, with the figures."""
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 2**20:.0f} MB are needed and {free / 2**20:.0f} MB are free on", str(place)
        )


def build(asked: dict[str, Any], place: Path) -> None:
    """Make the whole directory at a temporary place."""
    final, store = Path(asked["directory"]), Path(asked["store"])
    venv.EnvBuilder(with_pip=False, symlinks=True).create(place)
    own = place / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for name in ("python", "python3", own.name):
        link = place / "bin" / name
        # Straight to the real file: when an upgrade of the system takes it away, everyone sees that.
        link.unlink(missing_ok=True)
        link.symlink_to(base)
    for script in [*place.glob("bin/[aA]ctivate*")]:
        script.unlink()  # they name the temporary place
    site = place / "lib" / own.name / "site-packages"
    for wheel in asked["wheels"]:
        unpack(store / f"{wheel['sha256']}.whl", wheel["name"], site)
    if (site / "rbee" / "cli" / "daemons.py").is_file():
        tool(place / "bin" / "rbee-hive", final / "bin" / "python")
    compileall.compile_dir(
        site, maxlevels=50, quiet=2, stripdir=str(place), prependdir=str(final), workers=1, force=True
    )
    size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file() and not p.is_symlink())
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    values = {"{path}": str(final), "{python}": str(final / "bin" / "python"), "{size}": size, "{now}": now}
    (place / "metadata.json").write_text(json.dumps(fill(asked["metadata"], values), indent=2) + "\n")


def tool(script: Path, python: Path) -> None:
    """What a person on that machine types to ask its hive. By a shell: a path may be too long for `#!`, or hold a
    space."""
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -m rbee.cli.daemons hive "$@"\n')
    script.chmod(0o755)


def fill(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {k: fill(v, values) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, values) for v in value]
    return values.get(value, value) if isinstance(value, str) else value


def flush(place: Path) -> None:
    """All that was written below `place` to the disk, with one call where the system has it."""
    fd = os.open(place, os.O_RDONLY)
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    except (ImportError, AttributeError, OSError):
        os.sync()
    finally:
        os.close(fd)


def in_use(place: Path) -> bool:
    """Whether a process was started from there: a worker that outlived an upgrade still runs from the old release."""
    found = list(Path("/proc").glob("[0-9]*/cmdline"))
    for file in found:
        try:
            if str(place).encode() + b"/" in file.read_bytes():
                return True
        except OSError:
            continue
    return not found  # without /proc nobody can tell: then it stays


def prune(folder: Path, fleet: str, keep: list[str]) -> list[str]:
    """Remove what this fleet put there and nobody needs any more; what bears another mark, or none, stays."""
    removed = []
    for file in folder.glob("[!.]*/metadata.json"):
        try:
            mark = json.loads(file.read_text()).get("mark") or {}
        except (OSError, ValueError):
            continue
        if mark.get("fleet") == fleet and file.parent.name not in keep and not in_use(file.parent):
            shutil.rmtree(file.parent, ignore_errors=True)
            removed.append(file.parent.name)
    return removed


def install(asked: dict[str, Any]) -> dict[str, Any]:
    final, store = Path(asked["directory"]), Path(asked["store"])
    for folder in (store, final.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with (final.parent / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stream = asked.get("stream")
        missing = [w for w in asked["wheels"] if not kept(store, w)]
        if stream is None and missing:
            need(store, sum(w["size"] for w in missing) * 5)
            return {"missing": [w["sha256"] for w in missing]}
        receive(store, asked["wheels"], stream or [])
        for left in final.parent.glob(".*.making"):
            shutil.rmtree(left, ignore_errors=True)
        need(final.parent, OVERHEAD * sum(unpacked_size(store / f"{w['sha256']}.whl") for w in asked["wheels"]))
        place = final.parent / f".{final.name}.making"
        try:
            build(asked, place)
            flush(place)
            if final.exists():
                shutil.rmtree(final)
            place.rename(final)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        old = asked.get("prune")
        removed = prune(final.parent, old["fleet"], [final.name, *old["keep"]]) if old else []
    return {"installed": str(final), "removed": removed}


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    try:
        answer = install(asked)
    except Refused as e:
        answer = {"error": str(e), "code": "bad_bundle"}
    except zipfile.BadZipFile as e:
        answer = {"error": f"a wheel is broken: {e}", "code": "bad_bundle"}
    except OSError as e:
        answer = {"error": f"{e.strerror} {e.filename or asked['directory']}", "code": "os_error", "errno": e.errno}
    sys.stdout.write("\nrbee: " + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
