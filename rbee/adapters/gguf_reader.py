# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads numbers and texts of a GGUF header in order, from big buffers, trusting no number in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from rbee.adapters.gguf_tables import ARRAY, SCALARS, STRING
from rbee.core.errors import RbeeError

#: More than any real header (a vocabulary of 256,000 with its merges is about 15 MB, and some hold a second
#: tokenizer as JSON).
MAX_HEADER: Final = 64 * 2**20
MAX_ARRAY: Final = 4_000_000
#: A longer text is read past.
KEPT_TEXT: Final = 2**20
#: The format's own limit.
_MAX_KEY: Final = 2**16 - 1
#: Arrays of numbers up to this long are looked into (one number for each layer); of longer ones only the length.
_SEEN_ARRAY: Final = 4096
_BUFFER: Final = 2**20
_LENGTH: Final = struct.Struct("<Q")


class BadGguf(RbeeError):
    """The file is no GGUF, of a version nobody reads, cut short, or says things that cannot be."""

    code = "invalid_model"


@dataclass(frozen=True, slots=True)
class Array:
    """An array that was read past: only its largest whole number is kept, or its length when it holds none."""

    largest: int


@dataclass(frozen=True, slots=True)
class LongText:
    """A text that was too long to keep."""

    size: int


class Reader:
    """Never past `MAX_HEADER`, and never holds more than a buffer and what is asked for. `name` is for messages."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self._buffer = b""
        self._at = 0
        #: Where in the file the buffer begins.
        self._base = 0

    @property
    def position(self) -> int:
        """Bytes of the file that were read or read past."""
        return self._base + self._at

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which the caller has bounded. Raises BadGguf."""
        self._hold(size)
        at = self._at
        self._at = at + size
        return self._buffer[at : at + size]

    def _hold(self, size: int) -> None:
        """Have the next `size` bytes in the buffer."""
        if self._at + size <= len(self._buffer):
            return
        if self.position + size > MAX_HEADER:
            raise BadGguf(f"{self.name}: the header is longer than {MAX_HEADER:,} bytes.")
        rest = self._buffer[self._at :]
        self._base += self._at
        self._buffer, self._at = rest + self._file.read(max(_BUFFER, size - len(rest))), 0
        if len(self._buffer) < size:
            raise BadGguf(f"{self.name} is cut short inside its header.", mend="Download it again.")

    def skip(self, size: int) -> None:
        """Read past `size` bytes, however many they are said to be."""
        if self.position + size > MAX_HEADER:
            raise BadGguf(f"{self.name}: the header is longer than {MAX_HEADER:,} bytes.")
        while size > 0:
            piece = min(size, _BUFFER)
            self._hold(piece)
            self._at += piece
            size -= piece

    def number(self, code: str) -> int:
        form = "<" + code
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def count(self, code: str, limit: int, what: str) -> int:
        found = self.number(code)
        if found > limit:
            raise BadGguf(f"{self.name} is hurt: it claims {found:,} {what}.")
        return found

    def key(self) -> str:
        """A short text: the name of a field or of a tensor."""
        return self.take(self.count("Q", _MAX_KEY, "characters in a name")).decode("utf-8", "replace")

    def value(self, kind: int, *, keep: bool = True) -> Any:
        """A field's value: a number, a text (or `LongText`) or an `Array`. A text that is not to be kept is ''."""
        if kind == STRING:
            size = self.count("Q", MAX_HEADER, "characters of text")
            if keep and size <= KEPT_TEXT:
                return self.take(size).decode("utf-8", "replace")
            self.skip(size)
            return LongText(size) if keep else ""
        if kind == ARRAY:
            return self._array()
        code = SCALARS.get(kind)
        if code is None:
            raise BadGguf(f"{self.name} is hurt: there is no field of type {kind}.")
        form = "<" + code
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def _array(self) -> Array:
        kind, length = self.number("I"), self.count("Q", MAX_ARRAY, "items")
        if kind == STRING:
            self._skip_texts(length)
            return Array(length)
        code = SCALARS.get(kind)
        if code is None:
            raise BadGguf(f"{self.name} is hurt: there is no array of type {kind}.")
        size = struct.calcsize("<" + code)
        if code in "fd?" or length > _SEEN_ARRAY:
            self.skip(length * size)
            return Array(length)
        data = self.take(length * size)
        return Array(max((n for (n,) in struct.iter_unpack("<" + code, data)), default=0))

    def _skip_texts(self, count: int) -> None:
        """A vocabulary has hundreds of thousands: here nothing is called but what must be."""
        unpack, buffer, at, end = _LENGTH.unpack_from, self._buffer, self._at, len(self._buffer)
        for _ in range(count):
            if end - at < 8:
                self._at = at
                self._hold(8)
                buffer, at, end = self._buffer, self._at, len(self._buffer)
            (length,) = unpack(buffer, at)
            at += 8
            if length > end - at:
                self._at = at
                self.skip(length)
                buffer, at, end = self._buffer, self._at, len(self._buffer)
            else:
                at += length
        self._at = at
