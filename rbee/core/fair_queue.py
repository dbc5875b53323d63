# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is next: a queue that is fair between those who wait in it, and one of two classes. Pure.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over flows: each key (a client) has a line of its own, first come
first served, and a tag that grows by 1/weight with each of its items that is served; the smallest tag is next. A key
that comes anew begins at the tag served last, so a thousand items of another delay it by one.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

#: Of the items that are served while `batch` waits, one in so many is batch's.
BATCH_EVERY = 16
#: Stale notes beyond those that are in use, before they are cleared away.
_SLACK = 64
#: Keys without items whose tags are remembered, at most; the newest ones.
_DEBTS = 1024


class _Flow(Generic[T]):
    """The items of one key. `tag` is that of its first item; `serial` marks its one valid entry in the heap."""

    __slots__ = ("items", "key", "serial", "tag", "weight")

    def __init__(self, key: str, tag: float, weight: int) -> None:
        self.items: OrderedDict[T, None] = OrderedDict()
        self.key = key
        self.tag = tag
        self.weight = weight
        self.serial = 0


class FairQueue(Generic[T]):
    """Items of many keys. Everything is O(log keys), but for an item served out of turn: O(keys).

    What was left (`discard`) costs its key nothing. A key that cannot use its turn (the caller serves a later one
    of `order`) loses it: turns are not saved up.
    """

    __slots__ = ("_debts", "_flows", "_heap", "_serial", "_size", "_tag", "_weight")

    def __init__(self) -> None:
        self._flows: dict[str, _Flow[T]] = {}
        self._heap: list[tuple[float, int, _Flow[T]]] = []
        #: Tags that keys without items have earned: who asks one at a time has no advantage by it.
        self._debts: dict[str, float] = {}
        self._tag = 0.0
        self._serial = 0
        self._size = 0
        self._weight = 0

    def __len__(self) -> int:
        return self._size

    def push(self, key: str, item: T, weight: int = 1, *, front: bool = False) -> None:
        """`item` waits, last of its key's, or first (`front`). It must not be there already."""
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(key, max(self._tag, self._debts.pop(key, 0.0)), weight)
            self._weight += weight
            self._note(flow)
        elif flow.weight != weight:
            self._weight += weight - flow.weight
            flow.weight = weight
        flow.items[item] = None
        if front:
            flow.items.move_to_end(item, last=False)
        self._size += 1

    def order(self) -> Iterator[tuple[str, T]]:
        """Keys and items, next first; those of a key whose first is not served follow it. Not to be used on after a
        change."""
        first = self._first()
        if first is None:
            return
        for item in first.items:
            yield first.key, item
        for _, serial, flow in sorted(self._heap, key=lambda entry: entry[:2]):
            if flow is not first and flow.serial == serial:
                for item in flow.items:
                    yield flow.key, item

    def serve(self, key: str, item: T) -> None:
        """`item` has had its turn."""
        flow = self._flows[key]
        del flow.items[item]
        if self._first() is not flow:
            self._lift(flow.tag)
        self._tag = flow.tag
        flow.tag += 1 / flow.weight
        self._size -= 1
        if flow.items:
            self._note(flow)
        else:
            self._close(flow)

    def discard(self, key: str, item: T) -> bool:
        """`item` waits no longer; whether it did."""
        flow = self._flows.get(key)
        if flow is None or item not in flow.items:
            return False
        del flow.items[item]
        self._size -= 1
        if not flow.items:
            self._close(flow)
        return True

    def ahead(self, key: str, weight: int = 1) -> int:
        """About how many are served before a new item of `key`: its own, and the others' share meanwhile."""
        flow = self._flows.get(key)
        own, others = (len(flow.items), self._weight - flow.weight) if flow is not None else (0, self._weight)
        return min(self._size, own + -(-(own + 1) * others // weight))

    def newest_of_most(self) -> T | None:
        """The last item of the key that has most for its weight. O(keys)."""
        return next(reversed(self._most().items)) if self._flows else None

    def crowded(self, key: str, weight: int = 1) -> T | None:
        """The last item of the key that has most for its weight, when it has more than `key` with one more; so who
        asks for much leaves room for others. O(keys)."""
        flow = self._flows.get(key)
        own = ((len(flow.items) if flow is not None else 0) + 1) / weight
        if not self._flows or len((most := self._most()).items) / most.weight <= own:
            return None
        return next(reversed(most.items))

    def _most(self) -> _Flow[T]:
        return max(self._flows.values(), key=lambda flow: len(flow.items) / flow.weight)

    def _note(self, flow: _Flow[T]) -> None:
        self._serial += 1
        flow.serial = self._serial
        heapq.heappush(self._heap, (flow.tag, flow.serial, flow))
        if len(self._heap) > 2 * len(self._flows) + _SLACK:
            self._heap = [entry for entry in self._heap if entry[2].serial == entry[1]]
            heapq.heapify(self._heap)

    def _first(self) -> _Flow[T] | None:
        heap = self._heap
        while heap:
            _, serial, flow = heap[0]
            if flow.serial == serial:
                return flow
            heapq.heappop(heap)
        return None

    def _lift(self, tag: float) -> None:
        """Nobody's tag is under `tag`; their order stays."""
        live = [entry for entry in sorted(self._heap, key=lambda e: e[:2]) if entry[2].serial == entry[1]]
        self._heap.clear()
        for old, _, flow in live:
            flow.tag = max(old, tag)
            self._serial += 1
            flow.serial = self._serial
            self._heap.append((flow.tag, flow.serial, flow))  # sorted: a heap

    def _close(self, flow: _Flow[T]) -> None:
        """Its last item has gone."""
        flow.serial = 0
        del self._flows[flow.key]
        self._weight -= flow.weight
        if not self._flows:  # nobody waits: nobody owes anyone
            self._heap.clear()
            self._debts.clear()
            self._tag = 0.0
            return
        if flow.tag > self._tag:
            self._debts[flow.key] = flow.tag
        if len(self._debts) > 2 * max(len(self._flows) + _SLACK, _DEBTS):
            owed = [(key, tag) for key, tag in self._debts.items() if tag > self._tag]
            self._debts = dict(owed[-_DEBTS:])


class Line(Generic[T]):
    """Two fair queues: `batch` waits behind all others, but one in BATCH_EVERY is its own."""

    __slots__ = ("_passed", "batch", "interactive")

    def __init__(self) -> None:
        self.interactive: FairQueue[T] = FairQueue()
        self.batch: FairQueue[T] = FairQueue()
        #: Served while batch waited, since its last turn.
        self._passed = 0

    def __len__(self) -> int:
        return len(self.interactive) + len(self.batch)

    def of(self, batch: bool) -> FairQueue[T]:
        return self.batch if batch else self.interactive

    def order(self) -> Iterator[tuple[bool, str, T]]:
        """Class (is it batch), key and item, next first."""
        turn = self._passed >= BATCH_EVERY - 1
        for batch in (turn, not turn):
            for key, item in self.of(batch).order():
                yield batch, key, item

    def serve(self, batch: bool, key: str, item: T) -> None:
        """`item` has had its turn."""
        self.of(batch).serve(key, item)
        self._passed = 0 if batch or not self.batch else self._passed + 1

    def ahead(self, batch: bool, key: str, weight: int = 1) -> int:
        """About how many are served before a new item."""
        return self.of(batch).ahead(key, weight) + (len(self.interactive) if batch else 0)

    def crowded(self, batch: bool, key: str, weight: int = 1) -> T | None:
        """Who makes room in a full line for a new item: the last of a key that has more than its share of the class; of
        the other class what is beyond its turns. None: nobody does."""
        share = len(self) // BATCH_EVERY
        if batch and len(self.batch) < share:
            return self.interactive.newest_of_most()
        if not batch and len(self.batch) > share:
            return self.batch.newest_of_most()
        return self.of(batch).crowded(key, weight)
