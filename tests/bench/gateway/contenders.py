# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateways that are compared, each one a process of its own between the load and the mock engine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

    @property
    def missing(self) -> bool:
        return bool(self.needs) and shutil.which(self.needs) is None


def _nginx(setup: Setup) -> list[str]:
    config = setup.dir / "nginx.conf"
    config.write_text(_NGINX.format(dir=setup.dir, engine_port=setup.engine_port, port=setup.port))
    return ["nginx", "-p", str(setup.dir), "-c", str(config), "-e", str(setup.dir / "nginx.log")]


def _module(name: str) -> Callable[[Setup], list[str]]:
    module = f"tests.bench.gateway.{name}"
    return lambda setup: [sys.executable, "-m", module, str(setup.port), str(setup.engine_port)]


CONTENDERS = (
    Contender("direct", None),
    Contender("nginx", _nginx, needs="nginx"),
    Contender("aiohttp relay", _module("aiohttp_relay")),
    Contender("splice", _module("splice_front")),
    Contender("queen", _module("queen_front")),
)
