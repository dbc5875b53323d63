# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies and explanations see of a request and of a worker. Never a request's text."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from rbee.core.policy import UNCOUNTED
from rbee.core.redact import is_telling, redact
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.front.incoming import Headers
from rbee.daemons.queen.known.registry import Worker

_Labels = tuple[tuple[str, str], ...]
_Of = TypeVar("_Of", contravariant=True)
#: Headers that are kept of a request, and characters of each one's name and value.
_MOST_HEADERS, _LONGEST_HEADER = 32, 256
#: Beside what is telling anywhere: names of headers that hold what opens a session.
_SECRET = re.compile(r"auth|session|cookie|credential|csrf|xsrf|jwt|signature|secret|token|api-?key", re.IGNORECASE)


def own_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The `x-` headers, as they came, cut to a length; none that is a secret by its name. Values may hold some still:
    `shown` leaves those out. Of a head that comes again it is the same tuple."""
    if not isinstance(headers, Headers):
        return _own(headers.items())
    if headers.own is None:
        headers.own = _own(headers.beginning(b"x-"))
    return headers.own


def _own(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    named = ((k, v) for k, v in headers if k[:2] in ("X-", "x-") and len(k) <= _LONGEST_HEADER)
    found = [(k, v[:_LONGEST_HEADER]) for k, v in named if not _is_secret(k)]
    return tuple(found[:_MOST_HEADERS])


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None or is_telling(name.lower())


def shown(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of `own_headers` those that hold no secrets, names in lower case."""
    found: dict[str, str] = {}
    for key, value in headers:
        name = key.lower()
        if not _is_secret(name) and redact(f"{name}: {value}") == f"{name}: {value}":
            found.setdefault(name, value)
    return found


_OF_REQUEST: Mapping[str, Callable[[Asked, _Labels], Any]] = {
    "model": lambda r, _: r.name,
    "models": lambda r, _: list(r.models),
    "path": lambda r, _: r.path,
    "stream": lambda r, _: r.peek.stream,
    "body_bytes": lambda r, _: r.size,
    "messages": lambda r, _: r.peek.messages,
    "tools": lambda r, _: r.peek.tools,
    "images": lambda r, _: r.peek.images,
    "max_tokens": lambda r, _: r.peek.max_tokens or 0,
    "key": lambda r, _: r.client.name,
    "priority": lambda r, _: r.client.priority,
    "require": lambda r, require: dict(require),
    "headers": lambda r, _: shown(own_headers(r.headers)),
}


def request_facts(asked: Asked, require: _Labels, names: Iterable[str]) -> dict[str, Any]:
    """Those of these names in expressions that are fields of RequestRecord (`request.model`)."""
    fields = [n[8:] for n in names if n.startswith("request.")]
    return {f"request.{f}": _OF_REQUEST[f](asked, require) for f in fields}


_OF_WORKER: Mapping[str, Callable[[Worker], Any]] = {
    "id": lambda w: w.worker_id,
    "hive": lambda w: w.beat.hive_id,
    "model": lambda w: w.beat.model,
    "engine": lambda w: w.beat.engine,
    "type": lambda w: w.beat.worker_type,
    "device": lambda w: w.beat.device,
    "labels": lambda w: dict(w.labels),
    "status": lambda w: w.status,
    "slots": lambda w: w.slots,
    "busy": lambda w: w.in_flight + w.foreign,
    "load": lambda w: min(1.0, (w.in_flight + w.foreign) / w.slots) if w.slots else 1.0,
    "context_length": lambda w: w.context_length,
    "capabilities": lambda w: list(w.capabilities),
    "tokens_per_sec": lambda w: w.beat.avg_tokens_per_sec,
}


def look(worker: Worker, name: str, affine: bool) -> Any:
    """A field of CandidateRecord, of a worker as it is now."""
    return affine if name == "affine" else _OF_WORKER[name](worker)


class Facts(Protocol[_Of]):
    def __call__(self, of: _Of, /) -> Hashable:
        """Some facts of it, as a key."""


def request_key(names: Iterable[str]) -> Facts[Asked] | None:
    """What gives these facts of requests, in a fixed order; None: one of them is not to be remembered."""
    wanted = sorted(set(names))
    if not UNCOUNTED.isdisjoint(wanted):
        return None
    facts = tuple(_OF_REQUEST[n[8:]] for n in wanted)
    if not facts:
        return lambda asked: None
    if len(facts) == 1:
        (fact,) = facts
        return lambda asked: fact(asked, ())
    return lambda asked: tuple([fact(asked, ()) for fact in facts])


def worker_key(names: Iterable[str]) -> Callable[[Worker, bool], Hashable] | None:
    """What gives these facts of workers and whether one is affine, where that is asked; None as for requests."""
    wanted = sorted(set(names))
    if not UNCOUNTED.isdisjoint(wanted):
        return None
    affinity = "worker.affine" in wanted
    facts = tuple(_OF_WORKER[n[7:]] for n in wanted if n != "worker.affine")
    return lambda worker, affine: (affinity and affine, *[fact(worker) for fact in facts])
