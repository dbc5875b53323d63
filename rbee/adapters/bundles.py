# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes to a machine: rbee with its dependencies (a release), and engines. Made on the controller."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

from rbee.adapters import own_wheel, shipped
from rbee.adapters.paths import Paths
from rbee.adapters.wheels import WheelStore, for_target
from rbee.contracts import codec
from rbee.core.errors import RbeeError
from rbee.core.providers import EngineProvider, binary_id
from rbee.core.records import DeviceType, Mark, WorkerBinary
from rbee.fleet.ports import Bundle, Target, Wheel

_METAL = "macos-"


class PipBundler:
    """`Bundler` that fetches with pip, for any target, into one store."""

    def __init__(self, paths: Paths) -> None:
        self._store = WheelStore(paths.cache / "wheels")
        self._lock = threading.Lock()
        self._own: Wheel | None = None

    @cached_property
    def release_id(self) -> str:
        return own_wheel.release_id()

    def release(self, target: Target, mark: Mark) -> Bundle:
        """rbee and the wheels of its lock. Raises RbeeError `fetch_failed`, `bad_lock`."""
        lines = for_target(shipped.hive_lock().read_text(encoding="utf-8"), target)
        wheels = self._store.fetch(lines, target, index=None, find_links=None)
        with self._lock:
            if self._own is None:
                self._own = self._store.put(*own_wheel.build(self.release_id))
        metadata = {"id": self.release_id, "path": "{path}", "python": "{python}", "mark": codec.plain(mark)}
        return Bundle(kind="release", id=self.release_id, wheels=(*wheels, self._own), metadata=metadata)

    def engine(self, provider: EngineProvider, target: Target, mark: Mark) -> Bundle:
        """An engine's wheels. Raises RbeeError `no_engine` when the provider knows no such platform."""
        install = provider.install_for(target.platform)
        if install is None:
            raise RbeeError(f"{provider.name} cannot be installed on {target.platform}.", code="no_engine")
        lines = for_target("\n".join(install.requirements), target)
        wheels = self._store.fetch(lines, target, index=install.index, find_links=install.find_links)
        return Bundle(
            kind="engine",
            id=binary_id(provider, target.platform),
            wheels=tuple(wheels),
            metadata=engine_metadata(provider, target.platform, mark),
        )


def engine_metadata(provider: EngineProvider, platform: str, mark: Mark) -> dict[str, Any]:
    """metadata.json of an installed engine, with what only the machine can tell left open."""
    artifact = WorkerBinary(
        id=binary_id(provider, platform),
        engine=provider.name,
        version=provider.version,
        worker_type=worker_type(provider, platform),
        platform=platform,
        path="{path}",
        python="{python}",
        mark=mark,
    )
    return {
        "artifact": {**codec.to_mapping(artifact), "size_bytes": "{size}"},
        "provider": codec.plain(provider),
        "added_at": "{now}",
        "last_accessed": "{now}",
    }


def worker_type(provider: EngineProvider, platform: str) -> DeviceType:
    """The best device type that the engine can have on a platform: Apple's GPUs are Apple's only."""
    fitting = [t for t in provider.worker_types if t == "cpu" or (t == "metal") == platform.startswith(_METAL)]
    return fitting[0] if fitting else "cpu"
