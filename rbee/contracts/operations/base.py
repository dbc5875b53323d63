# SPDX-License-Identifier: GPL-3.0-or-later
"""How an operation is declared, and how one crosses the wire: `{"operation": {"Name": {fields}}}`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from rbee.contracts import codec
from rbee.contracts.bounds import refused
from rbee.core.errors import InvalidRequest
from rbee.core.problems import did_you_mean

Daemon = Literal["queen", "hive"]
C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationType:
    """`name` is the wire name (`WorkerSpawn`); `family` and `command` are the CLI's words (`worker spawn`).

    Jobs of one `lane` share its limit (`defaults.LANES`): what takes long does not stand before what is quick.
    """

    name: str
    family: str
    command: str
    request: type
    response: type
    served_by: tuple[Daemon, ...]
    summary: str
    lane: str


OPERATIONS: dict[str, OperationType] = {}


def operation(
    *, family: str, command: str, response: type, served_by: tuple[Daemon, ...], lane: str = ""
) -> Callable[[C], C]:
    """Class decorator: the request dataclass it stands on becomes an operation of its own name.

    `lane`: default the family, or the command of an operation that has none.
    """

    def declare(request: C) -> C:
        OPERATIONS[request.__name__] = OperationType(
            name=request.__name__,
            family=family,
            command=command,
            request=request,
            response=response,
            served_by=served_by,
            summary=(request.__doc__ or "").strip().splitlines()[0],
            lane=lane or family or command,
        )
        return request

    return declare


def wire(request: Any) -> dict[str, Any]:
    """The body of `POST /v1/jobs` for a request value."""
    return {"operation": {type(request).__name__: codec.plain(request)}}


def parse_operation(body: bytes) -> tuple[OperationType, Any]:
    """The operation and its request value in a body of `POST /v1/jobs`.

    Raises InvalidRequest naming what is wrong: not JSON, no or several operations, unknown name, bad field.
    """
    try:
        found = codec.decode(dict[str, Any], body)
    except codec.CodecError as e:
        raise InvalidRequest(f"The body is not a JSON object: {e}") from None
    named = found.get("operation")
    if not isinstance(named, dict) or len(named) != 1:
        raise InvalidRequest('Expected {"operation": {"NAME": {...}}} with exactly one name.')
    ((name, fields),) = named.items()
    kind = OPERATIONS.get(name)
    if kind is None:
        raise InvalidRequest(f"There is no operation {name!r}.", mend=did_you_mean(str(name), list(OPERATIONS)))
    return kind, request_of(kind, fields)


def request_of(kind: OperationType, fields: Any) -> Any:
    """The request value of plain fields. Raises InvalidRequest for a bad field or one outside its bounds."""
    try:
        request: Any = codec.convert(kind.request, _whole(fields))
    except codec.CodecError as e:
        raise InvalidRequest(f"{kind.name}: {e}") from None
    if outside := list(refused(request)):
        raise InvalidRequest(f"{kind.name}: {'; '.join(outside)}")
    return request


def _whole(value: Any) -> Any:
    """`2.0` is a whole number to JSON Schema, and what JavaScript sends for one may look so."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value
