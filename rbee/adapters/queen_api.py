# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's API for plan, apply and the commands of the CLI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee.adapters.hive_api import HttpHiveApi
from rbee.contracts import codec
from rbee.contracts.decisions import DecisionRecord
from rbee.core.errors import RbeeError
from rbee.fleet.ports import Shell


class HttpQueenApi(HttpHiveApi):
    """`QueenApi` over HTTP."""

    def __init__(self, shell: Shell, url: str, token: Callable[[], str | None]) -> None:
        super().__init__(shell, url, token)
        self._name = "The queen"

    def info(self) -> dict[str, Any]:
        try:
            return codec.decode(dict[str, Any], self._daemon().ask("GET", "/v1/queen"))
        except codec.CodecError as e:
            raise RbeeError(f"{self._name} at {self._url} answers no JSON: {e}", code="bad_answer") from None

    def decisions(self, limit: int | None = None) -> list[DecisionRecord]:
        """Recent routing decisions, the oldest first. Raises RbeeError."""
        lines = self._daemon().ask("GET", f"/v1/decisions{f'?limit={limit}' if limit is not None else ''}")
        try:
            return [codec.decode(DecisionRecord, line) for line in lines.splitlines() if line.strip()]
        except codec.CodecError as e:
            raise RbeeError(f"{self._name} at {self._url} tells no decisions: {e}", code="bad_answer") from None

    def reload(self) -> None:
        self._daemon().ask("POST", "/v1/queen/reload", b"{}")
