# SPDX-License-Identifier: GPL-3.0-or-later
"""Which worker answers a request: the least busy of those that can, or the one that knows its beginning. Pure.

`pick` decides, and runs for every request; `rbee.core.deciding.route` comes to the same choice slowly, with the reason
for every worker, and with policies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, TypeVar

#: Statuses in which a worker takes requests; a busy one queues them.
ROUTABLE = frozenset({"ready", "busy"})
#: By how much of its slots the affine worker may be busier than the least busy one, and still be chosen.
AFFINE_BOUND = 0.5
#: What it counts that a worker has answered before: its caches and its engine are warm.
WARM = 0.05
#: Bytes of JSON that a token is at least, for the guess whether a prompt fits: English and code have 3 to 5.
_LIKELY = 4
#: Bytes of JSON that no token exceeds: the longest in common vocabularies are 128 characters (spaces, dashes); those
#: of them that JSON escapes, such as line ends, take two bytes each.
_LONGEST = 256
#: Paths where one body is one prompt, all of which must fit.
_ONE_PROMPT = frozenset({"/v1/chat/completions", "/v1/messages"})
#: Paths where a body may be one.
_PROMPTS = _ONE_PROMPT | {"/v1/completions", "/v1/responses"}


class Candidate(Protocol):
    """What routing looks at. `in_flight` and `foreign` count requests that it has from this queen and from others,
    as far as is known; `warm` is WARM or 0; `paths`, `capabilities` empty and `context_length` 0: it does not say."""

    @property
    def worker_id(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def slots(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    @property
    def foreign(self) -> int: ...

    @property
    def last_seen(self) -> float: ...

    @property
    def unreachable(self) -> str | None: ...

    @property
    def picked(self) -> int: ...

    @property
    def reason(self) -> str | None: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def paths(self) -> Collection[str]: ...

    @property
    def capabilities(self) -> Collection[str]: ...

    @property
    def context_length(self) -> int: ...

    @property
    def warm(self) -> float: ...


W = TypeVar("W", bound=Candidate)
Labels = tuple[tuple[str, str], ...]


class Needs:
    """What a request asks of a worker. `likely` tokens are preferred to fit, `least` must; 0: nothing is known.

    One for each request: a plain class, because a frozen one takes four times as long to make.
    """

    __slots__ = ("least", "likely", "path", "require", "wants")

    def __init__(
        self,
        path: str = "",
        *,
        size: int = 0,
        tools: bool = False,
        images: bool = False,
        require: Labels = (),
    ) -> None:
        self.path = path
        self.require = require
        self.wants = (("tools",) if tools else ()) + (("vision",) if images else ()) if tools or images else ()
        # A picture is many bytes and few tokens: nothing can be said then.
        self.likely = size // _LIKELY if path in _PROMPTS and not images else 0
        self.least = size // _LONGEST if path in _ONE_PROMPT and not images else 0


#: Asks for nothing.
NOTHING = Needs()


def can(worker: Candidate, needs: Needs, tokens: int) -> bool:
    """Whether it has what the request needs, with a prompt of so many tokens."""
    if worker.paths and needs.path and needs.path not in worker.paths:
        return False
    if 0 < worker.context_length < tokens:
        return False
    if needs.wants and worker.capabilities and any(w not in worker.capabilities for w in needs.wants):
        return False
    return not needs.require or all(worker.labels.get(key) == value for key, value in needs.require)


def pick(
    workers: Iterable[W],
    needs: Needs,
    tokens: int,
    now: float,
    stale_after: float,
    tried: Collection[str] = (),
    affine: W | None = None,
) -> W | None:
    """Of those that can and have a free slot: the affine one unless it is too busy, else the one with the smallest
    share of its slots taken; of equals the one that was asked longest ago. None: there is none.

    Never one that is stale, unreachable, not ready, or in `tried` (ids of those that failed this request).
    """
    oldest = now - stale_after
    favour = 2.0  # more than any load
    if affine is not None:
        busy = affine.in_flight + affine.foreign
        if (
            busy < affine.slots
            and affine.unreachable is None
            and affine.status in ROUTABLE
            and affine.last_seen >= oldest
            and affine.worker_id not in tried
            and can(affine, needs, tokens)
        ):
            favour = busy / affine.slots - affine.warm
            if favour <= AFFINE_BOUND - WARM:  # nobody can be so much less busy
                return affine
    best: W | None = None
    least = 2.0
    for worker in workers:
        busy = worker.in_flight + worker.foreign
        if busy >= worker.slots or worker.unreachable is not None or worker.last_seen < oldest:
            continue
        load = busy / worker.slots - worker.warm
        if best is not None and (load > least or (load == least and worker.picked >= best.picked)):
            continue
        # What takes longer is asked only of one that would be the best so far.
        if worker.status in ROUTABLE and not (tried and worker.worker_id in tried) and can(worker, needs, tokens):
            best, least = worker, load
    return affine if best is not None and favour <= least + AFFINE_BOUND else best


def able(worker: Candidate, needs: Needs, tokens: int, oldest: float, tried: Collection[str] = ()) -> bool:
    """Whether it could answer if it had a free slot. `oldest`: heard of since then."""
    return (
        worker.unreachable is None
        and worker.status in ROUTABLE
        and worker.last_seen >= oldest
        and worker.worker_id not in tried
        and can(worker, needs, tokens)
    )


def why_not(worker: Candidate, now: float, stale_after: float) -> str | None:
    """Why no request goes to this worker; None when requests do."""
    if worker.unreachable is not None:
        return worker.unreachable
    if worker.status not in ROUTABLE:
        return f"{worker.status}: {worker.reason}" if worker.reason else worker.status
    silent = now - worker.last_seen
    if silent > stale_after:
        return f"stale: silent for {silent:.0f} s"
    return None


def lacks(worker: Candidate, needs: Needs, tokens: int) -> str | None:
    """What `can` misses, for people; None: nothing."""
    if worker.paths and needs.path and needs.path not in worker.paths:
        return f"does not serve {needs.path}"
    if 0 < worker.context_length < tokens:
        return f"context of {worker.context_length} tokens is too short: the prompt has {tokens} or more"
    missing = [w for w in needs.wants if worker.capabilities and w not in worker.capabilities]
    if missing:
        return f"has no {' and no '.join(missing)}"
    return unlabelled(worker.labels, needs.require)


def unlabelled(labels: Mapping[str, str], require: Labels) -> str | None:
    """Which of the required labels a hive with these has not, for people; None: it has all."""
    for key, value in require:
        if labels.get(key) != value:
            has = f"has {key}={labels[key]}" if key in labels else f"has no label {key}"
            return f"{key}={value} is required, its hive {has}"
    return None


def unfit(workers: Iterable[Candidate], needs: Needs) -> tuple[str, str] | None:
    """Why none of these could answer however long one waited, as OpenAI's error code and words; None: one could, or
    there is none. What only its hive tells of (labels) may be mended, and so may a worker that has said nothing yet."""
    why: tuple[str, str] | None = None
    for worker in workers:
        missing = [w for w in needs.wants if worker.capabilities and w not in worker.capabilities]
        if worker.paths and needs.path and needs.path not in worker.paths:
            why = why or ("unsupported_endpoint", f"does not serve {needs.path}")
        elif 0 < worker.context_length < needs.least:
            said = f"has a context of {worker.context_length} tokens, and the prompt at least {needs.least}"
            why = ("context_length_exceeded", said)
        elif missing:
            why = ("not_supported", f"has no {' and no '.join(missing)}")
        else:
            return None
    return why


def reasons(
    workers: Iterable[Candidate],
    now: float,
    stale_after: float,
    tried: Mapping[str, str],
    needs: Needs = NOTHING,
) -> tuple[str, ...]:
    """Why each of these was not chosen, as `worker: reason`; `tried` has what those said that failed this request."""
    found = []
    for worker in workers:
        reason = why_not(worker, now, stale_after) or tried.get(worker.worker_id) or lacks(worker, needs, needs.least)
        if reason is not None:
            found.append(f"{worker.worker_id}: {reason}")
    return tuple(found)


def required(*said: str, most: int = 16) -> Labels:
    """Labels of texts such as `region=eu-west,power=quiet`. Raises ValueError with what is wrong."""
    found: list[tuple[str, str]] = []
    for text in said:
        for item in text.split(","):
            key, sign, value = (part.strip() for part in item.partition("="))
            if not item.strip():
                continue
            if not key or not sign or not value:
                raise ValueError(f"{item.strip()[:80]!r} is not LABEL=VALUE")
            if (key, value) not in found:
                found.append((key, value))
    if len(found) > most:
        raise ValueError(f"{len(found)} labels; at most {most} can be required")
    return tuple(found)


def models_for(name: str, aliases: Mapping[str, tuple[str, ...]], known: Collection[str]) -> tuple[str, ...]:
    """The models that serve requests for `name`, first choice first; empty when nobody knows it.

    A model's own name is that model and nothing else; an alias is its list, where other aliases may stand.
    """
    if name in known:
        return (name,)
    found: dict[str, None] = {}
    seen = {name}
    waiting = list(reversed(aliases.get(name, ())))
    while waiting:
        item = waiting.pop()
        if item in known or item not in aliases:
            found[item] = None
        elif item not in seen:
            seen.add(item)
            waiting.extend(reversed(aliases[item]))
    return tuple(found)
