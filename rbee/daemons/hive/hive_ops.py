# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on the hive itself: HiveCheck. And what all of a hive's operations share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee.contracts.operations.hives import HiveCheck, HiveCheckResponse
from rbee.core.errors import InvalidRequest
from rbee.daemons.jobs import Handler, JobContext


class HiveOps:
    """`hive_id` is this hive's."""

    def __init__(self, hive_id: str) -> None:
        self._hive_id = hive_id

    def handlers(self) -> dict[str, Handler]:
        return {"HiveCheck": self.check}

    async def check(self, ctx: JobContext, request: HiveCheck) -> HiveCheckResponse:
        ctx.narrate("hive_check_start", f"Checking the narration of hive {self._hive_id}.", hive_id=self._hive_id)
        for step in (1, 2, 3):
            ctx.narrate("hive_check_step", f"Step {step} of 3.", step=step, steps=3)
        ctx.narrate("hive_check_complete", "Jobs and streams work.", hive_id=self._hive_id)
        return HiveCheckResponse(hive_id=self._hive_id, message="Jobs and streams work.")


def only_for(hive_id: str, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """The handlers, each refusing what was meant for another hive: a wrong address must not hit this machine."""

    def guarded(handler: Handler) -> Handler:
        async def run(ctx: JobContext, request: Any) -> Any:
            asked = getattr(request, "hive_id", "")
            if asked and asked != hive_id:
                raise InvalidRequest(
                    f"This is hive {hive_id!r}, not {asked!r}.", mend="Ask the queen, or leave hive_id out."
                )
            return await handler(ctx, request)

        return run

    return {name: guarded(handler) for name, handler in handlers.items()}
