# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose engine is the test's own mock: the child that the worker starts only says where that listens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee.contracts.configs import WorkerConfig
from tests.support.mock_engine import MockEngine
from tests.support.workers import llama_cpp, worker_config

_SAYS = "import json, sys, time; print(json.dumps({'event': 'listening', 'address': sys.argv[1]}), flush=True)"


def told_config(engine: MockEngine, directory: Path, **provider: Any) -> WorkerConfig:
    """Settings of a worker for `engine`; `provider` changes what is said of it: by default it changes no request."""
    said: dict[str, Any] = {
        "formats": ("mock",),
        "launcher": "said-by-the-child",
        "command": ("{python}", "-c", f"{_SAYS}; time.sleep(3600)", f"http://127.0.0.1:{engine.port}"),
        "always_stream": False,
        "overrides": {},
        "paths": ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/audio/speech"),
        **provider,
    }
    return worker_config(directory / "none", provider=replace(llama_cpp(), **said))
