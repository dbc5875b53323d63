# SPDX-License-Identifier: GPL-3.0-or-later
"""A routing decision with the reason for every worker: what `rbee.core.routing.pick` decides, explained. Pure.

Slower, and for two uses: where policies have a say, and to tell afterwards why it came so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from rbee.core.routing import AFFINE_BOUND, Candidate, Needs, lacks, why_not

W = TypeVar("W", bound=Candidate)

#: Sum of all other terms' differences that affinity outweighs: load and warmth differ by less within its bound.
AFFINE = 1.0
#: How reasons begin that other policies may change: a policy's own, and that another model comes first.
BY_POLICY, LATER = "left out by the policy", "is of another model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Generic[W]):
    """A worker in a decision. `excluded` says why it could not be chosen; otherwise `terms` make its score."""

    worker: W
    excluded: str | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    affine: bool = False

    @property
    def score(self) -> float:
        return sum(self.terms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[W]):
    """`able`: somebody could serve it once there is a free slot; `model`: whose workers those are."""

    chosen: W | None
    verdicts: tuple[Verdict[W], ...]
    reason: str
    able: bool
    model: str | None


class Judge(Protocol):
    """The policies of a request. Workers come as (worker, its model, whether it is affine)."""

    def excluded(self, workers: Sequence[tuple[Any, str, bool]]) -> Mapping[int, str]:
        """Which of these are left out, by their index, and by which policy."""
        ...

    def terms(self, workers: Sequence[tuple[Any, str, bool]]) -> Sequence[Mapping[str, float]]:
        """What policies add to the score of each, by the policies' names."""
        ...


def route(
    groups: Mapping[str, Sequence[W]],
    needs: Needs,
    now: float,
    stale_after: float,
    *,
    tried: Mapping[str, str] | None = None,
    affine: Sequence[str] = (),
    judge: Judge | None = None,
    unseen: int = 0,
) -> Decision[W]:
    """The decision over workers in groups, one for each model that may serve it, first choice first.

    The first model that somebody can serve is chosen, even when it must be waited for; one whose context likely
    holds the prompt goes before one that only may. `affine` are ids of workers that know the prompt's beginning;
    `unseen`: how many more there were, which are not here.
    """
    excluded: dict[int, str] = {}
    for group in groups.values():
        for worker in group:
            reason = why_not(worker, now, stale_after) or (tried or {}).get(worker.worker_id)
            reason = reason or lacks(worker, needs, needs.least)
            if reason is not None:
                excluded[id(worker)] = reason
    if judge is not None:
        asked = [(w, m, w.worker_id in affine) for m, group in groups.items() for w in group if id(w) not in excluded]
        for index, reason in judge.excluded(asked).items():
            excluded[id(asked[index][0])] = f"{BY_POLICY} {reason!r}"
    winner, tight = _first(groups, needs, excluded)
    if tight:
        for group in groups.values():
            excluded |= {id(w): r for w in group if id(w) not in excluded and (r := lacks(w, needs, needs.likely))}
    verdicts: list[Verdict[W]] = []
    for model, group in groups.items():
        if model == winner or winner is None:
            verdicts += _judged(model, group, excluded, affine, judge)
        else:
            later = f"{LATER}, {winner} is served first"
            verdicts += [Verdict(worker=w, excluded=excluded.get(id(w), later)) for w in group]
    chosen = _best(verdicts)
    return Decision(
        chosen=chosen.worker if chosen is not None else None,
        verdicts=tuple(verdicts),
        reason=_why(verdicts, chosen, unseen, able=winner is not None),
        able=winner is not None,
        model=winner,
    )


def _first(groups: Mapping[str, Sequence[W]], needs: Needs, excluded: Mapping[int, str]) -> tuple[str | None, bool]:
    """Which model is served, and whether contexts count that are likely too short."""
    for tight in (True, False) if needs.likely > needs.least else (False,):
        for model, group in groups.items():
            if any(id(w) not in excluded and not (tight and lacks(w, needs, needs.likely)) for w in group):
                return model, tight
    return None, False


def _judged(
    model: str, group: Sequence[W], excluded: Mapping[int, str], affine: Sequence[str], judge: Judge | None
) -> list[Verdict[W]]:
    free = [w for w in group if id(w) not in excluded and w.in_flight + w.foreign < w.slots]
    least = min((_load(w) for w in free), default=0.0)
    more = judge.terms([(w, model, w.worker_id in affine) for w in free]) if judge is not None else ()
    added = {id(w): terms for w, terms in zip(free, more, strict=False)}
    verdicts: list[Verdict[W]] = []
    for worker in group:
        busy = worker.in_flight + worker.foreign
        knows = worker.worker_id in affine
        reason = excluded.get(id(worker))
        if reason is None and busy >= worker.slots:
            reason = f"no free slot ({busy} of {worker.slots} taken)"
        if reason is not None:
            verdicts.append(Verdict(worker=worker, excluded=reason, affine=knows))
            continue
        terms = {"load": -busy / worker.slots if busy else 0.0}
        if worker.warm:
            terms["warm"] = worker.warm
        if knows:
            terms["affinity"] = AFFINE if _load(worker) <= least + AFFINE_BOUND else 0.0
        verdicts.append(Verdict(worker=worker, terms={**terms, **added.get(id(worker), {})}, affine=knows))
    return verdicts


def _load(worker: Candidate) -> float:
    return (worker.in_flight + worker.foreign) / worker.slots - worker.warm


def _best(verdicts: Sequence[Verdict[W]]) -> Verdict[W] | None:
    """The greatest score; of equals the one that was asked longest ago."""
    able = [v for v in verdicts if v.excluded is None]
    return min(able, key=lambda v: (-v.score, v.worker.picked), default=None)


def _why(verdicts: Sequence[Verdict[W]], chosen: Verdict[W] | None, unseen: int, able: bool) -> str:
    """The decision in a sentence."""
    if chosen is None:
        if able:
            return "Every worker that could serve it is busy."
        return "No worker can serve it." if verdicts else "No worker has its model."
    rivals = [v for v in verdicts if v.excluded is None and v is not chosen]
    if not rivals and not unseen:
        return "The only one that can." if len(verdicts) > 1 else "The only one of its model."
    count = f"{len(rivals) + 1 + unseen}{' or fewer' if unseen else ''}"
    best = {name: max((v.terms.get(name, 0.0) for v in rivals), default=0.0) for name in chosen.terms}
    if all(v.score == chosen.score for v in rivals):
        return f"Asked longest ago of {count} equals."
    ahead = {name: value - best[name] for name, value in chosen.terms.items() if value > best[name]}
    if not ahead:
        return f"The greatest score of {count}."
    name = max(ahead, key=lambda n: ahead[n])
    words = {
        "load": "The least busy",
        "warm": "It has answered before, which others have not; the best",
        "affinity": "It answered for the same leading messages before; the best",
    }
    return f"{words.get(name, f'By the policy {name!r} the best')} of {count}."
