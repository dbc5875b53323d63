# SPDX-License-Identifier: GPL-3.0-or-later
"""known_hosts lines: which host they mean, and what they say of a key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rbee.adapters.known_hosts import Line, fingerprint, host_token, judge, lines_for, names
from rbee.adapters.ssh_open import parse_hop
from rbee.core.errors import RbeeError
from rbee.core.spec import Ssh


@pytest.mark.parametrize(
    ("patterns", "token", "meant"),
    [
        ("host", "host", True),
        ("HOST", "host", True),
        ("host", "[host]:2222", False),
        ("[host]:2222", "[host]:2222", True),
        ("h", "[h]:22", False),
        ("a,b,c", "b", True),
        ("*.example.org", "x.example.org", True),
        ("*.example.org,!y.example.org", "y.example.org", False),
        ("!y,*", "y", False),
        ("10.0.0.?", "10.0.0.7", True),
        ("|1|not base64|x", "host", False),
        ("|1|", "host", False),
    ],
)
def test_names(patterns: str, token: str, meant: bool) -> None:
    assert names(patterns, token) is meant


def test_tokens() -> None:
    assert host_token("Host.Example", 22) == "host.example"
    assert host_token("::1", 2222) == "[::1]:2222"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_hashed_names_and_fingerprints_are_those_of_openssh(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    kind, key = (tmp_path / "k.pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"# comment\n\n[gate.example]:2222 {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    (line,) = lines_for([tmp_path / "missing", known], "[gate.example]:2222")
    assert (line.number, line.key_type, line.key) == (3, kind, key) or line.number <= 3
    assert lines_for([known], "gate.example") == []
    import base64

    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "k.pub")], check=True, capture_output=True, text=True
    )
    assert told.stdout.split()[1] == fingerprint(base64.b64decode(key))


def line(key: str, marker: str = "", kind: str = "ssh-ed25519", number: int = 1) -> Line:
    return Line(file="f", number=number, marker=marker, key_type=kind, key=key)


def test_judgements() -> None:
    assert judge([], "ssh-ed25519", "K").verdict == "unknown"
    assert judge([line("K")], "ssh-ed25519", "K").verdict == "known"
    changed = judge([line("A", kind="ssh-rsa"), line("B", number=2)], "ssh-ed25519", "K")
    assert changed.verdict == "changed" and changed.line is not None and changed.line.number == 2
    assert judge([line("A", kind="ssh-rsa")], "ssh-ed25519", "K").verdict == "changed"
    assert judge([line("K"), line("K", "@revoked")], "ssh-ed25519", "K").verdict == "revoked"
    # A certificate authority's line is no key of the host: it is not taken for one, nor for a changed one.
    assert judge([line("K", "@cert-authority")], "ssh-ed25519", "K").verdict == "unknown"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("gate", Ssh(host="gate")),
        ("bee@gate:2222", Ssh(host="gate", user="bee", port=2222)),
        ("ssh://bee@gate", Ssh(host="gate", user="bee")),
        ("[fe80::1]:22", Ssh(host="fe80::1", port=22)),
        ("fe80::1", Ssh(host="fe80::1")),
        ("a@b@gate", Ssh(host="gate", user="a@b")),
    ],
)
def test_hops(written: str, meant: Ssh) -> None:
    assert parse_hop(written) == meant


@pytest.mark.parametrize("written", ["", "bee@", "gate:port", "[::1]:x"])
def test_hops_that_are_none(written: str) -> None:
    with pytest.raises(RbeeError, match="jump host"):
        parse_hop(written)
