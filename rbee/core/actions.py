# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a plan. An action is a plain value: what, where, why, and what must be done before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "queen.start",
    "queen.configure",
    "queen.restart",
    "queen.stop",
    "hive.install",
    "hive.start",
    "hive.restart",
    "hive.stop",
    "hive.uninstall",
    "hive.register",
    "hive.unregister",
    "engine.install",
    "engine.remove",
    "model.fetch",
    "model.push",
    "model.remove",
    "worker.spawn",
    "worker.configure",
    "worker.replace",
    "worker.stop",
]
#: `+`, `~`, `-/+`, `-`
Change = Literal["add", "change", "replace", "remove"]
SIGN: dict[str, str] = {"add": "+", "change": "~", "replace": "-/+", "remove": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """`id` is unique in a plan (`worker.spawn chat-0 on box`). `subject` is the address `--target` takes
    (`hives.box`, `models.m@box`, `workers.chat-0`). `reason` is for people only; nothing decides by it.
    `params` is plain JSON, read by the action's handler.
    """

    id: str
    kind: Kind
    change: Change
    subject: str
    name: str
    hive: str | None
    reason: str
    params: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
