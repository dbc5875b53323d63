# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a diff that is about one machine: its daemon, engines, models and workers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rbee.core.actions import Action, Change, Kind
from rbee.core.actual import HiveActual, in_place
from rbee.core.desired import Desired, HiveWanted, ModelWanted, WorkerWanted
from rbee.core.lifecycle import duration
from rbee.core.problems import Problem
from rbee.core.records import Mark, ModelRecord, WorkerRecord
from rbee.core.redact import redact


def new_action(
    kind: Kind, change: Change, name: str, reason: str, *, subject: str, hive: str | None = None, **params: object
) -> Action:
    label = f"{name} on {hive}" if kind.startswith(("model.", "engine.", "worker.")) else name
    return Action(
        id=f"{kind} {label}", kind=kind, change=change, subject=subject, name=name, hive=hive, reason=reason,
        params=dict(params),
    )  # fmt: skip


def ours(mark: Mark | None, fleet: str) -> bool:
    return mark is not None and mark.fleet == fleet


def hive_actions(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Action]:
    """What leads one machine from what was seen to what is wanted there."""
    if not wanted.local:
        yield from _daemon(wanted, seen, f"hives.{wanted.name}")
    staying = _staying(wanted, seen, fleet)
    yield from _engines(wanted, seen, fleet, {w.engine for w in staying})
    yield from _models(wanted, seen, fleet, {w.model for w in staying})
    yield from _workers(wanted, seen, fleet)


def _staying(wanted: HiveWanted, seen: HiveActual, fleet: str) -> list[WorkerRecord]:
    """Workers that are in place and go on as they are although this file does not describe them: made by hand, or held
    because what is wanted instead cannot be had now. Their engines and models stay too."""
    held = set(wanted.held) | {w.worker_id for w in wanted.workers if w.model in _taken(wanted, seen, fleet)}
    return [w for w in seen.workers if in_place(w) and (not ours(w.mark, fleet) or w.worker_id in held)]


def _taken(wanted: HiveWanted, seen: HiveActual, fleet: str) -> dict[str, ModelRecord]:
    """Wanted models whose name something else has there that is not this fleet's, and so cannot be overwritten."""
    found = {m.id: m for m in seen.models if m.status == "available" and not ours(m.mark, fleet)}
    return {m.name: found[m.name] for m in wanted.models if m.name in found and _model_reason(m, found[m.name])}


def _engines(wanted: HiveWanted, seen: HiveActual, fleet: str, used: set[str]) -> Iterator[Action]:
    name, here = wanted.name, {b.id for b in seen.binaries if b.status == "available"}
    for engine in wanted.engines:
        if engine.binary_id not in here:
            yield new_action(
                "engine.install", "add", engine.binary_id, "not installed", hive=name,
                subject=f"engines.{engine.engine}@{name}", engine=engine.engine,
            )  # fmt: skip
    needed = {e.binary_id for e in wanted.engines}
    for binary in seen.binaries:
        if binary.id not in needed and binary.engine not in used and ours(binary.mark, fleet):
            yield new_action(
                "engine.remove", "remove", binary.id, "no worker of this file needs it", hive=name,
                subject=f"engines.{binary.engine}@{name}",
            )  # fmt: skip


def _daemon(wanted: HiveWanted, seen: HiveActual, subject: str) -> Iterator[Action]:
    name, installed = wanted.name, wanted.release in seen.releases
    if not installed:
        yield new_action(
            "hive.install", "change" if seen.releases else "add", name,
            f"release {wanted.release} is not installed", hive=name, subject=subject, release=wanted.release,
        )  # fmt: skip
    if seen.live is None:
        yield new_action("hive.start", "add", name, "not running", hive=name, subject=subject, release=wanted.release)
        return
    reasons = [
        text
        for differs, text in (
            (seen.live.release != wanted.release, f"runs release {seen.live.release or '(unknown)'}"),
            (seen.token_digest != wanted.token_digest, "has another token"),
            (seen.live.config_digest != wanted.config_digest, "has other settings"),
        )
        if differs
    ]
    if reasons:
        yield new_action(
            "hive.restart", "change", name, "; ".join(reasons), hive=name, subject=subject, release=wanted.release
        )


