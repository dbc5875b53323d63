# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's state for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rbee.cli.views.problems import harmless
from rbee.contracts.operations.fleet import PlannedWorker, StatusResponse, WorkerSummary

_COLOUR = {
    **dict.fromkeys(("online", "ready", "busy"), "green"),
    **dict.fromkeys(("starting", "stopping"), "yellow"),
    **dict.fromkeys(("unloaded", "on demand"), "dim"),
}


def well(found: StatusResponse) -> bool:
    """Whether every hive is online and every worker is routable, on its way, or there when it will be wanted."""
    return (
        all(h.status == "online" for h in found.hives)
        and all(
            w.routable or (w.worker.status in ("starting", "stopping", "unloaded") and w.trouble is None)
            for w in found.workers
        )
        and all(w.state in ("starting", "on_demand") for w in found.planned)
    )


def render(found: StatusResponse) -> Iterator[RenderableType]:
    """Queen, hives, workers; then the reasons of whatever is not well."""
    head = f"Fleet {found.fleet}: queen {found.version}, up {_duration(found.uptime_seconds)}, "
    yield Text(head + f"{found.requests_total} requests ({found.requests_active} now)", style="bold")
    hives = _table("HIVE", "STATUS", "URL", "DEVICES", "MODELS")
    for hive in found.hives:
        devices = ", ".join(d.id for d in hive.devices)
        hives.add_row(hive.hive_id, _state(hive.status), hive.url, devices, ", ".join(hive.models))
    workers = _table("WORKER", "STATUS", "MODEL", "HIVE", "DEVICE", "ENGINE", "BUSY", "REQUESTS", "TOKENS/S")
    rows = [((w.worker.model, w.worker.worker_id), _worker(w)) for w in found.workers]
    rows += [((w.model, w.worker_id), _planned(w)) for w in found.planned]
    for _, row in sorted(rows, key=lambda r: r[0]):
        workers.add_row(*row)
    yield hives
    yield workers
    for name, models in sorted(found.aliases.items()):
        yield Text(f"alias {name} -> {', '.join(models)}", style="dim")
    for hive in found.hives:
        if hive.error and hive.status != "online":
            yield Text(harmless(f"hive {hive.hive_id}: {hive.error}"), style="red")
    for summary in found.workers:
        reason = summary.worker.reason or summary.reason
        if reason and not summary.routable:
            style = "dim" if summary.worker.status == "unloaded" else "red"
            yield Text(harmless(f"worker {summary.worker.worker_id}: {reason}"), style=style)
    yield from _troubles(found)
    for planned in found.planned:
        if planned.state == "missing":
            said = f"worker {planned.worker_id}: not running; the next request for {planned.model} starts it, or apply."
            yield Text(harmless(said), style="red")


def _troubles(found: StatusResponse) -> Iterator[Text]:
    """Why workers could not be started that were wanted, and when that may be tried again."""
    known = [(w.worker.worker_id, "failed", w.trouble) for w in found.workers]
    known += [(w.worker_id, w.state, w.trouble) for w in found.planned]
    for worker_id, state, trouble in known:
        if trouble is None:
            continue
        what = "no room for one replica more" if state == "on_demand" else "could not be started"
        tries = f" ({trouble.times} tries)" if trouble.times > 1 else ""
        when = f", not before {_duration(trouble.retry_seconds + 0.5)} from now" if trouble.retry_seconds else ""
        said = f"worker {worker_id} {what}{tries}: {trouble.why.rstrip('.')}. Tried again when it is wanted{when}."
        yield Text(harmless(said), style="dim" if state == "on_demand" else "red")


def _worker(summary: WorkerSummary) -> tuple[RenderableType, ...]:
    w = summary.worker
    speed = f"{w.avg_tokens_per_sec:.1f}" if w.avg_tokens_per_sec else "-"
    state = w.status if summary.routable or w.status not in ("ready", "busy") else "unreachable"
    return (
        w.worker_id, _state(state), w.model, w.hive_id, w.device, w.engine, f"{w.slots_busy}/{w.slots}",
        str(w.requests_handled), speed,
    )  # fmt: skip


def _planned(w: PlannedWorker) -> tuple[RenderableType, ...]:
    return (w.worker_id, _state(w.state.replace("_", " ")), w.model, w.hive_id, w.device, w.engine, "-", "-", "-")


def _state(word: str) -> Text:
    return Text(word, style=_COLOUR.get(word, "red"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # in a narrow window: on more lines, never cut
    return table


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}d{h}h" if days else f"{h}h{m:02}m" if h else f"{m}m{s:02}s" if m else f"{s}s"
