# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired x Actual -> the actions that lead from one to the other, and the problems in the way. Pure.

Three rules hold whatever the input: nothing is done to a machine that is Unknown or has a problem; nothing is
removed that does not carry this fleet's mark; a fleet that is as desired yields no action.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rbee.core.actions import Action, Change, Kind
from rbee.core.actual import ALIVE, Actual, HiveActual, QueenActual, Unknown
from rbee.core.desired import Desired, HiveWanted, ModelWanted, QueenWanted, WorkerWanted
from rbee.core.problems import Problem
from rbee.core.records import Mark, ModelRecord, WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Actions without their order (see `rbee.core.order`), and what stands in the way."""

    actions: tuple[Action, ...] = ()
    problems: tuple[Problem, ...] = ()


def _action(
    kind: Kind, change: Change, name: str, reason: str, *, subject: str, hive: str | None = None, **params: object
) -> Action:
    label = f"{name} on {hive}" if kind.startswith(("model.", "engine.")) else name
    return Action(
        id=f"{kind} {label}", kind=kind, change=change, subject=subject, name=name, hive=hive, reason=reason,
        params=dict(params),
    )  # fmt: skip


def _ours(mark: Mark | None, fleet: str) -> bool:
    return mark is not None and mark.fleet == fleet


def diff(desired: Desired, actual: Actual) -> Diff:
    """Every difference, each with its reason. Raises nothing: what is in the way is a problem."""
    problems = list(desired.problems)
    actions: list[Action] = []
    blocked: set[str] = set()
    for name in sorted(desired.hives.keys() | actual.hives.keys()):
        wanted, seen = desired.hives.get(name), actual.hives.get(name)
        if seen is None or isinstance(seen, Unknown):
            why = seen if seen is not None else Unknown(why="it was not looked at")
            problems.append(
                Problem(
                    summary=f"Hive {name!r} could not be observed, so nothing is planned for it",
                    detail=why.why, mend=why.mend, subject=f"hives.{name}",
                )
            )  # fmt: skip
            blocked.add(name)
        elif wanted is not None and seen.problems:
            problems.extend(seen.problems)
            blocked.add(name)
        elif foreign := _foreign(name, seen, desired.fleet):
            problems.append(foreign)
            blocked.add(name)
        elif wanted is None:
            actions.extend(_remove_hive(name, seen, desired))
        else:
            actions.extend(_hive(wanted, seen, desired.fleet))
            problems.extend(_clashes(wanted, seen, desired.fleet))
    actions.extend(_queen(desired, actual, blocked))
    if isinstance(actual.queen, Unknown):
        problems.append(
            Problem(
                summary="The queen could not be observed, so nothing is planned for it",
                detail=actual.queen.why, mend=actual.queen.mend, subject="queen",
            )
        )  # fmt: skip
    return Diff(actions=tuple(actions), problems=tuple(problems))


def _foreign(name: str, seen: HiveActual, fleet: str) -> Problem | None:
    if seen.live is None or seen.live.fleet == fleet:
        return None
    return Problem(
        summary=f"Hive {name!r} belongs to the fleet {seen.live.fleet!r}",
        detail=f"A hive of another fleet runs at {seen.address}; this file is fleet {fleet!r}.",
        mend="Destroy that fleet first, or give this one its own address and ports.",
        subject=f"hives.{name}",
    )


def _clashes(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Problem]:
    names = {w.worker_id for w in wanted.workers}
    for worker in seen.workers:
        if worker.worker_id in names and not _ours(worker.mark, fleet) and worker.status in ALIVE:
            yield Problem(
                summary=f"Worker {worker.worker_id!r} on {wanted.name!r} was not made by this fleet",
                detail="A worker of that name runs without this fleet's mark, and rbee never takes over such a one.",
                mend=f"Stop it by hand (pid {worker.pid}) or rename the worker in rbee.yaml.",
                subject=f"workers.{worker.worker_id}",
            )


# ---------------------------------------------------------------- a hive


def _hive(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Action]:
    name, subject = wanted.name, f"hives.{wanted.name}"
    if not wanted.local:
        yield from _daemon(wanted, seen, subject)
    here = {b.id for b in seen.binaries if b.status == "available"}
    for engine in wanted.engines:
        if engine.binary_id not in here:
            yield _action(
                "engine.install", "add", engine.binary_id, "not installed", hive=name,
                subject=f"engines.{engine.engine}@{name}", engine=engine.engine,
            )  # fmt: skip
    needed = {e.binary_id for e in wanted.engines} | {
        w.engine for w in seen.workers if not _ours(w.mark, fleet) and w.status in ALIVE
    }
    for binary in seen.binaries:
        if binary.id not in needed and _ours(binary.mark, fleet):
            yield _action(
                "engine.remove", "remove", binary.id, "no worker of this file needs it", hive=name,
                subject=f"engines.{binary.engine}@{name}",
            )  # fmt: skip
    yield from _models(wanted, seen, fleet)
    yield from _workers(wanted, seen, fleet)


def _daemon(wanted: HiveWanted, seen: HiveActual, subject: str) -> Iterator[Action]:
    name, installed = wanted.name, wanted.release in seen.releases
    if not installed:
        yield _action(
            "hive.install", "change" if seen.releases else "add", name,
            f"release {wanted.release} is not installed", hive=name, subject=subject, release=wanted.release,
        )  # fmt: skip
    if seen.live is None:
        yield _action("hive.start", "add", name, "not running", hive=name, subject=subject, release=wanted.release)
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
        yield _action(
            "hive.restart", "change", name, "; ".join(reasons), hive=name, subject=subject, release=wanted.release
        )


def _models(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Action]:
    name = wanted.name
    found = {m.id: m for m in seen.models}
    for model in wanted.models:
        reason = _model_reason(model, found.get(model.name))
        if reason:
            kind: Kind = "model.push" if model.push_from else "model.fetch"
            yield _action(
                kind, "add" if model.name not in found else "change", model.name, reason, hive=name,
                subject=f"models.{model.name}@{name}", source=model.source, revision=model.revision,
                sha256=model.sha256, push_from=model.push_from,
            )  # fmt: skip
    names = {m.name for m in wanted.models}
    for record in seen.models:
        if record.id not in names and _ours(record.mark, fleet):
            yield _remove_model(record, name, "no worker of this file needs it there")


def _model_reason(model: ModelWanted, found: ModelRecord | None) -> str:
    """Why a model must be brought; empty when what is there will do."""
    if found is None:
        return "not on the machine"
    if found.status == "failed":
        return f"there, but unusable: {found.error or 'unknown reason'}"
    if found.status == "downloading":
        return "only half there"
    if (found.source, found.revision) != (model.source, model.revision):
        return f"came from {found.source or 'elsewhere'}"
    if model.sha256 and found.checksum and found.checksum != model.sha256:
        return f"has SHA-256 {found.checksum[:12]}..., wanted {model.sha256[:12]}..."
    return ""


def _remove_model(record: ModelRecord, hive: str, reason: str) -> Action:
    return _action("model.remove", "remove", record.id, reason, hive=hive, subject=f"models.{record.id}@{hive}")


def _workers(wanted: HiveWanted, seen: HiveActual, fleet: str) -> Iterator[Action]:
    found = {w.worker_id: w for w in seen.workers if _ours(w.mark, fleet)}
    clashing = {w.worker_id for w in seen.workers if not _ours(w.mark, fleet) and w.status in ALIVE}
    for worker in wanted.workers:
        if worker.worker_id in clashing:
            continue
        record = found.get(worker.worker_id)
        if record is None:
            yield _spawn("worker.spawn", "add", worker, wanted.name, f"model {worker.model} on {worker.device}")
        elif reason := _worker_reason(worker, record):
            yield _spawn("worker.replace", "replace", worker, wanted.name, reason, pid=record.pid)
    names = {w.worker_id for w in wanted.workers}
    for worker_id, record in found.items():
        if worker_id not in names:
            yield _stop_worker(record, wanted.name, "not in this file (or placed elsewhere)")


def _worker_reason(worker: WorkerWanted, found: WorkerRecord) -> str:
    if found.status not in ALIVE:
        return f"{found.status}: {found.reason}" if found.reason else found.status
    if found.mark is None or found.mark.spec_digest == worker.digest:
        return ""
    changed = [
        f"{what} {was} -> {now}"
        for what, was, now in (("model", found.model, worker.model), ("device", found.device, worker.device))
        if was != now
    ]
    return "; ".join(changed) or "its model, engine or options changed"


def _spawn(kind: Kind, change: Change, worker: WorkerWanted, hive: str, reason: str, pid: int | None = None) -> Action:
    return _action(
        kind, change, worker.worker_id, reason, hive=hive, subject=f"workers.{worker.worker_id}",
        model=worker.model, engine=worker.engine, binary_id=worker.binary_id, device=worker.device,
        options={
            "context_length": worker.options.context_length,
            "parallel": worker.options.parallel,
            "batch_size": worker.options.batch_size,
            "threads": worker.options.threads,
        },
        digest=worker.digest, pid=pid,
    )  # fmt: skip


def _stop_worker(record: WorkerRecord, hive: str, reason: str) -> Action:
    return _action(
        "worker.stop", "remove", record.worker_id, reason, hive=hive, subject=f"workers.{record.worker_id}",
        pid=record.pid, model=record.model,
    )  # fmt: skip


def _remove_hive(name: str, seen: HiveActual, desired: Desired) -> Iterator[Action]:
    fleet, reason = desired.fleet, "not in this file" if desired.queen else "the fleet is destroyed"
    for record in seen.workers:
        if _ours(record.mark, fleet):
            yield _stop_worker(record, name, reason)
    for model in seen.models:
        if _ours(model.mark, fleet) and not desired.keep_models:
            yield _remove_model(model, name, reason)
    for binary in seen.binaries:
        if _ours(binary.mark, fleet):
            yield _action(
                "engine.remove", "remove", binary.id, reason, hive=name, subject=f"engines.{binary.engine}@{name}"
            )
    if seen.address == "":  # this machine: its hive ends with the queen
        return
    if seen.live is not None:
        yield _action("hive.stop", "remove", name, reason, hive=name, subject=f"hives.{name}")
    if seen.releases:
        yield _action("hive.uninstall", "remove", name, reason, hive=name, subject=f"hives.{name}")


# ---------------------------------------------------------------- the queen


def _queen(desired: Desired, actual: Actual, blocked: set[str]) -> Iterator[Action]:
    seen, wanted = actual.queen, desired.queen
    if isinstance(seen, Unknown):
        return
    if wanted is None:
        if seen.running:
            yield _action("queen.stop", "remove", "queen", "the fleet is destroyed", subject="queen")
        return
    yield from _queen_daemon(wanted, seen)
    online = {h.hive_id for h in seen.hives if h.online} if seen.running else set()
    for hive in wanted.hives:
        if hive not in online and hive not in blocked and not desired.hives[hive].local:
            yield _action("hive.register", "add", hive, "unknown to the queen", hive=hive, subject=f"hives.{hive}")
    for known in seen.hives:
        if known.hive_id not in wanted.hives and known.hive_id not in blocked:
            yield _action(
                "hive.unregister", "remove", known.hive_id, "not in this file", hive=known.hive_id,
                subject=f"hives.{known.hive_id}",
            )  # fmt: skip


def _queen_daemon(wanted: QueenWanted, seen: QueenActual) -> Iterator[Action]:
    if not seen.running:
        yield _action("queen.start", "add", "queen", "not running", subject="queen")
        return
    reasons = [
        text
        for differs, text in (
            (seen.release != wanted.release, f"runs release {seen.release or '(unknown)'}"),
            (seen.token_digest != wanted.token_digest, "has another token"),
            (seen.boot_digest != wanted.boot_digest, "listens or embeds its hive otherwise"),
        )
        if differs
    ]
    if reasons:
        yield _action("queen.restart", "change", "queen", "; ".join(reasons), subject="queen")
    elif seen.config_digest != wanted.config_digest:
        yield _action(
            "queen.configure", "change", "queen", "models, aliases, policies or hives changed", subject="queen"
        )
