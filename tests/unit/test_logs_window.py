# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of a log: which are wanted, and that none of them can hurt."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core import logs_window as window
from rbee.core.errors import InvalidRequest
from rbee.core.redact import Redactor

NOW = datetime(2026, 11, 20, 8, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("10m", 600.0), ("1h30m", 5400.0), ("90s", 90.0), ("2d", 172800.0), ("0.5s", 0.5), (" 3s ", 3.0)],
)
def test_durations_count_back_from_now(text: str, ago: float) -> None:
    assert window.since_of(text, NOW) == NOW - timedelta(seconds=ago)


def test_a_duration_longer_than_time_itself_is_only_long() -> None:
    found = window.since_of("999999999d", NOW)
    assert found is not None
    assert found.year == 2016


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2026-11-20T08:00:00Z", NOW),
        ("2026-11-20T08:00:00.250Z", NOW + timedelta(milliseconds=250)),
        ("2026-11-20 10:00:00.123456789+02:00", NOW + timedelta(microseconds=123456)),
        ("2026-11-20t07:59:60z", NOW - timedelta(seconds=1)),
    ],
)
def test_times_of_rfc_3339(text: str, means: datetime) -> None:
    assert window.since_of(text, NOW) == means


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "10x", "2026-11-20", "2026-13-40T08:00:00Z", "0001-01-01T00:00:00+23:00", "-5m"]
)
def test_what_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match="10m") as refused:
        window.since_of(text, NOW)
    assert (refused.value.code, refused.value.param) == ("bad_since", "since")
    assert window.since_of(None, NOW) is None


def test_lines_have_their_own_time_or_that_of_the_line_before() -> None:
    raw = [
        b"no time yet",
        b'{"time":"2026-11-20T08:00:00.000Z","level":"info","message":"engine: up"}',
        b"Traceback (most recent call last):",
        b"[2026-11-20T08:00:05Z] other",
        b"2026-99-99T08:00:05Z never",
    ]
    told = list(window.Reader().lines(raw))
    assert [x.time for x in told] == [
        None,
        "2026-11-20T08:00:00.000Z",
        "2026-11-20T08:00:00.000Z",
        "2026-11-20T08:00:05Z",
        "2026-11-20T08:00:05Z",
    ]
    assert (told[1].said, told[1].level) == ("engine: up", "info")
    assert told[1].text.startswith('{"time"')
    assert [x.said for x in window.newer(told, NOW + timedelta(seconds=1))] == [
        "no time yet",
        "[2026-11-20T08:00:05Z] other",
        "2026-99-99T08:00:05Z never",
    ]
    assert list(window.newer(told, None)) == told


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"message": "m", "error": "Traceback"}', "m\nTraceback"),
        (b'{"message": 5}', '{"message": 5}'),
        (b"{broken", "{broken"),
        (b"[" * 4000, "[" * 4000),
        (b'{"a":' * 1500, '{"a":' * 1500),
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07bell\x07\r", "red bell\ufffd"),
        (b"\xff\x00\x01bin\tary", "\ufffd\ufffd\ufffdbin\tary"),
        ("a\u202eb".encode(), "a\ufffdb"),
    ],
)
def test_odd_lines_are_shown_harmless(data: bytes, said: str) -> None:
    (told,) = window.Reader().lines([data])
    assert told.said == said


def test_empty_lines_are_left_out() -> None:
    assert list(window.Reader().lines([b"", b"\r", b"x"])) == [window.Line(text="x", said="x")]


def test_a_long_line_comes_in_pieces() -> None:
    told = list(window.Reader().lines([b"x" * (2 * window.LONGEST + 1), b"y"]))
    assert [(len(x.text), x.more) for x in told] == [
        (window.LONGEST, True),
        (window.LONGEST, True),
        (1, False),
        (1, False),
    ]


def test_a_line_that_is_not_at_its_end_says_so() -> None:
    reader = window.Reader()
    told = [*reader.lines([b"half "], unfinished=True), *reader.lines([b"and half"])]
    assert [(x.text, x.more) for x in told] == [("half ", True), ("and half", False)]


def test_no_secret_is_cut_in_two_by_a_piece() -> None:
    secret = b"--api-key=abcdefghijklmnop"
    line = b"x" * (window.LONGEST - 20) + b" " + secret + b" tail"
    hidden = [Redactor().text(x.text) for x in window.Reader().lines([line])]
    assert "abcdefgh" not in "".join(hidden)


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("before", range(4))
def test_no_character_is_cut_in_two(character: str, before: int) -> None:
    text = "x" * before + character * window.LONGEST
    assert "".join(x.text for x in window.Reader().lines([text.encode()])) == text


@given(st.text(alphabet=st.sampled_from("aé€😀 "), max_size=4 * window.LONGEST))
def test_pieces_make_the_line_again(text: str) -> None:
    data = text.encode()
    found = list(window.pieces(data))
    assert b"".join(piece for piece, _ in found) == data
    assert all(len(piece) <= window.LONGEST for piece, _ in found)
    assert [more for _, more in found] == [True] * (len(found) - 1) + [False]
    assert "".join(piece.decode() for piece, _ in found) == text


@given(st.binary(max_size=3 * window.LONGEST))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    for line in window.newer(window.Reader().lines(data.split(b"\n")), NOW):
        assert not set(line.text) & {"\x1b", "\x00", "\n", "\x9b"}


def test_a_private_key_over_several_lines_is_hidden() -> None:
    raw = [b"before", b"-----BEGIN RSA PRIVATE KEY-----", b"MIIEsecret", b"-----END RSA PRIVATE KEY-----", b"after"]
    whole = b"-----BEGIN PRIVATE KEY----- MIIE -----END PRIVATE KEY----- x"
    told = [Redactor().text(x.said) for x in window.Reader().lines([*raw, whole, b"last"])]
    assert told == ["before", "[redacted]", "after", "[redacted] x", "last"]


def test_a_key_that_never_ends_hides_no_more_than_a_key_may_have() -> None:
    told = list(window.Reader().lines([b"-----BEGIN PRIVATE KEY-----", *[b"l"] * 300]))
    assert len(told) == 1 + 300 - window._KEY_LINES
