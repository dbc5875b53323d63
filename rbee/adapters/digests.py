# SPDX-License-Identifier: GPL-3.0-or-later
"""SHA-256 of big local files, worked out once for each content: kept by path, size and modification time."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path

from rbee.adapters.paths import write_atomic
from rbee.contracts import codec

_CHUNK = 2**20
_MOST = 1000


class Digests:
    """Thread-safe. What cannot be kept (a full disk, a damaged cache) is worked out again, never an error."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / "digests.json"
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, codec.CodecError):
            self._known = codec.decode(dict[str, str], self._file.read_bytes())

    def of(self, source: Path) -> str:
        """Hex digest of the file at `source`. Blocks while it is read. Raises OSError."""
        found = source.stat()
        key = f"{source.resolve()}|{found.st_size}|{found.st_mtime_ns}"
        with self._lock:
            if key not in self._known:
                made = hashlib.sha256()
                with source.open("rb") as f:
                    while chunk := f.read(_CHUNK):
                        made.update(chunk)
                self._keep(key, made.hexdigest())
            return self._known[key]

    def _keep(self, key: str, value: str) -> None:
        stem = key.rsplit("|", 2)[0] + "|"
        kept = {k: v for k, v in self._known.items() if not k.startswith(stem)}
        self._known = {**dict(list(kept.items())[-_MOST:]), key: value}
        with contextlib.suppress(OSError):
            write_atomic(self._file, codec.encode_pretty(self._known))
