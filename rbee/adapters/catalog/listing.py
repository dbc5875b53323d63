# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON of a long list, of which only what changed since the list before is made again."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from rbee.contracts import codec


@dataclass(frozen=True, slots=True)
class _Made:
    """`places` is where each value stands in the text, by its `id`: `values` keeps them alive."""

    values: Sequence[object]
    text: bytes
    places: dict[int, tuple[int, int]]


class Listing:
    """An array in a frame of JSON: `head`, the values, `tail`.

    Values are told from one another by identity: who lists gives the same object again while it is unchanged. Holds
    the last text and nothing beside it; safe to call from several threads.
    """

    def __init__(self, head: bytes = b"[", tail: bytes = b"]") -> None:
        self.head, self.tail = head, tail
        self._made = _Made((), head + tail, {})

    def text(self, values: Sequence[object]) -> bytes:
        """With these values; the very same bytes as last time when they are the same, and not a copy of them."""
        known = self._made
        if len(values) == len(known.values) and all(map(operator.is_, values, known.values)):
            return known.text
        before = memoryview(known.text)
        parts: list[bytes | memoryview] = []
        places: dict[int, tuple[int, int]] = {}
        end = len(self.head) - 1
        for value in values:
            place = known.places.get(id(value))
            part = codec.encode(value) if place is None else before[place[0] : place[1]]
            begin, end = end + 1, end + 1 + len(part)
            places[id(value)] = (begin, end)
            parts.append(part)
        made = _Made(tuple(values), b"".join((self.head, b",".join(parts), self.tail)), places)
        self._made = made
        return made.text