def _models(wanted: HiveWanted, seen: HiveActual, fleet: str, used: set[str]) -> Iterator[Action]:
    name, taken = wanted.name, _taken(wanted, seen, fleet)
    found = {m.id: m for m in seen.models}
    for model in wanted.models:
        reason = _model_reason(model, found.get(model.name))
        if reason and model.name not in taken:
            kind: Kind = "model.push" if model.push_from else "model.fetch"
            yield new_action(
                kind, "add" if model.name not in found else "change", model.name, reason, hive=name,
                subject=f"models.{model.name}@{name}", source=model.source, revision=model.revision,
                commit=model.commit, sha256=model.sha256, push_from=model.push_from,
            )  # fmt: skip
    names = {m.name for m in wanted.models}
    for record in seen.models:
        if record.id not in names | used and ours(record.mark, fleet):
            yield _remove_model(record, name, "no worker of this file needs it there")


def _model_reason(model: ModelWanted, found: ModelRecord | None) -> str:
    """Why a model must be brought; empty when what is there will do."""
    if found is None:
        return "not on the machine"
    if found.status == "failed":
        return f"there, but unusable: {found.error or 'unknown reason'}"
    if found.status == "downloading":
        return "only half there"
    # A record holds no secret of its source.
    if (found.source, found.revision) != (redact(model.source), model.revision):
        return f"came from {found.source or 'elsewhere'}"
    if model.sha256 and found.checksum and found.checksum != model.sha256:
        return f"has SHA-256 {found.checksum[:12]}..., wanted {model.sha256[:12]}..."
    return ""


def _remove_model(record: ModelRecord, hive: str, reason: str) -> Action:
    return new_action("model.remove", "remove", record.id, reason, hive=hive, subject=f"models.{record.id}@{hive}")


def _workers(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Action]:
    found = {w.worker_id: w for w in seen.workers if ours(w.mark, fleet)}
    clashing = {w.worker_id for w in seen.workers if not ours(w.mark, fleet) and in_place(w)}
    taken, anew = _taken(wanted, seen, fleet), _fetched_anew(wanted, seen)
    for worker in wanted.workers:
        if worker.worker_id in clashing or worker.model in taken:
            continue
        record = found.get(worker.worker_id)
        if worker.on_demand:
            yield from _on_demand(worker, record, wanted.name, anew.get(worker.model, ""))
        elif record is None:
            yield _spawn("worker.spawn", "add", worker, wanted.name, f"model {worker.model} on {worker.device}")
        elif reason := _worker_reason(worker, record) or anew.get(worker.model, ""):
            yield _spawn("worker.replace", "replace", worker, wanted.name, reason, pid=record.pid)
        elif reason := _other_idle_timeout(worker, record):
            yield _spawn("worker.configure", "change", worker, wanted.name, reason)
    names = {w.worker_id for w in wanted.workers} | set(wanted.held)
    for worker_id, record in found.items():
        if worker_id not in names:
            yield _stop_worker(record, wanted.name, "not in this file (or placed elsewhere)")


def _on_demand(worker: WorkerWanted, record: WorkerRecord | None, hive: str, anew: str) -> Iterator[Action]:
    """One that only the queen starts. What there is of it from other settings goes, so that she starts it as it shall
    be; one that is not there, was unloaded or has failed is her matter."""
    if record is None:
        return
    runs = in_place(record) and record.status != "unloaded"
    if record.mark is not None and record.mark.spec_digest != worker.digest:
        reason = "its settings changed; the queen starts it when it is wanted"
        # With the digest: what she has started in its place meanwhile stays.
        yield _stop_worker(record, hive, reason, digest=worker.digest)
    elif runs and anew:
        yield _stop_worker(record, hive, f"{anew}; the queen starts it when it is wanted")
    elif runs and (reason := _other_idle_timeout(worker, record)):
        yield _spawn("worker.configure", "change", worker, hive, reason)


def _other_idle_timeout(worker: WorkerWanted, found: WorkerRecord) -> str:
    was, now = found.idle_timeout or None, worker.idle_timeout or None
    return "" if was == now else f"idle_timeout {_time(was)} -> {_time(now)}"


def _fetched_anew(wanted: HiveWanted, seen: HiveActual) -> dict[str, str]:
    """Why workers of a model must begin again although they are as wanted: what they have open is to be replaced."""
    found = {m.id: m for m in seen.models}
    changed = (m for m in wanted.models if m.name in found and _model_reason(m, found[m.name]))
    return {m.name: f"model {m.name} is brought anew" for m in changed}


