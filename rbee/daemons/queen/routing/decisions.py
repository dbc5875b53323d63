# SPDX-License-Identifier: GPL-3.0-or-later
"""The last decisions: noted as bare tuples at the hot path, told as records when somebody asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain, islice
from typing import Any

from rbee.contracts.decisions import CandidateRecord, DecisionRecord, Outcome, RequestRecord
from rbee.core.deciding import Decision, route
from rbee.core.errors import NotFound
from rbee.core.moments import rfc3339
from rbee.core.opinions import Recalled, Repeating
from rbee.core.policy import Ruling
from rbee.core.routing import WARM, Needs
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Worker
from rbee.daemons.queen.routing.facts import own_headers, shown
from rbee.daemons.queen.routing.plans import Plan

#: Why it was decided so, and for each worker what excluded it, or the terms of its score.
_Judged = tuple[str, Mapping[str, tuple[str | None, Mapping[str, float]]]]
#: How many decisions are kept, and candidates of each.
MOST_DECISIONS, MOST_CANDIDATES = 2000, 16


class Choice:
    """What routing keeps of one request while it runs: `seen` is how the workers were at the decision."""

    __slots__ = ("decision", "needs", "plan", "recalled", "ruling", "seen")

    def __init__(self, needs: Needs, plan: Plan | None) -> None:
        self.needs = needs
        #: The policies for it, and they themselves once they had to be asked.
        self.plan = plan
        self.ruling: Ruling | None = None
        #: With policies: what was decided, since they cannot be asked again for the same facts; or what was recalled.
        self.decision: Decision[Worker] | None = None
        self.recalled: Recalled[Worker] | None = None
        self.seen: tuple[Any, ...] | None = None


class Seen:
    """A worker as it was: what `route` looks at."""

    __slots__ = (
        "beat",
        "capabilities",
        "context_length",
        "foreign",
        "in_flight",
        "labels",
        "last_seen",
        "paths",
        "picked",
        "reason",
        "slots",
        "status",
        "unreachable",
        "warm",
        "worker_id",
    )

    def __init__(self, said: tuple[Any, ...]) -> None:
        self.beat, self.labels, self.in_flight, self.slots, self.status, self.unreachable, self.last_seen = said[:7]
        self.picked = said[7]
        self.foreign = 0
        self.worker_id: str = self.beat.worker_id
        self.reason = self.beat.reason
        self.paths = self.beat.paths
        self.capabilities = self.beat.capabilities
        self.context_length = self.beat.context_length or 0
        self.warm = WARM if self.beat.requests_handled else 0.0


def _snap(w: Worker) -> tuple[Any, ...]:
    busy = w.in_flight + w.foreign
    return (w.beat, w.labels, busy, w.slots, w.status, w.unreachable, w.last_seen, w.picked)


class Decisions:
    """`wall` gives seconds since 1970."""

    def __init__(self, stale_after: float, wall: Callable[[], float]) -> None:
        self._stale_after = stale_after
        self._wall = wall
        #: The newest last. Of a request that was decided more than once the last one counts.
        self._kept: deque[tuple[Any, ...]] = deque(maxlen=MOST_DECISIONS)

    def see(
        self,
        choice: Choice,
        now: float,
        groups: Sequence[Mapping[str, Worker]],
        chosen: Worker | None,
        affine: tuple[str, ...],
    ) -> None:
        """How the workers are now: the first of them, and the one chosen."""
        if len(groups) == 1:
            count = len(groups[0])
            workers: Iterable[Worker] = groups[0].values()
        else:
            count = sum(map(len, groups))
            workers = chain.from_iterable(g.values() for g in groups)
        snaps = [_snap(w) for w in (workers if count <= MOST_CANDIDATES else islice(workers, MOST_CANDIDATES))]
        if chosen is not None and count > MOST_CANDIDATES and all(s[0] is not chosen.beat for s in snaps):
            snaps[-1] = _snap(chosen)
        choice.seen = (now, snaps, count, affine)

    def keep(
        self, asked: Asked, choice: Choice, outcome: Outcome, reason: str, worker: Worker | None, code: str = ""
    ) -> None:
        self._kept.append(
            (
                asked.request_id,
                self._wall(),
                asked.name,
                asked.models,
                asked.path,
                asked.peek,
                asked.size,
                asked.client,
                own_headers(asked.headers),
                outcome,
                reason,
                worker.worker_id if worker is not None else None,
                dict(asked.tried) if asked.tried else None,
                asked.waited,
                asked.notes,
                choice.needs,
                choice.seen,
                _kept(choice),
                tuple(choice.ruling.notes) if choice.ruling is not None else (),
                code,
            )
        )

    def __len__(self) -> int:
        return len(self._kept)

    def explain(self, request_id: str) -> DecisionRecord:
        """Raises NotFound."""
        found = next((kept for kept in reversed(self._kept) if kept[0] == request_id), None)
        if found is None:
            raise NotFound(
                f"The queen remembers no request {request_id[:128]!r}.",
                code="request_not_found",
                mend=f"She keeps the last {MOST_DECISIONS} since she started; the id is X-Request-Id of the answer.",
            )
        return self._record(found)

    def recent(self, limit: int = MOST_DECISIONS) -> Iterator[DecisionRecord]:
        """The last of them, the newest last."""
        latest: dict[str, tuple[Any, ...]] = {}
        for kept in reversed(self._kept):
            if len(latest) >= limit:
                break
            latest.setdefault(kept[0], kept)
        yield from map(self._record, reversed(latest.values()))

    def _record(self, kept: tuple[Any, ...]) -> DecisionRecord:
        (request_id, wall, name, models, path, peek, size, client, headers, outcome, reason, worker_id) = kept[:12]
        tried, waited, notes, needs, seen, judged, more, code = kept[12:]
        candidates, others, why = _candidates(needs, seen, judged, tried or {}, models, self._stale_after)
        at = rfc3339(datetime.fromtimestamp(wall, timezone.utc))
        return DecisionRecord(
            request_id=request_id,
            at=at,
            request=RequestRecord(
                model=name,
                models=models,
                path=path,
                stream=peek.stream,
                body_bytes=size,
                messages=peek.messages,
                tools=peek.tools,
                images=peek.images,
                max_tokens=peek.max_tokens,
                key=client.name,
                priority=client.priority,
                require=dict(needs.require),
                headers=shown(headers),
            ),
            outcome=outcome,
            reason=reason or why,
            code=code,
            worker_id=worker_id,
            attempts=tuple(f"{w}: {said}" for w, said in (tried or {}).items()),
            waited_ms=round(waited * 1e3, 3),
            candidates=candidates,
            others=others,
            notes=(*notes, *more),
        )


def _kept(choice: Choice) -> Decision[Worker] | Recalled[Worker] | _Judged | None:
    """What was decided with policies: as it is where it is little, else what is told of the workers that are kept."""
    decision, recalled, seen = choice.decision, choice.recalled, choice.seen
    if recalled is not None and len(recalled) <= MOST_CANDIDATES:
        return recalled
    if recalled is None and (decision is None or len(decision.verdicts) <= MOST_CANDIDATES):
        return decision
    ids = {snap[0].worker_id for snap in seen[1]} if seen is not None else set()
    if recalled is not None:
        return [one for one in recalled if one[0].worker_id in ids]
    assert decision is not None
    return _judged(decision, ids)


def _judged(decision: Decision[Any], ids: Container[str]) -> _Judged:
    verdicts = ((v.worker.worker_id, v) for v in decision.verdicts)
    return decision.reason, {name: (v.excluded, v.terms) for name, v in verdicts if name in ids}


def _candidates(
    needs: Needs,
    seen: tuple[Any, ...] | None,
    judged: Decision[Worker] | _Judged | Recalled[Worker] | None,
    tried: Mapping[str, str],
    models: tuple[str, ...],
    stale_after: float,
) -> tuple[tuple[CandidateRecord, ...], int, str]:
    """The workers of a decision, how many more there were, and why it came so."""
    if seen is None:
        return (), 0, ""
    now, snaps, count, affine = seen
    workers = [Seen(s) for s in snaps]
    groups = {m: [w for w in workers if w.beat.model == m] for m in models}
    if judged is None or isinstance(judged, list):
        judge = None if judged is None else Repeating({w.worker_id: said for w, said in judged})
        unseen = count - len(snaps)
        again = route(groups, needs, now, stale_after, tried=tried, affine=affine, judge=judge, unseen=unseen)
        judged = _judged(again, {w.worker_id for w in workers})
    elif isinstance(judged, Decision):
        judged = _judged(judged, {w.worker_id for w in workers})
    why, verdicts = judged
    found = tuple(_candidate(w, w.worker_id in affine, *verdicts.get(w.worker_id, (None, {}))) for w in workers)
    return found, count - len(found), why


def _candidate(w: Seen, affine: bool, excluded: str | None, terms: Mapping[str, float]) -> CandidateRecord:
    return CandidateRecord(
        id=w.worker_id,
        hive=w.beat.hive_id,
        model=w.beat.model,
        engine=w.beat.engine,
        type=w.beat.worker_type,
        device=w.beat.device,
        labels=dict(w.labels),
        status=w.status,
        slots=w.slots,
        busy=w.in_flight,
        load=round(min(1.0, w.in_flight / w.slots), 6) if w.slots else 1.0,
        context_length=w.context_length,
        capabilities=tuple(w.capabilities),
        tokens_per_sec=w.beat.avg_tokens_per_sec,
        affine=affine,
        excluded=excluded,
        terms={name: round(value, 6) for name, value in terms.items()},
    )
