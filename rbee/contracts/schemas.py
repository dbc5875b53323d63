# SPDX-License-Identifier: GPL-3.0-or-later
"""The schemas that are shipped (`schemas/*.json`), each made from its types."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rbee.contracts.configs import HiveConfig, QueenConfig, WorkerConfig
from rbee.contracts.narration import Event
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.schema import DIALECT, Schemas, schema_of
from rbee.core.providers import EngineProvider
from rbee.core.sources import SourceProvider
from rbee.core.spec import Spec


def _operations() -> dict[str, Any]:
    """The body of `POST /v1/jobs`; `x-operations` names each one's response and who serves it."""
    made = Schemas(closed=False)
    bodies: list[dict[str, Any]] = []
    listed: dict[str, Any] = {}
    for name, kind in sorted(OPERATIONS.items()):
        request = made.of(kind.request)
        bodies.append(
            {
                "type": "object",
                "description": kind.summary,
                "properties": {name: request},
                "required": [name],
                "additionalProperties": False,
            }
        )
        listed[name] = {
            "request": request,
            "response": made.of(kind.response),
            "served_by": list(kind.served_by),
            "command": f"{kind.family} {kind.command}".strip(),
            "lane": kind.lane,
        }
    return {
        "$schema": DIALECT,
        "title": "Body of POST /v1/jobs",
        "type": "object",
        "properties": {"operation": {"oneOf": bodies}},
        "required": ["operation"],
        "x-operations": listed,
        "$defs": dict(sorted(made.defs.items())),
    }


def _events() -> dict[str, Any]:
    return schema_of(Event, title="A narration event", closed=False)


#: By the name of the file in `schemas/`.
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "rbee": lambda: schema_of(Spec, title="rbee.yaml", closed=True),
    "engine-provider": lambda: schema_of(EngineProvider, title="An engine (providers/engines/*.yaml)", closed=True),
    "source-provider": lambda: schema_of(
        SourceProvider, title="A source of models (providers/sources/*.yaml)", closed=True
    ),
    "queen": lambda: schema_of(QueenConfig, title="queen.json", closed=False),
    "hive": lambda: schema_of(HiveConfig, title="hive.json", closed=False),
    "worker": lambda: schema_of(WorkerConfig, title="worker.json", closed=False),
    "operations": _operations,
    "narration": _events,
}


def render(name: str) -> bytes:
    """The file's bytes, the same on every machine. Raises KeyError for an unknown name."""
    return (json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n").encode()
