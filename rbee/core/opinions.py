# SPDX-License-Identifier: GPL-3.0-or-later
"""What policies said of workers, remembered: for facts that were judged before nothing is evaluated again. Pure.

`recalled` comes to the same choice as `rbee.core.deciding.route` with the same policies; a property test holds them
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rbee.core.deciding import AFFINE, Judge
from rbee.core.routing import AFFINE_BOUND, Candidate, Needs, able, can

W = TypeVar("W", bound=Candidate)


class Opinion(NamedTuple):
    """`excluded`: the policy that leaves the worker out. `terms`: what policies add to its score, by their names; None:
    they were not asked, since it had no free slot."""

    excluded: str | None
    terms: Mapping[str, float] | None


#: Of a worker (with its model, and whether it is affine) in the state that it is in; None: nobody asked before.
Recall = Callable[[W, str, bool], "Opinion | None"]
#: What was recalled of each worker that could serve the request.
Recalled = list["tuple[W, Opinion]"]


def recalled(
    groups: Iterable[tuple[str, Iterable[W]]],
    needs: Needs,
    oldest: float,
    tried: Mapping[str, str],
    affine: Sequence[str],
    recall: Recall[W],
) -> tuple[W | None, Recalled[W]] | None:
    """The choice among workers in groups, one for each model, first choice first; its worker None: nobody has a free
    slot. None at all: of one of them nothing is known, and the policies have to be asked.

    `oldest`: workers must have been heard of since then. `affine` are ids of those that know the prompt's beginning.
    """
    heard: list[tuple[W, Opinion]] = []
    kept: list[tuple[str, W, Opinion]] = []
    for model, group in groups:
        for worker in group:
            if not able(worker, needs, needs.least, oldest, tried):
                continue
            opinion = recall(worker, model, bool(affine) and worker.worker_id in affine)
            if opinion is None:
                return None
            heard.append((worker, opinion))
            if opinion.excluded is None:
                kept.append((model, worker, opinion))
    if needs.likely > needs.least:
        kept = [one for one in kept if can(one[1], needs, needs.likely)] or kept
    if not kept:
        return None, heard
    served = kept[0][0]
    free = [(w, said) for model, w, said in kept if model == served and w.in_flight + w.foreign < w.slots]
    least = min([_load(w) for w, _ in free], default=0.0) if affine else 0.0
    best: W | None = None
    most = 0.0
    for worker, (_, terms) in free:
        if terms is None:
            return None
        score = -(worker.in_flight + worker.foreign) / worker.slots + worker.warm
        if affine and worker.worker_id in affine and _load(worker) <= least + AFFINE_BOUND:
            score += AFFINE
        for term in terms.values():
            score += term
        if best is None or score > most or (score == most and worker.picked < best.picked):
            best, most = worker, score
    return best, heard


def _load(worker: Candidate) -> float:
    return (worker.in_flight + worker.foreign) / worker.slots - worker.warm


class Listening:
    """A judge that keeps what another one says of each worker."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._asked: Sequence[tuple[Any, str, bool]] = ()
        self._excluded: Mapping[int, str] = {}
        self._terms: dict[int, Mapping[str, float]] = {}

    def excluded(self, workers: Sequence[tuple[Any, str, bool]]) -> Mapping[int, str]:
        self._asked, self._excluded = workers, self._judge.excluded(workers)
        return self._excluded

    def terms(self, workers: Sequence[tuple[Any, str, bool]]) -> Sequence[Mapping[str, float]]:
        found = self._judge.terms(workers)
        self._terms |= {id(w): terms for (w, _, _), terms in zip(workers, found, strict=True)}
        return found

    def heard(self) -> Iterable[tuple[Any, str, bool, Opinion]]:
        """Each worker that was asked about, its model, whether it is affine, and what was said."""
        for index, (worker, model, affine) in enumerate(self._asked):
            excluded = self._excluded.get(index)
            terms = self._terms.get(id(worker)) if excluded is None else {}
            yield worker, model, affine, Opinion(excluded, terms)


class Repeating:
    """A judge that says again what was said of workers, by their ids."""

    def __init__(self, said: Mapping[str, Opinion]) -> None:
        self._said = said

    def excluded(self, workers: Sequence[tuple[Any, str, bool]]) -> Mapping[int, str]:
        found = ((index, self._said.get(w.worker_id)) for index, (w, _, _) in enumerate(workers))
        return {index: said.excluded for index, said in found if said is not None and said.excluded is not None}

    def terms(self, workers: Sequence[tuple[Any, str, bool]]) -> Sequence[Mapping[str, float]]:
        said = (self._said.get(w.worker_id) for w, _, _ in workers)
        return [one.terms or {} if one is not None else {} for one in said]
