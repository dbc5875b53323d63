# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of plain values: equal values, equal digests, on every machine and every run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"cannot digest a {type(value).__name__}")


def digest(value: Any, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of the value's canonical JSON (sorted keys, no spaces).

    Raises TypeError for what has no canonical JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
