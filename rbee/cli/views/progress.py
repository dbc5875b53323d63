# SPDX-License-Identifier: GPL-3.0-or-later
"""Live progress of an apply, on stderr: moving lines on a terminal, one plain line an event elsewhere."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from rbee.cli.views.problems import harmless

MARK = {"done": ("ok", "green"), "failed": ("FAILED", "red"), "skipped": ("skipped", "yellow")}
_MB = 2**20


class Live:
    """Takes the executor's events. A context manager: the moving lines are cleaned up however it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moving = console.is_terminal
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self._moving,
        )

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def emit(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        with self._lock:
            if kind == "action_start":
                self._tasks[event["action"]] = self._bar.add_task(event["action"], total=None, detail="")
                if not self._moving:
                    self._say(f"{event['action']} ...")
            elif kind == "action_progress":
                self._progress(event)
            elif kind == "action_note":
                self._note(event)
            elif kind == "action_end":
                self._end(event)
            elif kind == "interrupt":
                self._say(event["message"], "yellow")

    def _progress(self, event: dict[str, Any]) -> None:
        task = self._tasks.get(event["action"])
        if task is not None:
            shown = f"{event['done'] / _MB:.0f} of {event['total'] / _MB:.0f} MB"
            self._bar.update(task, completed=event["done"], total=event["total"] or None, detail=shown)

    def _note(self, event: dict[str, Any]) -> None:
        task = self._tasks.get(event["action"])
        if event.get("keep"):
            self._say(f"{event['action']}: {event['message']}", "yellow")
        elif self._moving and task is not None:
            self._bar.update(task, detail=harmless(event["message"][:70]))

    def _end(self, event: dict[str, Any]) -> None:
        task = self._tasks.pop(event["action"], None)
        if task is not None:
            self._bar.remove_task(task)
        word, colour = MARK.get(event["status"], (event["status"], "yellow"))
        took = f" ({event['seconds']:.1f} s)" if event["status"] == "done" else ""
        self._say(f"{event['action']}: {word}{took}", colour if event["status"] != "done" else None)
        for text in (event.get("error"), event.get("mend")):
            if text:
                self._say(f"    {text}", colour)

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(Text(harmless(text), style=style or ""), soft_wrap=True, highlight=False)
