# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose memory is given to a worker that does not fit beside the others: who goes, in which order, or why nobody.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A worker that holds what another one needs. `memory_mb` None: nobody has measured it.

    `busy`: it serves requests, or some wait for its model. `pinned`: it shall always be there. `stayed`: seconds since
    it was ready; `last_used` is of any clock that goes forward.
    """

    worker_id: str
    model: str
    memory_mb: float | None
    last_used: float
    stayed: float
    busy: bool = False
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`evict`: these go now, in this order. `wait`: nobody may go now, but once the busy are idle there can be room.
    `none`: there cannot. `held` says who holds it, for a person."""

    kind: Literal["evict", "wait", "none"]
    evict: tuple[Resident, ...] = ()
    held: tuple[str, ...] = ()


def make_room(residents: Iterable[Resident], lacking_mb: float | None, min_stay: float) -> Room:
    """Who goes so that `lacking_mb` become free; None: nobody knows how much is lacking, one at a time.

    Only the idle go, never the pinned, nor who has stayed for less than `min_stay`: least recently used first, no more
    than needed, and none at all where all of them together would not do.
    """
    everyone = sorted(residents, key=lambda r: (r.last_used, r.worker_id))
    held = tuple(_held(r, min_stay) for r in everyone)
    unpinned = [r for r in everyone if not r.pinned]
    free = [r for r in unpinned if not r.busy and r.stayed >= min_stay]
    if free and _enough(free, lacking_mb):
        return Room(kind="evict", evict=_needed(free, lacking_mb), held=held)
    if unpinned and _enough(unpinned, lacking_mb):
        return Room(kind="wait", held=held)
    return Room(kind="none", held=held)


def _enough(residents: Sequence[Resident], lacking_mb: float | None) -> bool:
    """Whether they free it, as far as is known: one of unknown size may hold any amount."""
    if lacking_mb is None or any(r.memory_mb is None for r in residents):
        return True
    return sum(r.memory_mb or 0 for r in residents) >= lacking_mb


def _needed(free: Sequence[Resident], lacking_mb: float | None) -> tuple[Resident, ...]:
    """The least recently used until it is enough, without those that a later one makes needless."""
    if lacking_mb is None:
        return (free[0],)
    count = next(n for n in range(1, len(free) + 1) if _enough(free[:n], lacking_mb))
    chosen = list(free[:count])
    for resident in reversed(chosen[:-1]):  # the most recently used of the needless stays
        without = [r for r in chosen if r is not resident]
        if _enough(without, lacking_mb):
            chosen = without
    return tuple(chosen)


def _held(resident: Resident, min_stay: float) -> str:
    size = f", {resident.memory_mb:,.0f} MB" if resident.memory_mb is not None else ""
    if resident.pinned:
        why = "always kept"
    elif resident.busy:
        why = "busy"
    elif resident.stayed < min_stay:
        why = "just started"
    else:
        why = "idle"
    return f"{resident.worker_id} ({resident.model}{size}, {why})"
