# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading OpenSSH's known_hosts files, with line numbers for people. Nothing here writes one."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["known", "changed", "revoked", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A key that a file says a host has. `marker` is empty, `@revoked` or `@cert-authority`."""

    file: str
    number: int
    marker: str
    key_type: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`line` is the one that decided: the key itself, its revocation, or the first other key of that host."""

    verdict: Verdict
    line: Line | None = None


def host_token(host: str, port: int) -> str:
    """How known_hosts names a host: `[host]:port`, or only the host for port 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def names(pattern_list: str, token: str) -> bool:
    """Whether the first field of a line means this host: hashed, or patterns of which none negates it."""
    if pattern_list.startswith("|1|"):
        try:
            salt, told = (base64.b64decode(part) for part in pattern_list.split("|")[2:4])
        except ValueError:
            return False
        return hmac.compare_digest(hmac.new(salt, token.encode(), hashlib.sha1).digest(), told)
    found = False
    for pattern in pattern_list.lower().split(","):
        # Brackets are part of a name here, not a set of characters.
        plain = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(token, plain):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def lines_for(files: Iterable[Path], token: str) -> list[Line]:
    """Every line about a host, in order; files that are not there or not readable have none."""
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            fields = line.split()
            marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
            if len(fields) >= 3 and not fields[0].startswith("#") and names(fields[0], token):
                found.append(Line(file=str(file), number=number, marker=marker, key_type=fields[1], key=fields[2]))
    return found


def judge(lines: Iterable[Line], key_type: str, key: str) -> Judgement:
    """What the lines about a host say of the key it showed. A revoked key stays refused wherever else it is."""
    lines = list(lines)
    same = [line for line in lines if line.key == key]
    revoked = next((line for line in same if line.marker == "@revoked"), None)
    if revoked:
        return Judgement(verdict="revoked", line=revoked)
    known = next((line for line in same if not line.marker), None)
    if known:
        return Judgement(verdict="known", line=known)
    others = [line for line in lines if not line.marker]
    other = next((line for line in others if line.key_type == key_type), next(iter(others), None))
    return Judgement(verdict="changed" if other else "unknown", line=other)


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
