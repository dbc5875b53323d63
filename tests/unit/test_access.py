# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from rbee.adapters.secrets import BadSecret, Token, load_token, make_token, write_secret
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.daemons.access import Listener, is_loopback, listener, split_address

TOKEN = Token("sixteen-characters-long")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "localhost.example.org", "127.0.0.1.nip.io"]
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_loopback_is_open_and_everything_else_wants_a_token() -> None:
    assert listener("127.0.0.1:7833", TOKEN) == Listener("127.0.0.1", 7833, None)
    assert listener("[::1]:1", None) == Listener("::1", 1, None)
    assert listener("0.0.0.0:7833", TOKEN).token is TOKEN
    with pytest.raises(RbeeError) as caught:
        listener("0.0.0.0:7833", None)
    assert caught.value.code == "token_required"


@pytest.mark.parametrize("text", ["127.0.0.1", ":80", "host:", "host:x", "host:65536", ""])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidRequest):
        split_address(text)


def test_a_token_file_is_made_private_and_read_back(tmp_path: Path) -> None:
    path, text = tmp_path / "deep" / "token", make_token()
    write_secret(path, text)
    assert path.stat().st_mode & 0o777 == 0o600
    token = load_token(path)
    assert token.matches(text)
    assert not token.matches(text[:-1])
    assert not token.matches("\udcff")
    assert text not in f"{token!r} {token} {[token]}"
    assert len(text) >= 40
    assert make_token() != text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_token_file_that_others_can_read_is_refused_with_a_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    write_secret(path, make_token())
    path.chmod(mode)
    with pytest.raises(BadSecret) as caught:
        load_token(path)
    assert caught.value.mend == f"Run: chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b"short", b"has a space in the middle", b"\xff" * 40])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadSecret):
        load_token(path)
    with pytest.raises(BadSecret):
        load_token(tmp_path / "none")
