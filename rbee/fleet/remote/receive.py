# SPDX-License-Identifier: GPL-3.0-or-later
"""Receive one big file: go on where it was cut off, hash while writing, rename into place when it is whole.

Parameters: `path`, `size`, `sha256`, `offset` (null: tell how much is here already; else the bytes from there on
follow on standard input).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

CHUNK = 2**20


def length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def hashed(path: Path) -> Any:
    made = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(CHUNK):
            made.update(chunk)
    return made


def need(place: Path, needed: int) -> None:
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 2**20:.0f} MB are needed and {free / 2**20:.0f} MB are free on", str(place)
        )


def receive(asked: dict[str, Any]) -> dict[str, Any]:
    path, size, offset = Path(asked["path"]), int(asked["size"]), asked["offset"]
    # The digest in its name: half of another file is never gone on with.
    part = path.parent / f".{path.name}.{asked['sha256'][:16]}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    if offset is None:
        if length(path) == size and path.is_file() and hashed(path).hexdigest() == asked["sha256"]:
            return {"done": True, "have": size}
        have = length(part)
        if have > size:
            part.unlink()
            have = 0
        need(path.parent, size - have)
        return {"done": False, "have": have}
    if length(part) != offset:
        return {"error": f"{part} changed meanwhile", "code": "changed"}
    made = hashed(part) if offset else hashlib.sha256()
    left = size - offset
    with part.open("ab") as f:
        while left:
            chunk = sys.stdin.buffer.read(min(left, CHUNK))
            if not chunk:
                return {"error": "the stream was cut off", "code": "cut_off"}
            f.write(chunk)
            made.update(chunk)
            left -= len(chunk)
        f.flush()
        os.fsync(f.fileno())
    if made.hexdigest() != asked["sha256"]:
        part.unlink()
        return {"error": "it arrived with another SHA-256", "code": "checksum"}
    part.replace(path)
    return {"done": True, "have": size}


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    try:
        answer = receive(asked)
    except OSError as e:
        answer = {"error": f"{e.strerror} {e.filename or asked['path']}", "code": "os_error", "errno": e.errno}
    sys.stdout.write("\nrbee: " + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
