# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers were seen to hold, kept over restarts: the second prediction for the same model, options and device
is the measured one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import psutil

from rbee.adapters.paths import write_atomic
from rbee.adapters.system import now
from rbee.contracts import codec
from rbee.core.digest import digest

log = logging.getLogger(__name__)

#: Models, options and devices that are kept; the one that was not used for longest goes first.
MOST: Final = 1000
#: Of each, so many measurements: the largest of them counts, so that one quiet run does not make the next one too
#: small, and one leak is not held against a model for ever.
SAMPLES: Final = 8
#: Of what was measured, predicted: the next run is never quite the same.
MARGIN: Final = 1.05
_LARGEST_FILE: Final = 4 * 2**20
_LARGEST: Final = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that decides how much a worker holds. `model` is the checksum of its file, or its id and size where nobody
    has counted one; `engine` names its version too. Of the options those that sizes depend on: not the threads."""

    model: str
    engine: str
    worker_type: str
    context_length: int | None
    slots: int
    batch_size: int | None
    task: str | None = None

    @property
    def key(self) -> str:
        return digest(self, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """`bytes` as measured, newest last; the rest is for whoever reads the file."""

    bytes: tuple[int, ...]
    model: str = ""
    engine: str = ""
    worker_type: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    version: int = 1
    seen: dict[str, Seen] = field(default_factory=dict)


class Remembered:
    """The file `memory.json`. Blocks on the disk; safe to call from several threads. A hurt or lost file is only
    forgotten: the formula is there without it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] | None = None

    def predicted(self, case: Case) -> int | None:
        """Bytes that a worker of this case will take, by what others took; None when none was measured."""
        with self._lock:
            found = self._load().get(case.key)
        return int(max(found.bytes) * MARGIN) if found is not None else None

    def note(self, case: Case, measured: int) -> None:
        """A worker of this case was seen to hold so many bytes."""
        if not 0 < measured < _LARGEST:
            return
        with self._lock:
            seen = self._load()
            former = seen.pop(case.key, None) or Seen(bytes=())
            # Put at the end: the order is that of use.
            seen[case.key] = replace(
                former,
                bytes=(*former.bytes, measured)[-SAMPLES:],
                model=case.model[:200],
                engine=case.engine,
                worker_type=case.worker_type,
                at=now(),
            )
            for key in list(seen)[:-MOST]:
                del seen[key]
            try:
                write_atomic(self._path, codec.encode_pretty(_File(seen=seen)), 0o600)
            except OSError as e:
                log.warning("what workers hold cannot be written down: %s", e)

    def _load(self) -> dict[str, Seen]:
        if self._seen is None:
            self._seen = self._read()
        return self._seen

    def _read(self) -> dict[str, Seen]:
        try:
            if self._path.stat().st_size > _LARGEST_FILE:
                raise codec.CodecError("it is too large")
            found = codec.decode(_File, self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, codec.CodecError) as e:
            log.warning("%s is not used, and made anew: %s", self._path, e)
            return {}
        sound = {k: s for k, s in found.seen.items() if s.bytes and all(0 < b < _LARGEST for b in s.bytes)}
        return dict(list(sound.items())[-MOST:])


def held(pids: Collection[int], resident: int, files: Collection[Path], size: int) -> int | None:
    """Bytes that these processes take once every page of the model was used; `resident` is what they hold now.

    Weights are mapped, and a page of them is resident only from its first use on: a worker that is just ready may
    have touched none. So the mapped pages of the model's `files` are counted by the files' whole `size`, whatever
    of them is there: `resident - resident pages of the files + size`. Weights that an engine has read instead of
    mapped are in `resident` already. None where the system does not tell what is mapped (it is better to use the
    formula than a number that may be too small), or when a process has gone meanwhile. Blocks some milliseconds.
    """
    names = {str(f.resolve()) for f in files} | {str(f) for f in files}
    mapped, here = False, 0
    for pid in pids:
        try:
            maps = psutil.Process(pid).memory_maps(grouped=True)
        except (psutil.Error, OSError, AttributeError):
            return None
        for one in maps:
            if one.path in names:
                mapped, here = True, here + one.rss
    if resident <= here:
        return None
    return resident - here + size if mapped else resident
