# SPDX-License-Identifier: GPL-3.0-or-later
"""Token files: made, written with mode 0600 from their first byte on, and read only when nobody else can."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from rbee.adapters.paths import write_atomic
from rbee.core.errors import RbeeError

#: Shorter ones can be guessed.
MIN_LENGTH = 16
#: Longer ones fit in no header.
_LONGEST = 4096
#: How to make a key for a client.
MAKE_KEY = "Make one: (umask 077; openssl rand -hex 32 > FILE)."


class BadSecret(RbeeError):
    """A token file is missing, unreadable, open to others or holds no token."""

    code = "bad_token_file"


class Token:
    """The fleet's secret. Never shown: `repr` and `str` are redacted; `reveal` is for the wire only."""

    __slots__ = ("_bytes", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode()

    def matches(self, said: str) -> bool:
        """Whether `said` is this token, in a time that tells nothing of where they differ."""
        return hmac.compare_digest(self._bytes, said.encode("utf-8", "surrogateescape"))

    def reveal(self) -> str:
        return self._text

    @property
    def header(self) -> dict[str, str]:
        """The header that shows it to another daemon."""
        return {"Authorization": f"Bearer {self._text}"}

    def __repr__(self) -> str:
        return "Token([redacted])"


def make_token() -> str:
    """A new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def write_secret(path: Path, text: str) -> None:
    """Writes `text` to `path`, readable by its owner only. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode() + b"\n", mode=0o600)


def load_token(
    path: Path, what: str = "token file", holds: str = "token", mend: str = "`rbee apply` makes one."
) -> Token:
    """The token in `path`. Raises BadSecret with a mend: not there, others can read it, empty, or too short.

    `what`, `holds` and `mend` (when it is not there) are for what a person is told.
    """
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LONGEST + 1).decode().strip()
    except FileNotFoundError:
        raise BadSecret(f"The {what} {path} does not exist.", mend=mend) from None
    except (OSError, UnicodeDecodeError) as e:
        raise BadSecret(f"The {what} {path} cannot be read: {e}.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadSecret(
            f"The {what} {path} can be read by others (mode {stat.S_IMODE(mode):04o}).",
            mend=f"Run: chmod 600 {path}",
        )
    if not MIN_LENGTH <= len(text) <= _LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        raise BadSecret(
            f"The {what} {path} holds no usable {holds} (at least {MIN_LENGTH} printable characters, no spaces).",
            mend=f"Put one there. {mend}" if holds != "token" else f"Put one there, or remove the file: {mend}",
        )
    return Token(text)
