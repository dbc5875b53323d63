# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lines of a log somebody wants, and how a line may be shown: pure, on bytes that anybody may have written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from rbee.core.errors import InvalidRequest

#: Bytes of a line that are shown at once: a longer one comes in pieces.
LONGEST: Final = 8192
#: So near the end of a piece a blank is looked for, so that no word (and no secret) is cut in two.
_NEAR: Final = 512
#: Lines that a private key may have, before what never ends is shown again.
_KEY_LINES: Final = 200
#: Ten years: more than any log is old.
_LONGEST_DURATION: Final = 3650 * 86400.0

_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?[smhd])+")
_PART = re.compile(r"([0-9.]+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOMENT = r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
_WHOLE_MOMENT = re.compile(_MOMENT)
#: Ours are JSON with the time first; others begin with it.
_LEADING_MOMENT = re.compile(rf'(?:\{{"time": ?"|\[)?({_MOMENT})')
#: Escape sequences of terminals: colours, titles, links.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`text` is as it was written, made harmless; `said` the words of it for a person; `time` RFC 3339, its own or
    that of the line before it; `more` when the line goes on in the next piece."""

    text: str
    said: str
    time: str | None = None
    level: str | None = None
    more: bool = False


def moment(text: str) -> datetime | None:
    """A time of RFC 3339; None for what is none. A leap second is the second before it."""
    found = _WHOLE_MOMENT.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    if clock.endswith(":60"):
        clock = f"{clock[:-3]}:59"
    micros = f"{(fraction or '.')[1:7]:0<6}"
    try:
        made = datetime.fromisoformat(f"{day}T{clock}.{micros}{'+00:00' if zone in 'Zz' else zone}")
        return made.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def since_of(text: str | None, now: datetime) -> datetime | None:
    """The moment that `since` means: RFC 3339, or a duration back from `now` (`10m`, `1h30m`); None for no bound.

    Raises InvalidRequest `bad_since`.
    """
    if text is None:
        return None
    text = text.strip()
    if _DURATION.fullmatch(text) is not None:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
        return now - timedelta(seconds=min(seconds, _LONGEST_DURATION))
    found = moment(text)
    if found is None:
        raise InvalidRequest(
            f"`since` is no time and no duration: {text[:60]!r}.",
            code="bad_since",
            mend="Write a time such as 2026-11-20T08:00:00Z, or how long ago: 90s, 10m, 1h30m, 2d.",
            param="since",
        )
    return found


def time_of(line: bytes) -> str | None:
    """The time that a line begins with, as it stands there; None for a line without."""
    found = _LEADING_MOMENT.match(line[:64].decode("ascii", "replace"))
    return found.group(1) if found is not None and moment(found.group(1)) is not None else None


def clean(data: bytes) -> str:
    """Text that can do nothing to a terminal: no escape sequences, what is no character replaced."""
    text = data.rstrip(b"\r\n").decode("utf-8", "replace")
    return _CONTROLS.sub("\ufffd", _ESCAPES.sub("", text))


def pieces(line: bytes) -> Iterator[tuple[bytes, bool]]:
    """A line in pieces of at most `LONGEST` bytes, each with whether another follows.

    Cut after a blank where one is near, else between two characters.
    """
    start = 0
    while len(line) - start > LONGEST:
        end = start + LONGEST
        blank = line.rfind(b" ", end - _NEAR, end)
        if blank >= 0:
            end = blank + 1
        else:
            # A character of UTF-8 has at most three bytes after its first.
            while end > start + LONGEST - 3 and line[end] & 0xC0 == 0x80:
                end -= 1
        yield line[start:end], True
        start = end
    yield line[start:], False


class Reader:
    """Makes lines of raw ones, in order: keeps the time for those without, and hides keys that span lines."""

    __slots__ = ("_key", "_time")

    def __init__(self) -> None:
        self._time: str | None = None
        self._key = 0

    def lines(self, raw: Iterable[bytes], *, unfinished: bool = False) -> Iterator[Line]:
        """`unfinished`: each goes on in the next call."""
        for data in raw:
            self._time = time_of(data) or self._time
            if self._hidden(data):
                continue
            for piece, goes_on in pieces(data):
                text, more = clean(piece), goes_on or unfinished
                if text or more:
                    whole = None if more or len(piece) < len(data) else _own(text)
                    yield Line(
                        text=text,
                        said=whole[0] if whole else text,
                        time=self._time,
                        level=whole[1] if whole else None,
                        more=more,
                    )

    def _hidden(self, data: bytes) -> bool:
        """Whether it is a line inside of a private key; its first line is hidden by the redactor of whoever tells."""
        if self._key:
            self._key -= 1
            if _KEY_ENDS.search(data.decode("ascii", "replace")):
                self._key = 0
            return True
        if b"PRIVATE KEY-----" in data:
            text = data.decode("ascii", "replace")
            last = next(reversed(list(_KEY_BEGINS.finditer(text))), None)
            if last is not None and _KEY_ENDS.search(text, last.end()) is None:
                self._key = _KEY_LINES
        return False


def _own(text: str) -> tuple[str, str | None] | None:
    """Words and level of a line that one of rbee's daemons wrote; None for others."""
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("message"), str):
        return None
    error, level = found.get("error"), found.get("level")
    said = str(found["message"])
    return (f"{said}\n{error}" if isinstance(error, str) else said), level if isinstance(level, str) else None


def newer(lines: Iterable[Line], since: datetime | None) -> Iterator[Line]:
    """Those not before `since`. A line whose time nobody knows is shown: better one too many."""
    for line in lines:
        known = moment(line.time) if since is not None and line.time is not None else None
        if since is None or known is None or known >= since:
            yield line