def _worker_reason(worker: WorkerWanted, found: WorkerRecord) -> str:
    if not in_place(found):
        return f"{found.status}: {found.reason}" if found.reason else found.status
    if found.mark is None or found.mark.spec_digest == worker.digest:
        return ""
    changed = [
        f"{what} {was} -> {now}"
        for what, was, now in (("model", found.model, worker.model), ("device", found.device, worker.device))
        if was and was != now  # of a machine that is looked at without its hive not all is known
    ]
    return "; ".join(changed) or "its model, engine or options changed"


def _time(seconds: float | None) -> str:
    return "none" if seconds is None else duration(seconds)


def _spawn(kind: Kind, change: Change, worker: WorkerWanted, hive: str, reason: str, pid: int | None = None) -> Action:
    return new_action(
        kind, change, worker.worker_id, reason, hive=hive, subject=f"workers.{worker.worker_id}",
        model=worker.model, engine=worker.engine, binary_id=worker.binary_id, device=worker.device,
        options={
            "context_length": worker.options.context_length,
            "parallel": worker.options.parallel,
            "batch_size": worker.options.batch_size,
            "threads": worker.options.threads,
            "memory_limit_mb": worker.options.memory_limit_mb,
            "task": worker.options.task,
        },
        idle_timeout=worker.idle_timeout, digest=worker.digest, pid=pid,
    )  # fmt: skip


def _stop_worker(record: WorkerRecord, hive: str, reason: str, **params: object) -> Action:
    return new_action(
        "worker.stop", "remove", record.worker_id, reason, hive=hive, subject=f"workers.{record.worker_id}",
        pid=record.pid, model=record.model, **params,
    )  # fmt: skip


def leaves_work(seen: HiveActual, desired: Desired) -> bool:
    """Whether a hive that is to go has workers running or models on disk that only its daemon can clean up."""
    workers = any(ours(w.mark, desired.fleet) and in_place(w) for w in seen.workers)
    return workers or (not desired.keep_models and any(ours(m.mark, desired.fleet) for m in seen.models))


def removals(name: str, seen: HiveActual, desired: Desired) -> Iterator[Action]:
    """What cleans one machine up. A hive that does not run is started once more when it has left work behind."""
    fleet, reason = desired.fleet, "not in this file" if desired.queen else "the fleet is destroyed"
    revived = seen.live is None and leaves_work(seen, desired)
    installed = [r for r in seen.releases if seen.release_fleets.get(r) == fleet]
    if revived and seen.address and installed:
        yield new_action(
            "hive.start", "add", name, "not running; it must clean up", hive=name, subject=f"hives.{name}",
            release=installed[-1], as_it_was=True,
        )  # fmt: skip
    for record in seen.workers:
        if ours(record.mark, fleet) and (seen.live is not None or in_place(record)):
            yield _stop_worker(record, name, reason)
    for model in seen.models:
        if ours(model.mark, fleet) and not desired.keep_models:
            yield _remove_model(model, name, reason)
    for binary in seen.binaries:
        if ours(binary.mark, fleet):
            yield new_action(
                "engine.remove", "remove", binary.id, reason, hive=name, subject=f"engines.{binary.engine}@{name}"
            )
    if seen.address == "":  # this machine: its hive ends with the queen
        return
    if seen.live is not None or (revived and installed):
        yield new_action("hive.stop", "remove", name, reason, hive=name, subject=f"hives.{name}")
    if installed:
        yield new_action("hive.uninstall", "remove", name, reason, hive=name, subject=f"hives.{name}")


def clashes(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Problem]:
    """A problem for each thing on the machine that has a wanted name and is not this fleet's."""
    for record in _taken(wanted, seen, fleet).values():
        yield Problem(
            summary=f"Model {record.id!r} on {wanted.name!r} was not made by this fleet",
            detail=f"It came from {record.source or 'elsewhere'}, and rbee never overwrites what has no mark of it.",
            mend=f"Delete it by hand ({record.path}) or rename the model in rbee.yaml.",
            subject=f"models.{record.id}@{wanted.name}",
        )
    names = {w.worker_id for w in wanted.workers}
    for worker in seen.workers:
        if worker.worker_id in names and not ours(worker.mark, fleet) and in_place(worker):
            which = f"pid {worker.pid}" if worker.pid else "unloaded"
            yield Problem(
                summary=f"Worker {worker.worker_id!r} on {wanted.name!r} was not made by this fleet",
                detail="A worker of that name has not this fleet's mark, and rbee never takes over such a one.",
                mend=f"Stop it by hand ({which}) or rename the worker in rbee.yaml.",
                subject=f"workers.{worker.worker_id}",
            )
