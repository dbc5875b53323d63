# SPDX-License-Identifier: GPL-3.0-or-later
"""Which store a queen has: what her settings say, with a name of her own among those that share it."""

from __future__ import annotations

import re
import secrets
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.secrets import BadSecret
from rbee.adapters.store.sqlite import SqliteJobStore
from rbee.contracts.configs import QueenConfig
from rbee.core.errors import RbeeError

if TYPE_CHECKING:
    from rbee.adapters.store.postgres import PostgresStore

_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}-[0-9a-f]{12}")


def store_of(config: QueenConfig, paths: Paths) -> SqliteJobStore | PostgresStore:
    """Not opened yet. Raises RbeeError: a URL or password file that cannot be used, no driver."""
    if config.store is None:
        return SqliteJobStore(paths.data / "queen.db")
    try:
        from rbee.adapters.store.postgres import PostgresStore
    except ImportError:
        raise RbeeError(
            "PostgreSQL's driver is not installed.",
            code="store_unusable",
            mend="Install rbee with its extra `postgres`.",
        ) from None
    password = load_password(Path(config.store_password_file)) if config.store_password_file else None
    return PostgresStore(config.store, name_of_queen(paths.data), password=password)


def name_of_queen(data: Path) -> str:
    """The same at each start on this machine; another on a copy of its disk under another name."""
    path = data / "queen.id"
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:80] or "queen"
    try:
        known = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        known = ""
    if _NAME.fullmatch(known) and known.rpartition("-")[0] == host:
        return known
    made = f"{host}-{secrets.token_hex(6)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made.encode() + b"\n", mode=0o600)
    return made


def load_password(path: Path) -> str:
    """Raises BadSecret with a mend: not there, open to others, empty."""
    path = path.expanduser()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise BadSecret(f"The file {path} with the database's password cannot be read: {why}.") from None
    if mode & 0o077:
        raise BadSecret(
            f"The file {path} with the database's password can be read by others (mode {mode:04o}).",
            mend=f"Run: chmod 600 {path}",
        )
    if not text or "\n" in text:
        raise BadSecret(f"The file {path} holds no password of the database: one line is expected.")
    return text
