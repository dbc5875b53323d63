# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a model takes until it is ready: measured, guessed, and what is left of it. Pure; all in seconds."""

from __future__ import annotations

#: How much of a new measurement goes into what is known.
_WEIGHT = 0.4
#: Of a model that was never loaded here: what a worker needs by itself, and what a good disk reads in a second. It is
#: the least that it takes: nobody shall be refused, for want of time, by a guess.
_BEGIN = 1.0
_BYTES_PER_SECOND = 1e9
#: Progress that is too small to count by.
_TOO_EARLY = 0.1


def blended(known: float | None, measured: float) -> float:
    """What is expected of the next load: an exponentially weighted mean."""
    return measured if known is None else known + _WEIGHT * (measured - known)


def guessed(size_bytes: int | None) -> float | None:
    """For a model of that size that was never measured; None when its size is unknown too."""
    return None if not size_bytes else _BEGIN + size_bytes / _BYTES_PER_SECOND


def left(elapsed: float, expected: float | None, progress: float | None) -> float | None:
    """What is left. By its own progress, once that is far enough to count by; else by what was expected; None when
    neither tells: it takes longer than ever before."""
    if progress is not None and progress >= _TOO_EARLY:
        return max(0.0, elapsed * (1 - min(1.0, progress)) / progress)
    return expected - elapsed if expected is not None and elapsed < expected else None
