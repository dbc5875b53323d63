# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets out of texts, before they are logged, narrated, stored or sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "[redacted]"
#: Known secrets shorter than this are not searched for: they would hit ordinary words.
_SHORTEST = 8

_KEY_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]*)PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_USERINFO = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@'\"]+@")
_PAIR = re.compile(
    r"(?<![A-Za-z0-9])"
    r"((?:[A-Za-z0-9]+[_-])*(?:token|secret|password|passwd|passphrase|api[_-]?key|apikey|key|signature)"
    r"[\"']?\s*[=:]\s*[\"']?)"
    r"(?!\[redacted\])[^\s\"'&,;<>(){}\[\]]{3,}",
    re.IGNORECASE,
)
#: What signs or opens an address, where it has a name too short to be told from ordinary words elsewhere.
_QUERY = re.compile(r"([?&](?:sig|auth|jwt|pwd|pass)=)(?!\[redacted\])[^\s&#\"'<>]{6,}", re.IGNORECASE)
_KNOWN_SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,})")
#: Words without which none of the patterns can match: a cheap look before the dear ones.
_SUSPECT = re.compile(
    r"BEGIN |bearer|basic|://|token|secret|passw|passphrase|key|signature|hf_|sk-|gh[pousr]_"
    r"|[?&](?:sig|auth|jwt|pwd|pass)=",
    re.IGNORECASE,
)


class Redactor:
    """Hides what looks like a secret, and the very secrets given (the fleet's token)."""

    __slots__ = ("_known", "_known_bytes")

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(sorted((k for k in known if len(k) >= _SHORTEST), key=len, reverse=True))
        self._known_bytes = tuple(k.encode() for k in self._known)

    def __repr__(self) -> str:
        return f"Redactor({len(self._known)} known)"

    def text(self, text: str) -> str:
        """`text` with every secret replaced by `[redacted]`; applying it twice changes nothing more."""
        text = self.exact(text)
        if _SUSPECT.search(text) is None:
            return text
        text = _KEY_BLOCK.sub(HIDDEN, text)
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
        text = _BEARER.sub(rf"\1\2{HIDDEN}", text)
        text = _PAIR.sub(rf"\1{HIDDEN}", text)
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
        return _KNOWN_SHAPES.sub(HIDDEN, text)

    def exact(self, text: str) -> str:
        """Only the given secrets are hidden: for texts that are data (a model's answer), not ours."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text

    def data(self, data: bytes) -> bytes:
        """`exact` of a text in UTF-8, which may be large: the very same bytes when there is nothing to hide."""
        for secret in self._known_bytes:
            data = data.replace(secret, HIDDEN.encode())
        return data

    def value(self, value: Any, *, exact: bool = False) -> Any:
        """A JSON value with every text in it redacted; a text under a telling key is hidden whole."""
        if isinstance(value, str):
            return self.exact(value) if exact else self.text(value)
        if isinstance(value, Mapping):
            return {
                k: HIDDEN
                if not exact and isinstance(v, str) and v and is_telling(str(k))
                else self.value(v, exact=exact)
                for k, v in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(item, exact=exact) for item in value]
        return value


_TELLING = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|passphrase|api[_-]?key|apikey|private[_-]?key|authorization)$",
    re.IGNORECASE,
)


def is_telling(name: str) -> bool:
    """Whether a field of this name holds a secret (`token`, `api_key`); `token_file` and `tokens` do not."""
    return _TELLING.search(name) is not None


def redact(text: str, known: Iterable[str] = ()) -> str:
    """`Redactor(known).text(text)`, for one text."""
    return Redactor(known).text(text)
