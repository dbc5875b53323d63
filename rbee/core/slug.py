# SPDX-License-Identifier: GPL-3.0-or-later
"""Folder names made of ids: readable, and never more than one harmless path component."""

from __future__ import annotations

import hashlib
import re

LONGEST = 100


def slug(name: str) -> str:
    """A folder name for an id: `meta-llama/Llama-2-7b` becomes `meta-llama-Llama-2-7b-` and 8 hex digits.

    A name of safe characters (`A-Za-z0-9._-`, no leading dot, at most 100) is its own slug. Any other gets a digest
    at its end, so that two ids never share a folder, and no id escapes from its root.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:LONGEST]
    if safe == name and name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe}-{digest}" if safe else f"id-{digest}"
