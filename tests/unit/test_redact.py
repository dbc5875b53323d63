# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.redact import HIDDEN, Redactor, is_telling, redact

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nabc\n-----END OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-123", f"Authorization: Bearer {HIDDEN}"),
        ("bearer  AAAABBBB==, next", f"bearer  {HIDDEN}, next"),
        ("token=abcdef&x=1", f"token={HIDDEN}&x=1"),
        ("https://host/f?access_token=abcdef#frag", f"https://host/f?access_token={HIDDEN}"),
        ("https://host/f?sig=1&api_key=abcdef", f"https://host/f?sig=1&api_key={HIDDEN}"),
        ("https://host/f?sv=2024&sig=abc%2Bdef%3D&x=1", f"https://host/f?sv=2024&sig={HIDDEN}&x=1"),
        ('{"password": "hunter22"}', f'{{"password": "{HIDDEN}"}}'),
        ("HF_TOKEN=hf_aaaaaaaaaaaaaaaaaaaaaaaa", f"HF_TOKEN={HIDDEN}"),
        ("got hf_aaaaaaaaaaaaaaaaaaaaaaaa there", f"got {HIDDEN} there"),
        ("https://user:pass@host/x and ssh://bee@host", f"https://{HIDDEN}@host/x and ssh://{HIDDEN}@host"),
        (f"before {KEY} after", f"before {HIDDEN} after"),
        (KEY[:50], HIDDEN),
        ("key=value1", f"key={HIDDEN}"),
        ("X-Amz-Signature=deadbeef", f"X-Amz-Signature={HIDDEN}"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "12 tokens per second, 5 tokens: fine",
        "monkey=banana",
        "https://huggingface.co/a/b?download=true",
        "the keyboard: broken",
        "worker died: sig=SIGKILL",
        "The token is wrong.",
        "worker-1 ready on 127.0.0.1:9300",
        "",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert redact(text) == text


def test_known_secrets_are_hidden_wherever_they_stand() -> None:
    redactor = Redactor(["fleet-secret-1", "fleet-secret-1-longer", "short"])
    assert redactor.text("x fleet-secret-1-longer y fleet-secret-1 short") == f"x {HIDDEN} y {HIDDEN} short"
    assert redactor.exact("password=abc fleet-secret-1") == f"password=abc {HIDDEN}"
    assert "fleet-secret" not in repr(redactor)


def test_values_are_redacted_through_and_through() -> None:
    value = {"a": ["token=abcdef", 3, None, True], "api_key": "abc", "token_file": "/x", "tokens": 5, "token": None}
    shown = {"a": [f"token={HIDDEN}", 3, None, True], "api_key": HIDDEN, "token_file": "/x", "tokens": 5, "token": None}
    assert Redactor().value(value) == shown
    assert Redactor().value({"token": "abc", "text": "password=abc"}, exact=True) == {
        "token": "abc",
        "text": "password=abc",
    }


def test_names_that_tell() -> None:
    assert [n for n in ("token", "fleet_token", "X-Api-Key", "password", "Authorization") if not is_telling(n)] == []
    assert [n for n in ("token_file", "tokens", "max_tokens", "monkey", "key_id", "text") if is_telling(n)] == []


@given(st.text(alphabet="abcdefghijklmnop0123456789-_", min_size=8, max_size=60), st.text(), st.text())
def test_a_known_secret_never_shows(secret: str, before: str, after: str) -> None:
    shown = Redactor([secret]).text(f"{before}{secret}{after}")
    assert secret not in shown or secret in HIDDEN


@given(
    st.text(alphabet="abc =:&?/@\"'-", max_size=40), st.sampled_from(["token=", "password: ", "https://u:", "Bearer "])
)
def test_redacting_twice_is_redacting_once(text: str, start: str) -> None:
    once = redact(start + text)
    assert redact(once) == once


@given(st.text(alphabet="abcdéf0123456789", min_size=8, max_size=20), st.text(max_size=30), st.text(max_size=30))
def test_large_data_is_searched_as_bytes_as_texts_are(secret: str, before: str, after: str) -> None:
    hider, text = Redactor([secret, "another-secret"]), f"{before}{secret}{after}"
    assert hider.data(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass") == hider.exact(text)
    nothing = b"x" * 1000
    assert hider.data(nothing) is nothing
