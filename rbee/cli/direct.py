# SPDX-License-Identifier: GPL-3.0-or-later
"""One operation of a hive done in this process, by the daemon's own code, where no daemon runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.contracts.configs import HiveConfig
from rbee.core.errors import Conflict, RbeeError

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Held(Exception):
    """Somebody else has the machine's hive lock; `why` names it."""

    def __init__(self, why: Conflict) -> None:
        super().__init__(str(why))
        self.why = why


class Direct:
    """A hive for the time of one operation. It takes the hive lock, so that there are never two; it keeps the
    workers that run, and leaves those that it starts to the daemon that comes."""

    def __init__(self, config: HiveConfig, paths: Paths, token: Token | None) -> None:
        self._config = config
        self._paths = paths
        self._token = token

    def run(self, request: Any, on_event: Callable[[dict[str, Any]], None] | None = None) -> Any:
        """The response. Blocks. Raises Held; RbeeError as the operation does; KeyboardInterrupt after a Ctrl-C (or
        SIGTERM, SIGHUP), once it is cancelled and the hive has stopped."""
        from rbee.daemons.app import new_loop

        loop = new_loop()
        asyncio.set_event_loop(loop)
        try:
            task = loop.create_task(self._do(request, on_event or (lambda event: None)))
            asked = _Ends(task)
            before = {number: signal.getsignal(number) for number in _ENDS}
            ours = [n for n in _ENDS if before[n] is not signal.SIG_IGN]  # else nohup
            for number in ours:
                loop.add_signal_handler(number, asked, number)
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            finally:
                for number in ours:
                    loop.remove_signal_handler(number)
                    signal.signal(number, before[number])
                _settle(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    async def _do(self, request: Any, on_event: Callable[[dict[str, Any]], None]) -> Any:
        # Here, not above: a command that asks the daemon needs none of it.
        from rbee.contracts import codec
        from rbee.contracts.operations import OPERATIONS
        from rbee.core.redact import Redactor
        from rbee.daemons.hive.hive import Hive
        from rbee.daemons.narrate import JobContext

        name = type(request).__name__
        hive = Hive(self._config, self._paths, self._token)
        handler = hive.handlers().get(name)
        if handler is None:
            raise RbeeError(f"A hive does not serve {name}.", code="not_served")
        context = JobContext(
            f"direct-{os.getpid()}",
            actor=f"hive/{self._config.hive_id}",
            redactor=Redactor([self._token.reveal()] if self._token else []),
            sink=on_event,
            loop=asyncio.get_running_loop(),
        )
        try:
            try:
                await hive.start(revive=False, doing=f"`rbee-hive` at {name}")
            except Conflict as e:
                raise Held(e) from None
            answer = await handler(context, request)
            return codec.decode(OPERATIONS[name].response, answer) if isinstance(answer, bytes) else answer
        finally:
            await hive.stop()


class _Ends:
    """The first signal cancels the operation, the second ends the process at once."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._asked = False

    def __call__(self, number: int) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        self._task.cancel()


def _settle(loop: asyncio.AbstractEventLoop) -> None:
    """What the hive left running ends with it."""
    left = [t for t in asyncio.all_tasks(loop) if not t.done()]
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
