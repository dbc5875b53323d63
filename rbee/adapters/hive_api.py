# SPDX-License-Identifier: GPL-3.0-or-later
"""A hive's API for plan and apply, reached from the hive's own machine (so that no port need be open to us)."""

from __future__ import annotations

from collections.abc import Callable

from rbee.adapters.jobs_api import JobsApi
from rbee.contracts import codec
from rbee.contracts.capabilities import Capabilities
from rbee.core.errors import RbeeError
from rbee.fleet.ports import Shell


class HttpHiveApi(JobsApi):
    """`HiveApi` over HTTP."""

    def __init__(self, shell: Shell, url: str, token: Callable[[], str | None]) -> None:
        super().__init__(shell, url, token, f"The hive of {shell.name}")

    def capabilities(self) -> Capabilities:
        """Asks without a queen_url: nobody is told where to send heartbeats."""
        try:
            return codec.decode(Capabilities, self._daemon().ask("GET", "/capabilities"))
        except codec.CodecError as e:
            raise RbeeError(f"{self._name} speaks another version of rbee: {e}", code="bad_answer") from None
