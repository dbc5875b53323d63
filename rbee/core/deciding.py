# SPDX-License-Identifier: GPL-3.0-or-later
"""A routing decision with the reason for every worker: what `rbee.core.routing.pick` decides, explained. Pure.

Slower, and for two uses: where policies have a say, and to tell afterwards why it came so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from rbee.core.routing import AFFINE_BOUND, Candidate, Needs, can, lacks, why_not
from rbee.core.routing import able as is_able

W = TypeVar("W", bound=Candidate)

#: Sum of all other terms' differences that affinity outweighs: load and warmth differ by less within its bound.
AFFINE = 1.0
#: How reasons begin that other policies may change: a policy's own, and that another model comes first.
BY_POLICY, LATER = "left out by the policy", "is of another model"


@dataclass(slots=True, kw_only=True)
class Verdict(Generic[W]):
    """A worker in a decision. `excluded` says why it could not be chosen; otherwise `terms` make its score.

    Not to be changed; but one is made for each worker at each decision, and a frozen one takes three times as long.
    """

    worker: W
    excluded: str | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    affine: bool = False

    @property
    def score(self) -> float:
        return sum(self.terms.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[W]):
    """`winner` is the verdict of the one chosen; `model`: whose workers are waited for when none has a free slot, None:
    nobody can serve it; `unseen`: how many more workers there were."""

    winner: Verdict[W] | None
    verdicts: tuple[Verdict[W], ...]
    model: str | None
    unseen: int = 0

    @property
    def chosen(self) -> W | None:
        return self.winner.worker if self.winner is not None else None

    @property
    def able(self) -> bool:
        """Whether somebody could serve it once there is a free slot."""
        return self.model is not None

    @property
    def reason(self) -> str:
        """The decision in a sentence, made when somebody asks."""
        return _why(self.verdicts, self.winner, self.unseen, self.able)


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
    failed = tried or {}
    for group in groups.values():
        for worker in group:
            # Most can: why not is asked of the others alone.
            if not is_able(worker, needs, needs.least, now - stale_after, failed):
                reason = why_not(worker, now, stale_after) or failed.get(worker.worker_id)
                excluded[id(worker)] = reason or lacks(worker, needs, needs.least) or "stale"
    if judge is not None:
        asked = [(w, m, w.worker_id in affine) for m, group in groups.items() for w in group if id(w) not in excluded]
        for index, reason in judge.excluded(asked).items():
            excluded[id(asked[index][0])] = f"{BY_POLICY} {reason!r}"
    winner, tight = _first(groups, needs, excluded)
    if tight:
        for group in groups.values():
            rest = (w for w in group if id(w) not in excluded and not can(w, needs, needs.likely))
            excluded |= {id(w): lacks(w, needs, needs.likely) or "" for w in rest}
    verdicts: list[Verdict[W]] = []
    for model, group in groups.items():
        if model == winner or winner is None:
            verdicts += _judged(model, group, excluded, affine, judge)
        else:
            later = f"{LATER}, {winner} is served first"
            verdicts += [Verdict(worker=w, excluded=excluded.get(id(w), later)) for w in group]
    return Decision(winner=_best(verdicts), verdicts=tuple(verdicts), model=winner, unseen=unseen)


def _first(groups: Mapping[str, Sequence[W]], needs: Needs, excluded: Mapping[int, str]) -> tuple[str | None, bool]:
    """Which model is served, and whether contexts count that are likely too short."""
    for tight in (True, False) if needs.likely > needs.least else (False,):
        for model, group in groups.items():
            if any(id(w) not in excluded and (not tight or can(w, needs, needs.likely)) for w in group):
                return model, tight
    return None, False


def _judged(
    model: str, group: Sequence[W], excluded: Mapping[int, str], affine: Sequence[str], judge: Judge | None
) -> list[Verdict[W]]:
    free = [w for w in group if id(w) not in excluded and w.in_flight + w.foreign < w.slots]
    least = min(map(_load, free), default=0.0) if affine else 0.0
    more = judge.terms([(w, model, w.worker_id in affine) for w in free]) if judge is not None else ()
    added = {id(w): terms for w, terms in zip(free, more, strict=False)}
    verdicts: list[Verdict[W]] = []
    for worker in group:
        busy = worker.in_flight + worker.foreign
        knows = bool(affine) and worker.worker_id in affine
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
        if added:
            terms |= added.get(id(worker), {})
        verdicts.append(Verdict(worker=worker, terms=terms, affine=knows))
    return verdicts


def _load(worker: Candidate) -> float:
    return (worker.in_flight + worker.foreign) / worker.slots - worker.warm


def _best(verdicts: Sequence[Verdict[W]]) -> Verdict[W] | None:
    """The greatest score; of equals the one that was asked longest ago."""
    best: Verdict[W] | None = None
    most = 0.0
    for verdict in verdicts:
        if verdict.excluded is None:
            score = verdict.score
            if best is None or (score, -verdict.worker.picked) > (most, -best.worker.picked):
                best, most = verdict, score
    return best


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
