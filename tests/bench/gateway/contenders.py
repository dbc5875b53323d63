# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateways that are compared, each one a process of its own between the load and the mock engine."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .peers import LITELLM, SGLANG_ROUTER, VLLM_ROUTER, Peer

_NGINX = """
daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  client_max_body_size 64m; client_body_buffer_size 1m; keepalive_requests 1000000;
  upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
      add_header X-Request-Id bench; add_header X-Rbee-Worker bench;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Setup:
    """What a contender is started with; `dir` is its own and empty."""

    engine_port: int
    port: int
    dir: Path


@dataclass(frozen=True)
class Contender:
    """`argv` gives the command that serves on `port`; None: no gateway, the engine itself."""

    name: str
    argv: Callable[[Setup], list[str]] | None
    #: The program that must be there.
    needs: str = ""
    #: An environment of its own that it runs in.
    peer: Peer | None = None
    #: It writes answers anew, so their bytes are not compared.
    rewrites: bool = False
    #: How much of the load it gets: one that is a hundred times slower would take hours.
    share: float = 1.0
    #: Seconds that it may take to start.
    patience: float = 20.0
    #: What it does with a request besides passing it on.
    does: str = ""

    def missing(self, say: Callable[[str], None]) -> str:
        """Why it can't be had; nothing when it can."""
        if self.needs and shutil.which(self.needs) is None:
            return f"no {self.needs} on this machine"
        return self.peer.make(say) if self.peer is not None else ""


def _nginx(setup: Setup) -> list[str]:
    config = setup.dir / "nginx.conf"
    config.write_text(_NGINX.format(dir=setup.dir, engine_port=setup.engine_port, port=setup.port))
    return ["nginx", "-p", str(setup.dir), "-c", str(config), "-e", str(setup.dir / "nginx.log")]


def _module(name: str, *more: str) -> Callable[[Setup], list[str]]:
    module = f"tests.bench.gateway.{name}"
    return lambda setup: [sys.executable, "-m", module, str(setup.port), str(setup.engine_port), *more]


def _free() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def _router(program: list[str]) -> Callable[[Setup], list[str]]:
    """The Rust routers of vLLM and SGLang, which take the same words."""
    return lambda setup: [
        *program, "--host", "127.0.0.1", "--port", str(setup.port), "--policy", "round_robin",
        "--worker-urls", f"http://127.0.0.1:{setup.engine_port}", "--prometheus-port", _free(),
        "--max-concurrent-requests", "100000", "--log-level", "error",
    ]  # fmt: skip


def _litellm(setup: Setup) -> list[str]:
    config = setup.dir / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n    model: openai/m\n"
        f"    api_base: http://127.0.0.1:{setup.engine_port}/v1\n    api_key: x\n"
        "general_settings: {dangerously_permit_weak_or_unset_master_key: true}\n"
    )
    return [
        LITELLM.program("litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(setup.port),
        "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip


_AS_SHE_IS = "tells clients apart, routes, keeps deadlines, explains, counts, writes the access log"
_MORE = "a key with limits, two policies"
#: The queen with every feature on.
WHOLE = "queen, all on"

CONTENDERS = (
    Contender("direct", None),
    Contender("nginx", _nginx, needs="nginx"),
    Contender("vllm-router", _router([VLLM_ROUTER.program("vllm-router")]), peer=VLLM_ROUTER),
    Contender(
        "sglang-router",
        _router([SGLANG_ROUTER.program("python"), "-m", "sglang_router.launch_router"]),
        peer=SGLANG_ROUTER,
    ),
    Contender("LiteLLM", _litellm, peer=LITELLM, rewrites=True, share=0.02, patience=120.0),
    Contender("aiohttp relay", _module("aiohttp_relay")),
    Contender("splice", _module("splice_front"), does="looks into bodies"),
    Contender("queen", _module("queen_front"), does=_AS_SHE_IS),
    Contender(WHOLE, _module("queen_front", "all"), does=f"{_AS_SHE_IS}; {_MORE}"),
)
