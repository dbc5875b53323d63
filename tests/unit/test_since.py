# SPDX-License-Identifier: GPL-3.0-or-later
"""Since when the queen knows a model, when nobody can tell her of its file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from rbee.contracts.configs import KnownModel, QueenConfig
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.since import Since


def test_a_declared_model_is_known_since_its_declaration_once_all_hives_have_told() -> None:
    hive = SimpleNamespace(capabilities=None, error=None)
    config, now = QueenConfig(fleet="t", models=(KnownModel(name="m"),)), [100.0]
    since = Since(Registry(lambda: 0.0), cast(Any, SimpleNamespace(by_id={"h": hive})), config, lambda: now[0])
    since.look()
    assert since.of("m") == 0, "its hive may have had it for years"
    hive.error = "No route to host."
    since.look()
    assert (since.of("m"), since.of("other")) == (100, 0)
    now[0] = 200.0
    more = (KnownModel(name="m"), KnownModel(name="n"))
    since.configure(QueenConfig(fleet="t", models=more))
    assert (since.of("m"), since.of("n")) == (100, 200)
    since.configure(QueenConfig(fleet="t", models=more[1:]))
    assert since.of("m") == 0
