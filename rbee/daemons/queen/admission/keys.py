# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of clients, read from their files and found by their digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rbee.adapters.secrets import MAKE_KEY, BadSecret, Token, load_token
from rbee.core.spec_queen import KeySpec


class Key(NamedTuple):
    """Whose key it is. The key itself is not kept, only its SHA-256."""

    name: str
    digest: bytes


class Keys:
    """By digest: many keys cost no more than one, and how long it takes tells nothing of them."""

    __slots__ = ("_by_digest",)

    def __init__(self, found: Mapping[str, Token]) -> None:
        """Raises BadSecret when two names have the same key: whose request would it be?"""
        self._by_digest: dict[bytes, Key] = {}
        for name, token in found.items():
            digest = digest_of(token.reveal())
            other = self._by_digest.setdefault(digest, Key(name, digest))
            if other.name != name:
                raise BadSecret(f"{other.name!r} and {name!r} have the same key.", mend="Give each a key of its own.")

    def whose(self, said: str) -> str | None:
        """The name that goes with a key; None: it is nobody's."""
        digest = digest_of(said)
        found = self._by_digest.get(digest)
        return found.name if found is not None and hmac.compare_digest(found.digest, digest) else None


def digest_of(said: str) -> bytes:
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).digest()


def read_keys(specs: Mapping[str, KeySpec]) -> dict[str, Token]:
    """What stands in the key files, by the keys' names. Raises BadSecret that names the key: a file is missing, open
    to others, or holds no key."""
    found = {}
    for name, spec in specs.items():
        try:
            found[name] = load_token(Path(spec.key_file), f"key file of {name!r}", "key", MAKE_KEY)
        except BadSecret as e:
            raise BadSecret(e.message, code="bad_key_file", mend=e.mend) from None
    return found
