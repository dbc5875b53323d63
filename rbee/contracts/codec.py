# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON to frozen dataclasses and back, checked at the border. One module, so that the library can change."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_one_at_a_time = threading.Lock()


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """What msgspec knows of a type is made by one thread at a time. It hands out its notes on a dataclass before they
    are whole; a second thread that decodes the same type for the first time then reads from a null pointer (0.22)."""
    made = _decoders.get(kind)
    if made is None:
        with _one_at_a_time:
            made = _decoders[kind] = msgspec.json.Decoder(kind)
    return made


class CodecError(ValueError):
    """The bytes are not JSON, or not of the type; the message names the field (`$.workers[0].port`)."""


def encode(value: Any) -> bytes:
    """Compact JSON of dataclasses, mappings, sequences and scalars."""
    return msgspec.json.encode(value)


def encode_pretty(value: Any) -> bytes:
    """JSON for files that people read: two spaces, a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def embedded(data: bytes | memoryview) -> Any:
    """JSON that was made before, as a value that `encode` puts where it stands, as it is."""
    return msgspec.Raw(data)


def json_of(value: Any) -> bytes | memoryview:
    """`encode`, without a copy of what is `embedded`."""
    return memoryview(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)


def decode(kind: type[T], data: bytes | str) -> T:
    """The value of type `kind` in `data`; unknown fields are ignored (a newer peer may send more).

    Raises CodecError.
    """
    try:
        found: T = _decoder(kind).decode(data)
        return found
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise CodecError(str(e)) from None
    except RecursionError:
        raise CodecError("it is nested too deeply") from None


def fields(data: bytes) -> dict[str, bytes]:
    """The fields of an object, each as the JSON that it is: nothing in them is taken apart. Raises CodecError."""
    return {name: bytes(value) for name, value in decode(dict[str, msgspec.Raw], data).items()}


def convert(kind: type[T], value: Any) -> T:
    """Like `decode`, from plain dicts and lists (of YAML, SQL, another decode). Raises CodecError."""
    _decoder(kind)
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as e:
        raise CodecError(str(e)) from None


def plain(value: Any) -> Any:
    """Dicts, lists and scalars of a dataclass value, as JSON would show it."""
    return msgspec.to_builtins(value)


def to_mapping(value: Any) -> Mapping[str, Any]:
    """`plain` of a value that is an object."""
    made = msgspec.to_builtins(value)
    if not isinstance(made, dict):
        raise CodecError(f"expected an object, got {type(made).__name__}")
    return made
