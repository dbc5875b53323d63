# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at every machine of a fleet at once, and put what was seen into `Actual`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from rbee.contracts import defaults
from rbee.contracts.configs import QueenConfig
from rbee.core.actual import Actual, HiveActual, HiveLive, KnownTo, QueenActual, Unknown
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts
from rbee.core.problems import Problem
from rbee.core.records import Device, Mark, WorkerRecord
from rbee.core.spec import HiveSpec, Spec
from rbee.fleet import facts as look
from rbee.fleet.ports import HiveApi, QueenApi, Shell
from rbee.fleet.settings import local_url

#: Free bytes that a hive's home must have before anything is put there.
LEAST_DISK = 200 * 2**20


class Machines(Protocol):
    """Opens machines and their daemons; shells are kept for the whole command and closed by `close`."""

    def shell(self, hive: HiveSpec) -> Shell: ...
    def hive_api(self, hive: HiveSpec, url: str) -> HiveApi: ...
    def queen_api(self, url: str) -> QueenApi: ...
    def queen_config(self) -> QueenConfig | None:
        """Settings that the last apply wrote for the queen of this machine; None when there are none."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was seen, and the raw facts by hive that acting on the machines needs."""

    actual: Actual
    facts: Mapping[str, MachineFacts] = field(default_factory=dict)
    queen_config: QueenConfig | None = None
    #: Hives that this fleet's queen knows and the file does not name any more.
    dropped: Mapping[str, HiveSpec] = field(default_factory=dict)


