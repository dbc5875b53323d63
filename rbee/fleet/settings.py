# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemons' settings, worked out from the Spec and from where the machines are. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from rbee.contracts import defaults
from rbee.contracts.configs import HiveConfig, KnownHive, KnownModel, KnownWorker, QueenConfig
from rbee.core.actual import HiveActual, Unknown
from rbee.core.desired import HiveWanted, WorkerWanted
from rbee.core.placement import worker_ids
from rbee.core.records import Mark
from rbee.core.sources import SourceProvider
from rbee.core.spec import HiveSpec, Spec


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` -> (host, port)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """(host, port) -> `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def queen_port(spec: Spec) -> int:
    return split_address(spec.queen.listen)[1]


def local_url(listen: str) -> str:
    """Where this machine's programs reach a daemon that listens there."""
    host, port = split_address(listen)
    anywhere = host in ("0.0.0.0", "::")
    return f"http://{join_address('127.0.0.1' if anywhere else host, port)}"


def queen_local_url(spec: Spec) -> str:
    """Where this machine's programs reach the queen."""
    return local_url(spec.queen.listen)


def queen_url_for(spec: Spec, hive: HiveSpec, seen: HiveActual) -> str | None:
    """Where that hive and its workers reach the queen; None when no address of this machine is known there."""
    if hive.local:
        return queen_local_url(spec)
    host = spec.queen.advertise or _listen_host(spec) or seen.controller_address
    return f"http://{join_address(host, queen_port(spec))}" if host else None


def _listen_host(spec: Spec) -> str | None:
    """The address of `queen.listen` when it is one that other machines can use."""
    host = split_address(spec.queen.listen)[0]
    return None if is_loopback(host) or host in ("0.0.0.0", "::") else host


def hive_config(
    spec: Spec,
    hive: HiveSpec,
    seen: HiveActual,
    *,
    token_file: str | None,
    release: str,
    sources: tuple[SourceProvider, ...] = (),
) -> HiveConfig:
    """Settings of a hive. On another machine it listens on the address that SSH reached, with the token."""
    if hive.listen:
        listen = hive.listen
    elif hive.local:
        listen = defaults.HIVE_LISTEN
    else:
        listen = join_address(seen.address, defaults.HIVE_PORT)
    first, last = hive.worker_ports.split("-")
    return HiveConfig(
        hive_id=hive.name,
        fleet=spec.fleet,
        listen=listen,
        token_file=token_file,
        queen_url=queen_url_for(spec, hive, seen),
        worker_ports=(int(first), int(last)),
        sources=sources,
        release=release,
    )


def hive_url(spec: Spec, hive: HiveSpec, seen: HiveActual) -> str:
    """Where the queen reaches a hive."""
    host, port = split_address(hive_config(spec, hive, seen, token_file=None, release="").listen)
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if hive.local else seen.address
    return f"http://{join_address(host, port)}"


def queen_config(
    spec: Spec,
    seen: Mapping[str, HiveActual | Unknown],
    before: QueenConfig | None,
    *,
    token_file: str,
    release: str,
    sources: tuple[SourceProvider, ...] = (),
) -> QueenConfig:
    """Settings of the queen, but for the workers (`known_workers`). What is known of a hive that cannot be seen now
    stays as it was (`before`), and so does a hive that the file dropped, until `hive.unregister` has cleaned it up."""
    kept = {h.hive_id: h for h in before.hives} if before else {}
    hives: list[KnownHive] = []
    listens: set[str] = set()
    local: HiveConfig | None = None
    unseen = False
    for hive in spec.hives.values():
        actual = seen.get(hive.name)
        if isinstance(actual, HiveActual):
            hives.append(
                KnownHive(hive_id=hive.name, url=hive_url(spec, hive, actual), labels=dict(hive.labels), ssh=hive.ssh)
            )
            if hive.local:
                local = hive_config(spec, hive, actual, token_file=token_file, release=release, sources=sources)
            elif host := spec.queen.advertise or actual.controller_address:
                listens.add(join_address(host, queen_port(spec)))
        elif hive.name in kept:
            hives.append(kept[hive.name])
            unseen = True
            if hive.local and before:
                local = before.local_hive
    hives.extend(known for name, known in kept.items() if name not in spec.hives)
    if unseen and before:
        listens.update(before.fleet_listen)
    if not is_loopback(split_address(spec.queen.listen)[0]):
        listens = set()
    return QueenConfig(
        fleet=spec.fleet,
        listen=spec.queen.listen,
        fleet_listen=tuple(sorted(listens)),
        token_file=token_file,
        hives=tuple(hives),
        models=tuple(KnownModel(name=m.name, source=m.source) for m in spec.models.values()),
        aliases=dict(spec.aliases),
        policies=dict(spec.policies),
        keys=dict(spec.queen.keys),
        limits=spec.queen.limits,
        store=spec.queen.store,
        store_password_file=spec.queen.store_password_file,
        traces=spec.queen.traces,
        access_log=spec.queen.access_log,
        local_hive=local,
        release=release,
    )


def known_workers(spec: Spec, wanted: Mapping[str, HiveWanted], before: QueenConfig | None) -> tuple[KnownWorker, ...]:
    """Workers as the queen is told of them, in the file's order: as they were placed. Of those that cannot be placed
    now (their machine is unreachable, has a problem) she keeps what she knew, while the file has worker and hive."""
    placed = {w.worker_id: _known_worker(spec.fleet, name, w) for name, h in wanted.items() for w in h.workers}
    kept = {w.worker_id: w for w in (before.workers if before else ()) if w.hive_id in spec.hives}
    found = (placed.get(i) or kept.get(i) for worker in spec.workers.values() for i in worker_ids(worker))
    return tuple(w for w in found if w is not None)


def _known_worker(fleet: str, hive: str, worker: WorkerWanted) -> KnownWorker:
    kind, _, index = worker.device.partition(":")
    return KnownWorker(
        worker_id=worker.worker_id,
        spec_name=worker.spec_name,
        model=worker.model,
        hive_id=hive,
        worker_type=kind,
        device=int(index or 0),
        engine=worker.engine,
        options=worker.options,
        idle_timeout=worker.idle_timeout,
        mark=Mark(fleet=fleet, spec_digest=worker.digest),
        on_demand=worker.on_demand,
    )
