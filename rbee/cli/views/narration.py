# SPDX-License-Identifier: GPL-3.0-or-later
"""A job's narration while it runs: on standard error for people, or as JSON lines on standard output."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

import click

from rbee.cli.views.problems import harmless
from rbee.contracts import codec
from rbee.contracts.operations import OperationType
from rbee.core.errors import RbeeError

#: Commands whose answer says all: of what they narrate people see only warnings.
_ASKING = frozenset({"list", "get", "show", "ps", "stats", "status", "logs"})
_COLOUR = {"warning": "yellow", "error": "red"}


class Narration:
    """Takes a job's events. A context manager: a moving line is ended however the job ends."""

    def __init__(self, kind: OperationType, *, as_json: bool) -> None:
        self._json = as_json
        self._asking = kind.command in _ASKING
        self._moves = sys.stderr.isatty()
        self._colour = self._moves and not os.environ.get("NO_COLOR")
        self._moving = False
        self._tenth = -1
        #: The last event, when it was an error: shown once it is clear that the job's own error does not say the same.
        self._held: str | None = None

    def __enter__(self) -> Narration:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if not (self._held and isinstance(e, RbeeError) and str(e).startswith(self._held)):
            self._let_go()
        self._end_line()

    def show(self, event: dict[str, Any]) -> None:
        """One event, as it comes."""
        self._let_go()
        level = event.get("level", "info")
        if self._json:
            click.echo(codec.encode(event).decode())
        elif event.get("event") == "worker_logs_line":
            click.echo(harmless(str(event.get("line", ""))))
        elif not event.get("message") or (self._asking and level not in _COLOUR):
            return
        elif str(event.get("event", "")).endswith("_progress"):
            self._progress(event)
        elif level == "error":
            self._held = str(event["message"])
        else:
            self.say(str(event["message"]), _COLOUR.get(level))

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.say(held, _COLOUR["error"])

    def say(self, text: str, colour: str | None = None) -> None:
        """A line of its own."""
        self._end_line()
        click.echo(click.style(harmless(text), fg=colour) if colour and self._colour else harmless(text), err=True)

    def _progress(self, event: dict[str, Any]) -> None:
        """One moving line; where nothing moves, a line for every tenth."""
        if self._moves:
            width = max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
            click.echo(f"\r\x1b[K{harmless(str(event['message']))[:width]}", err=True, nl=False)
            self._moving = True
            return
        done, total = event.get("bytes_downloaded", event.get("bytes_done")), event.get("total_bytes")
        tenth = int(10 * done / total) if done and total else 0
        if tenth != self._tenth:
            self._tenth = tenth
            self.say(str(event["message"]))

    def _end_line(self) -> None:
        if self._moving:
            click.echo(err=True)
            self._moving = False