def survey(
    spec: Spec,
    machines: Machines,
    *,
    libraries: Iterable[str] = (),
    parallelism: int = defaults.PARALLELISM,
    told: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Observe all machines of the file, and those that the queen still knows, at once. Raises nothing for a
    machine that cannot be seen: it is Unknown. `told` is called with each hive's name as it has been looked at.
    """
    before = machines.queen_config()
    before_of_us = before if before is not None and before.fleet == spec.fleet else None
    dropped = {
        k.hive_id: HiveSpec(name=k.hive_id, ssh=k.ssh, labels=dict(k.labels))
        for k in (before_of_us.hives if before_of_us else ())
        if k.hive_id not in spec.hives
    }
    hives = [*spec.hives.values(), *dropped.values()]
    wanted = sorted(set(libraries))

    def one(hive: HiveSpec) -> tuple[HiveActual | Unknown, MachineFacts | None]:
        try:
            return observe_hive(machines.shell(hive), hive, wanted)
        except RbeeError as e:
            return Unknown(why=e.message, mend=e.mend), None
        finally:
            told(hive.name)

    with ThreadPoolExecutor(max_workers=max(1, parallelism), thread_name_prefix="observe") as pool:
        seen = dict(zip((h.name for h in hives), pool.map(one, hives), strict=True))
    queen = observe_queen(spec, machines, before)
    return Survey(
        actual=Actual(queen=queen, hives={name: actual for name, (actual, _) in seen.items()}),
        facts={name: found for name, (_, found) in seen.items() if found is not None},
        queen_config=before_of_us,
        dropped=dropped,
    )


def observe_hive(shell: Shell, hive: HiveSpec, libraries: Sequence[str]) -> tuple[HiveActual | Unknown, MachineFacts]:
    """One machine. Raises RbeeError (Unreachable and others) when it cannot be seen."""
    seen = look.observe(shell, python=hive.python, libraries=libraries)
    facts, capabilities = seen.facts, seen.capabilities
    if facts.hive is not None and facts.hive.alive and capabilities is None and not seen.other_version:
        return (
            Unknown(
                why=f"Its hive runs (pid {facts.hive.pid}) but does not answer: {seen.capabilities_error or 'silence'}",
                mend="Look at its log in ~/.local/state/rbee, or stop that process and apply again.",
            ),
            facts,
        )
    live = None
    if seen.other_version and facts.hive is not None:
        # It answers in words of another rbee: known well enough to be replaced by this one's.
        live = HiveLive(fleet=facts.hive.fleet, release=facts.hive.release, config_digest="", url=facts.hive.url)
    if capabilities is not None:
        live = HiveLive(
            fleet=capabilities.fleet,
            release=capabilities.release,
            config_digest=capabilities.config_digest,
            url=capabilities.url,
        )
    return (
        HiveActual(
            address="" if hive.local else (facts.server_address or shell.peer_address),
            platform=facts.platform,
            controller_address=None if hive.local else facts.client_address,
            live=live,
            releases=tuple(r.id for r in facts.releases),
            release_fleets={r.id: r.mark.fleet for r in facts.releases if r.mark},
            token_digest=facts.token.digest if facts.token else None,
            devices=capabilities.devices if capabilities else guessed_devices(facts),
            models=capabilities.models if capabilities else facts.models,
            workers=capabilities.workers if capabilities else _workers(facts),
            binaries=facts.engines,
            memory_available=facts.memory_available,
            memory_total=facts.memory_total,
            cpu_flags=tuple(sorted(facts.cpu_flags)),
            missing_libraries=tuple(sorted(n for n, there in facts.libraries.items() if not there)),
            problems=tuple(machine_problems(hive.name, facts)),
        ),
        facts,
    )


def guessed_devices(facts: MachineFacts) -> tuple[Device, ...]:
    """Devices of a machine whose hive does not run yet: its CPU, and the GPUs that the probe saw."""
    cpu = Device(id="cpu", device_id=0, device_type="cpu", name="CPU", cores=facts.cpu_cores)
    gpus = tuple(
        Device(id=f"{kind}:{index}", device_id=index, device_type=kind, name=kind.upper())
        for kind, count in facts.gpus.items()
        for index in range(count)
    )
    return (cpu, *gpus)


def _workers(facts: MachineFacts) -> tuple[WorkerRecord, ...]:
    """Workers that outlived their hive, as their folders tell them."""
    return tuple(
        WorkerRecord(
            worker_id=w.worker_id, model=w.model, engine=w.engine, worker_type="", device="", port=0, url="",
            pid=w.pid, status="ready" if w.alive else "unloaded" if w.status == "unloaded" else "dead",
            mark=Mark(fleet=w.fleet, spec_digest=w.spec_digest) if w.fleet else None, idle_timeout=w.idle_timeout,
        )
        for w in facts.workers
    )  # fmt: skip


def machine_problems(name: str, facts: MachineFacts) -> Iterable[Problem]:
    """What keeps a machine from being a hive, each with its mend."""
    subject = f"hives.{name}"
    if facts.python is None:
        old = ", ".join(f"{p.path} is {p.shown}" for p in facts.old_pythons)
        yield Problem(
            summary=f"Hive {name!r} has no Python 3.10 or newer",
            detail=f"Found: {old}." if old else "No python3 was found there.",
            mend="Install one (Debian, Ubuntu: apt install python3), or name it with `python:` in rbee.yaml.",
            subject=subject,
        )
        return
    if facts.missing_modules:
        yield Problem(
            summary=f"Hive {name!r}: {facts.python.path} lacks {', '.join(facts.missing_modules)}",
            detail="It is a minimal Python, without parts of the standard library that rbee needs.",
            mend="Install the whole of it (Debian, Ubuntu: apt install python3), or name another with `python:`.",
            subject=subject,
        )
    if facts.os not in ("linux", "macos"):
        yield Problem(
            summary=f"Hive {name!r} runs {facts.os}, which rbee does not know",
            mend="Use a machine with Linux or macOS.",
            subject=subject,
        )
    full: set[int] = set()
    for what, disk in facts.disks.items():
        if not disk.writable:
            yield Problem(
                summary=f"Hive {name!r}: {disk.path} cannot be written",
                detail=f"rbee keeps its {what} there.",
                mend="Give this user the right to write there, or set XDG_* for it.",
                subject=subject,
            )
        elif disk.free < LEAST_DISK and not facts.releases and disk.free >> 20 not in full:
            full.add(disk.free >> 20)  # as much free to the megabyte: the same disk, told once
            yield Problem(
                summary=f"Hive {name!r} has too little disk",
                detail=f"{disk.path} has {disk.free / 2**20:.0f} MB free; rbee needs {LEAST_DISK / 2**20:.0f} MB.",
                mend="Free some space there.",
                subject=subject,
            )


def observe_queen(spec: Spec, machines: Machines, before: QueenConfig | None) -> QueenActual | Unknown:
    """The queen of this machine, by her settings file and her own answer."""
    if before is None:
        return QueenActual(running=False)
    if before.fleet != spec.fleet:
        return Unknown(
            why=f"This machine has a queen of the fleet {before.fleet!r}; this file is fleet {spec.fleet!r}.",
            mend=f"Run `rbee destroy` with the file of {before.fleet!r} first, or name this fleet the same.",
        )
    try:
        info = machines.queen_api(local_url(before.listen)).info()
    except RbeeError as e:
        if e.code not in ("unreachable", "refused"):
            return Unknown(why=f"The queen at {before.listen} does not answer as one: {e.message}", mend=e.mend)
        return QueenActual(running=False, fleet=before.fleet, hives=_known(before, set()))
    online = {str(h.get("hive_id")) for h in info.get("hives", ()) if h.get("status") == "online"}
    return QueenActual(
        running=True,
        workers=len(before.workers),
        fleet=str(info.get("fleet", "")),
        release=str(info.get("release", "")),
        config_digest=str(info.get("config_digest", "")),
        boot_digest=str(info.get("boot_digest", "")),
        token_digest=info.get("token_digest"),
        hives=_known(before, online),
    )


def _known(before: QueenConfig, online: set[str]) -> tuple[KnownTo, ...]:
    return tuple(KnownTo(hive_id=h.hive_id, url=h.url, online=h.hive_id in online, ssh=h.ssh) for h in before.hives)
