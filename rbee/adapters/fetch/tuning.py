# SPDX-License-Identifier: GPL-3.0-or-later
"""When a connection is too slow, and when one is not enough."""

from __future__ import annotations

from dataclasses import dataclass

from rbee.contracts import defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What decides how a file is fetched; the defaults are for the world as it is."""

    #: A connection that says nothing for so many seconds has stalled,
    silence: float = 30.0
    #: and one that brings fewer bytes a second over as long a time.
    floor: float = 1024.0
    #: Connections for one file, where its server allows ranges and it is as large as this,
    connections: int = 4
    parallel_from: int = 64 * 2**20
    #: and the first connection is slower than this (bytes a second): a faster one is not what holds the download up.
    fast: float = 400e6
    #: The smallest range that a connection takes at a time.
    block: int = 16 * 2**20
    #: How often its speed is looked at.
    probe: float = 1.0
    backoff: float = defaults.BACKOFF_FIRST
    #: Seconds between two notes of which ranges are here: what a kill may lose of a download by several connections.
    note_every: float = 1.0

    def block_of(self, total: int) -> int:
        """Ranges in order and not too large, so that what is hashed is still in the page cache; not too many."""
        return min(max(self.block, total // 256), max(self.block, 256 * 2**20))
