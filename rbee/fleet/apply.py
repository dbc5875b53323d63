# SPDX-License-Identifier: GPL-3.0-or-later
"""Do a plan: many machines at once, in order, going on with whatever does not depend on a failure."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rbee.core.actions import Action, Kind
from rbee.core.errors import RbeeError
from rbee.core.plan import Plan
from rbee.fleet.report import Outcome, Report
from rbee.fleet.world import Tell, World

Handler = Callable[[World, Action, Tell], None]
OnEvent = Callable[[dict[str, Any]], None]

_STOPPING = "Stopping: waiting for what has begun. Ctrl-C again ends at once."


class _Run:
    """One execution: decided in the caller's thread; the pool's threads only do actions and report back."""

    def __init__(
        self, plan: Plan, handlers: Mapping[Kind, Handler], world: World, on_event: OnEvent, parallelism: int
    ) -> None:
        self.plan, self.handlers, self.world, self.on_event = plan, handlers, world, on_event
        self.waiting = {a.id: a for a in plan.actions}
        self.running: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}
        self.ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.pool = ThreadPoolExecutor(max_workers=max(1, parallelism), thread_name_prefix="apply")
        self.parallelism = max(1, parallelism)

    def start_ready(self) -> None:
        """Start what can start; skip what waits for something that failed. An action takes its slot when it can."""
        moved = True
        while moved:
            moved = False
            for action in list(self.waiting.values()):
                broken = [n for n in action.needs if n in self.outcomes and self.outcomes[n].status != "done"]
                if broken:
                    self._record(
                        Outcome(action=action, status="skipped", error=f"needs {broken[0]}, which was not done")
                    )
                    moved = True
                elif len(self.running) < self.parallelism and all(n in self.outcomes for n in action.needs):
                    self.running.add(action.id)
                    del self.waiting[action.id]
                    self.pool.submit(self._do, action)

    def _record(self, outcome: Outcome) -> None:
        self.waiting.pop(outcome.action.id, None)
        self.running.discard(outcome.action.id)
        self.outcomes[outcome.action.id] = outcome
        self.on_event({"type": "action_end", **_about(outcome.action), **outcome.fields()})

    def _do(self, action: Action) -> None:
        started = self.world.clock.monotonic()

        def emit(event: dict[str, Any]) -> None:
            self.on_event({**event, **_about(action)})

        def end(status: Any, error: str = "", mend: str = "", code: str = "") -> None:
            seconds = self.world.clock.monotonic() - started
            self.ended.put(
                Outcome(action=action, status=status, error=error, mend=mend, code=code, seconds=round(seconds, 3))
            )

        try:
            emit({"type": "action_start"})
            self.handlers[action.kind](self.world, action, Tell(emit))
        except RbeeError as e:
            if self.world.stop.is_set() and e.code in ("cancelled", "interrupted"):
                end("interrupted", "cancelled before it was done")
            else:
                end("failed", e.message, e.mend, e.code)
        except OSError as e:
            end("failed", f"{e.strerror or e}" + (f": {e.filename}" if e.filename else ""), code="os_error")
        except BaseException as e:  # a defect of ours must not hang the others or hide what was done
            end("failed", f"{type(e).__name__}: {e}", "This is a defect in rbee; please report it.", "internal")
        else:
            end("done")

    def wait_one(self) -> None:
        """Block until some action ends; KeyboardInterrupt gets through within a fifth of a second."""
        while True:
            try:
                outcome = self.ended.get(timeout=0.2)
            except queue.Empty:
                continue
            self._record(outcome)
            return

    def abandon(self) -> None:
        for action in list(self.waiting.values()):
            self._record(Outcome(action=action, status="skipped", error="interrupted before it began"))

    def report(self, interrupted: bool) -> Report:
        """Outcomes in the plan's order; what was not waited for is told as such."""
        left = {
            a.id: Outcome(action=a, status="interrupted", error="still running when it was left")
            if a.id in self.running
            else Outcome(action=a, status="skipped", error="interrupted before it began")
            for a in self.plan.actions
        }
        return Report(
            outcomes=tuple(self.outcomes.get(a.id, left[a.id]) for a in self.plan.actions),
            interrupted=interrupted,
            problems=self.plan.problems,
        )


def _about(action: Action) -> dict[str, Any]:
    return {"action": action.id, "kind": action.kind, "subject": action.subject, "hive": action.hive}


def execute(
    plan: Plan,
    handlers: Mapping[Kind, Handler],
    world: World,
    on_event: OnEvent,
    parallelism: int,
) -> Report:
    """Do every action of a plan and report each. Blocks; `on_event` is called from several threads.

    A failure skips what needs it and nothing else. On KeyboardInterrupt (or `world.stop`) no further action
    starts, jobs on hives are cancelled, what is running is waited for, and the report says `interrupted`. A
    second KeyboardInterrupt returns the report at once; threads may still run then.
    """
    run = _Run(plan, handlers, world, on_event, parallelism)
    interrupts = 0
    try:
        while (run.waiting or run.running) and interrupts < 2:
            try:
                if world.stop.is_set():
                    run.abandon()
                run.start_ready()
                if run.running:
                    run.wait_one()
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts == 1:
                    on_event({"type": "interrupt", "message": _STOPPING})
                    world.interrupt()
    finally:
        run.pool.shutdown(wait=not interrupts, cancel_futures=True)
    return run.report(interrupted=bool(interrupts) or world.stop.is_set())
