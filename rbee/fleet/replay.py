# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded decisions, decided again by other policies: what `rbee policy test` shows. Asks no machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rbee.contracts import codec
from rbee.contracts.decisions import CandidateRecord, DecisionRecord, RequestRecord
from rbee.core.deciding import AFFINE, BY_POLICY, LATER
from rbee.core.errors import InvalidRequest
from rbee.core.policy import OWN_TERMS, Policy, Ruling
from rbee.core.routing import AFFINE_BOUND

#: Refusals that are routing's own: with other policies there may be none. All others (a limit, a header) stay.
_OF_ROUTING = frozenset({"", "policy_rejected", "no_worker_ready", "model_loading"})
#: Bytes of a recording, and of a line of it.
MOST_BYTES, LONGEST_LINE = 256 * 2**20, 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One request: who was chosen then, and now. `rejected`: the policy's name and its reason."""

    request_id: str
    model: str
    then: str | None
    now: str | None
    rejected: tuple[str, str] | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    #: What it was refused with then, where that was not routing's doing.
    refused: str = ""
    #: Not all workers were recorded, or none: what would be chosen now is of those that were.
    partial: bool = False

    @property
    def changed(self) -> bool:
        return self.then != self.now and not self.refused


def records(lines: Iterable[bytes], name: str) -> Iterator[DecisionRecord]:
    """The decisions of a recording, one JSON object a line. Raises InvalidRequest with the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > LONGEST_LINE:
                raise codec.CodecError("it is too long")
            yield codec.decode(DecisionRecord, line)
        except codec.CodecError as e:
            mend = "`rbee explain --all` writes such a file."
            raise InvalidRequest(f"{name}:{number}: no recorded decision: {e}.", mend=mend) from None


def replay(record: DecisionRecord, policies: Sequence[Policy], clock: Callable[[], float]) -> Replayed:
    """The decision of these policies over the same workers, as they were."""
    request, failures = record.request, []
    ruling = Ruling(
        policies=[p for p in policies if p.asked(request.model, request.models)],
        name=request.model,
        request=_facts(request),
        look=_look,
        clock=clock,
        watch=clock,
        failed=lambda name, why: failures.append(f"{name}: {why}"),
    )
    rejected = ruling.rejected(request.models)
    chosen, terms, excluded = (None, {}, {}) if rejected is not None else _choose(record, ruling)
    return Replayed(
        request_id=record.request_id,
        model=request.model,
        then=record.worker_id,
        now=chosen,
        rejected=rejected,
        terms=terms,
        excluded=excluded,
        failures=tuple(failures),
        refused="" if record.worker_id is not None or record.code in _OF_ROUTING else record.code,
        partial=record.others > 0 or not record.candidates,
    )


def _choose(record: DecisionRecord, ruling: Ruling) -> tuple[str | None, Mapping[str, float], dict[str, str]]:
    """The worker, the terms of its score, and who is left out why."""
    could = [c for c in record.candidates if c.excluded is None or c.excluded.startswith((BY_POLICY, LATER))]
    excluded = {c.id: c.excluded for c in record.candidates if c.excluded is not None and c not in could}
    out = ruling.excluded([(c, c.model, c.affine) for c in could])
    excluded |= {could[index].id: f"{BY_POLICY} {name!r}" for index, name in out.items()}
    left = [c for c in could if c.id not in excluded]
    first = next((m for m in record.request.models if any(c.model == m for c in left)), None)
    free = [c for c in left if c.model == first and c.busy < c.slots]
    least = min((_load(c) for c in free), default=0.0)
    added = ruling.terms([(c, c.model, c.affine) for c in free])
    scored = [({**_own(c, least), **more}, c) for c, more in zip(free, added, strict=True)]
    # Of equals the one of then: which one was asked longest ago is not recorded.
    best = max(scored, key=lambda s: (round(sum(s[0].values()), 9), s[1].id == record.worker_id), default=None)
    return (best[1].id, best[0], excluded) if best is not None else (None, {}, excluded)


def _own(candidate: CandidateRecord, least: float) -> dict[str, float]:
    """The terms that are not policies': as recorded, or made again for one that a policy had left out."""
    if candidate.terms:
        return {name: value for name, value in candidate.terms.items() if name in OWN_TERMS}
    terms = {"load": -candidate.load if candidate.load else 0.0}
    if candidate.affine:
        terms["affinity"] = AFFINE if candidate.load <= least + AFFINE_BOUND else 0.0
    return terms


def _load(candidate: CandidateRecord) -> float:
    return candidate.load - candidate.terms.get("warm", 0.0)


def _facts(request: RequestRecord) -> dict[str, Any]:
    facts = {f"request.{f.name}": _plain(getattr(request, f.name)) for f in fields(request)}
    facts["request.max_tokens"] = request.max_tokens or 0
    return facts


def _look(candidate: CandidateRecord, name: str, affine: bool) -> Any:
    return _plain(getattr(candidate, name))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
