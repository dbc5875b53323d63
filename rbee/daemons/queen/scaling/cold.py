# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's way from nobody to somebody: the best worker that can be started, room for it where that is lacking."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from rbee.core.errors import RbeeError
from rbee.core.eviction import Room
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.scaling.candidates import Candidate, Found
from rbee.daemons.queen.scaling.launching import Launcher
from rbee.daemons.queen.scaling.rooms import Rooms, Short
from rbee.daemons.queen.scaling.troubles import Troubles

log = logging.getLogger(__name__)

#: Between looks whether there is room by now.
_LOOK = 0.5
#: The hive is asked again though nothing has changed, as far as the queen sees: memory may be free all the same.
_ASK_AGAIN = 15.0


#: What a try came to: it is there, it failed, or what it lacks.
Became = Literal["there", "failed"] | Short


class ColdStart:
    """One at a time for a model on hives with certain labels: `find` gives those that could be started, `served` says
    whether that is needed no more. `queued`: it waits, for room or for a hive; `hive_id` is where it begins."""

    def __init__(
        self,
        model: str,
        hive_id: str,
        *,
        find: Callable[[], Found],
        served: Callable[[], bool],
        wanted: Callable[[], bool],
        registry: Registry,
        launcher: Launcher,
        rooms: Rooms,
        troubles: Troubles,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.hive_id = hive_id
        self.queued = False
        self._find = find
        self._served = served
        self._wanted = wanted
        self._registry = registry
        self._launcher = launcher
        self._rooms = rooms
        self._troubles = troubles
        self._clock = clock

    async def run(self) -> None:
        """Until a worker of the model is there, all that could be have failed, or nobody wants it while there is no
        room. Says what failed in the troubles."""
        while not self._served():
            found = self._find()
            able = [c for c in found.candidates if not self._troubles.holds_back(c.worker_id, self._clock())]
            if any(c.worker_id in self._launcher.going for c in able):
                await self._registry.changed(_LOOK)
                continue
            if not able:
                if not found.pending or not self._wanted():
                    return
                self.queued = True
                await self._registry.changed(_LOOK)
                continue
            short: dict[Candidate, Short] = {}
            for candidate in able:
                became = await self._try(candidate)
                if became == "there" or self._served():
                    return
                if isinstance(became, Short):
                    short[candidate] = became
            if short and not await self._with_room(short):
                return

    async def _try(self, candidate: Candidate, short: Short | None = None) -> Became:
        """Starts it, in the room made for it where it was `short`."""

        async def room() -> bool:
            return short is None or (await self._rooms.make(candidate, short)).kind == "evict"

        self.queued = False
        try:
            if not await self._launcher.launch(candidate, None if short is None else room):
                return short or "failed"
        except Short as e:
            return e
        except RbeeError as e:
            trouble = self._troubles.note(candidate.worker_id, str(e), self._clock())
            log.warning("worker %s cannot be started (%d.): %s", candidate.worker_id, trouble.times, e)
            return "failed"
        self._troubles.over(candidate.worker_id)
        return "there"

    async def _with_room(self, short: dict[Candidate, Short]) -> bool:
        """Waits until one of them can have room, and tries it; whether all are worth a try again."""
        asked_at = self._clock()
        before: dict[Candidate, int] = {}
        while not self._served():
            rooms = {c: self._rooms.plan(c, lacks) for c, lacks in short.items()}
            if any(len(room.held) < before.setdefault(c, len(room.held)) for c, room in rooms.items()):
                return True  # somebody has gone by himself: perhaps that was enough
            for candidate in [c for c, room in rooms.items() if room.kind == "evict"]:
                became = await self._try(candidate, short[candidate])
                if not isinstance(became, Short):
                    return became == "failed"
                short[candidate] = became
            if all(room.kind == "none" for room in rooms.values()):
                self._no_room(short, rooms)
                return False
            if not self._wanted():
                return False
            if self._clock() - asked_at > _ASK_AGAIN:
                return True
            self.queued = True
            await self._registry.changed(_LOOK)
        return True

    def _no_room(self, short: dict[Candidate, Short], rooms: dict[Candidate, Room]) -> None:
        for candidate, lacks in short.items():
            held = rooms[candidate].held
            why = f"{lacks} Held by {', '.join(held)}." if held else str(lacks)
            self._troubles.note(candidate.worker_id, why, self._clock())
            log.warning("no room for worker %s: %s", candidate.worker_id, why)
