# SPDX-License-Identifier: GPL-3.0-or-later
"""What one queen hears of workers and hives, the others on the same store hear too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rbee.contracts import codec
from rbee.contracts.heartbeat import HiveHeartbeat, WorkerHeartbeat
from rbee.core.errors import RbeeError
from rbee.daemons.job_store import Store
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.registry import Registry

log = logging.getLogger(__name__)

_WORKER, _HIVE = "worker", "hive"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """`trusted`: whether the worker has shown the fleet's token to the queen who passes it on."""

    beat: WorkerHeartbeat
    trusted: bool


class KnownTogether:
    """Passes heartbeats on as they are taken in, and takes in those of other queens; with a store that is not shared
    it does neither. A heartbeat that is lost on the way is no loss: the next one comes, and who is silent is asked."""

    def __init__(self, store: Store, registry: Registry, hives: Hives) -> None:
        self._store = store
        self._registry = registry
        self._hives = hives
        self._forget: list[Callable[[], None]] = []

    def start(self) -> None:
        if self._store.shared:
            self._forget = [self._store.subscribe(_WORKER, self._worker), self._store.subscribe(_HIVE, self._hive)]

    def stop(self) -> None:
        for forget in self._forget:
            forget()
        self._forget.clear()

    def worker(self, beat: WorkerHeartbeat, trusted: bool) -> None:
        """This queen has just taken it in."""
        if self._store.shared:
            self._store.publish(_WORKER, codec.encode(_Told(beat=beat, trusted=trusted)))

    def hive(self, beat: HiveHeartbeat) -> None:
        """This queen has just taken it in."""
        if self._store.shared:
            self._store.publish(_HIVE, codec.encode(beat))

    def _worker(self, data: bytes) -> None:
        told = _read(_Told, data)
        if told is not None:
            try:
                self._registry.heartbeat(told.beat, told.trusted)
            except RbeeError as e:
                log.warning("another queen tells of the worker %s: %s", told.beat.worker_id, e)

    def _hive(self, data: bytes) -> None:
        beat = _read(HiveHeartbeat, data)
        if beat is not None:
            try:
                self._hives.heartbeat(beat)
            except RbeeError as e:  # her settings are newer, or older
                log.debug("another queen tells of the hive %s: %s", beat.hive_id, e)


def _read(kind: Any, data: bytes) -> Any:
    """None for nothing, and for what a queen of another release tells."""
    if not data:
        return None
    try:
        return codec.decode(kind, data)
    except codec.CodecError as e:
        log.warning("another queen tells what cannot be read: %s", e)
        return None
