# SPDX-License-Identifier: GPL-3.0-or-later
"""A routing decision for people, and decisions played again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rbee.cli.views.problems import harmless
from rbee.contracts.decisions import CandidateRecord, DecisionRecord, RequestRecord
from rbee.fleet.replay import Replayed

_SAID = {"sent": "sent to", "queued": "waited for", "loading": "waits for a model that loads", "refused": "refused"}


def render(decision: DecisionRecord) -> Iterator[RenderableType]:
    """What was asked, what came of it, and the workers: the one chosen first, then by score, then the excluded."""
    yield _text(f"Request {decision.request_id}, {decision.at}", "bold")
    yield _text(f"  {_request(decision.request)}")
    outcome = " ".join([_SAID[decision.outcome], *([decision.worker_id] if decision.worker_id else [])])
    waited = f" after {decision.waited_ms:.0f} ms in the queue" if decision.waited_ms >= 1 else ""
    colour = "red" if decision.outcome == "refused" else "green"
    yield _text(f"  {outcome}{waited}. {decision.reason}".rstrip(), colour)
    for attempt in decision.attempts:
        yield _text(f"  tried before: {attempt}", "yellow")
    for note in decision.notes:
        yield _text(f"  note: {note}", "yellow")
    if decision.candidates:
        yield _table(decision)
    if decision.others:
        yield _text(f"  and {decision.others} more workers", "dim")


def _request(request: RequestRecord) -> str:
    """`gpt -> llama, mistral by POST /v1/chat/completions: 3 messages, 900 bytes, streamed, tools`."""
    stands = [m for m in request.models if m != request.model]
    name = f"{request.model} -> {', '.join(request.models)}" if stands else request.model
    parts = [f"{request.messages} message{'' if request.messages == 1 else 's'}"] if request.messages else []
    parts += [f"{request.body_bytes} bytes"]
    parts += [word for word, said in (("streamed", request.stream), ("tools", request.tools)) if said]
    parts += ["images"] if request.images else []
    parts += [f"at most {request.max_tokens} tokens"] if request.max_tokens is not None else []
    parts += [f"key {request.key}"] if request.key else []
    parts += [request.priority] if request.priority != "interactive" else []
    parts += [f"requires {key}={value}" for key, value in request.require.items()]
    return f"{name} by {request.path or '?'}: {', '.join(parts)}"


def _table(decision: DecisionRecord) -> Table:
    names = list(dict.fromkeys(name for c in decision.candidates for name in c.terms))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "WORKER", "HIVE", "MODEL", "STATUS", "BUSY"):
        table.add_column(title, no_wrap=True)
    for name in names:
        table.add_column(harmless(name).upper(), justify="right", no_wrap=True)
    table.add_column("SCORE", justify="right", no_wrap=True)
    table.add_column("EXCLUDED", no_wrap=True)
    for candidate in sorted(decision.candidates, key=lambda c: _order(c, decision.worker_id)):
        mark = "*" if candidate.id == decision.worker_id else ""
        about = (candidate.id, candidate.hive, candidate.model, candidate.status, f"{candidate.busy}/{candidate.slots}")
        terms = [f"{candidate.terms[name]:+.3f}" if name in candidate.terms else "" for name in names]
        score = f"{sum(candidate.terms.values()):+.3f}" if candidate.excluded is None else ""
        cells = [mark, *about, *terms, score, candidate.excluded or ""]
        table.add_row(*(Text(harmless(cell)) for cell in cells), style="dim" if candidate.excluded else None)
    return table


def _order(candidate: CandidateRecord, chosen: str | None) -> tuple[bool, bool, float, str]:
    score = sum(candidate.terms.values())
    return candidate.id != chosen, candidate.excluded is not None, -score, candidate.id


def replayed(found: Sequence[Replayed]) -> Iterator[RenderableType]:
    """A line for each request, then what failed, then how many changed."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("REQUEST", "MODEL", "THEN", "NOW", ""):
        table.add_column(title, no_wrap=True)
    for one in found:
        table.add_row(*(Text(harmless(cell)) for cell in _row(one)), style="yellow" if one.changed else None)
    if found:
        yield table
    failures = list(dict.fromkeys(f for one in found for f in one.failures))
    for failure in failures[:20]:
        yield _text(f"failed: {failure}", "red")
    failed = sum(bool(one.failures) for one in found)
    changed, rejected = sum(one.changed for one in found), sum(one.rejected is not None for one in found)
    counted = "1 request" if len(found) == 1 else f"{len(found)} requests"
    summary = f"{counted}: {changed} changed, {rejected} rejected, {failed} with a policy that failed."
    yield _text(summary, "bold")


def _row(one: Replayed) -> tuple[str, ...]:
    notes = []
    if one.rejected is not None:
        notes.append(f"rejected by {one.rejected[0]}: {one.rejected[1]}")
    elif one.now is None:
        notes.append("; ".join(f"{w}: {why}" for w, why in list(one.excluded.items())[:3]) or "nobody was recorded")
    elif one.changed:
        notes.append(", ".join(f"{name} {value:+.3f}" for name, value in one.terms.items()))
    if one.refused:
        notes.append(f"refused then, and not by routing: {one.refused}")
    if one.failures:
        notes.append("a policy failed")
    if one.partial:
        notes.append("not all workers were recorded")
    return one.request_id, one.model, one.then or "-", one.now or "-", "; ".join(notes)


def _text(text: str, style: str = "") -> Text:
    return Text(harmless(text), style=style)
