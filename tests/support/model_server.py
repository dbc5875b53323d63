# SPDX-License-Identifier: GPL-3.0-or-later
"""A file server on loopback that can stall in the middle, and knows ranges."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class ModelServer:
    """Serves one file at `url`. While `stalling`, it sends the first half and then nothing, until `mend`."""

    def __init__(self, file: Path, *, stalling: bool = False) -> None:
        self.body = file.read_bytes()
        self.mended = threading.Event()
        if not stalling:
            self.mended.set()
        self.half_sent = threading.Event()
        self.open = 0
        self.ranges: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._head(200, len(outer.body), {})

            def do_GET(self) -> None:
                outer.open += 1
                try:
                    outer._serve(self)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    outer.open -= 1

            def _head(self, status: int, length: int, more: dict[str, str]) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", '"bee"')
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/bee-tiny.gguf"

    def _serve(self, handler: Any) -> None:
        asked = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if asked:
            self.ranges.append(asked[0])
        rest, total = self.body[start:], len(self.body)
        more = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if asked else {}
        handler._head(206 if asked else 200, len(rest), more)
        if self.mended.is_set():
            handler.wfile.write(rest)
            return
        handler.wfile.write(rest[: len(rest) // 2])
        handler.wfile.flush()
        self.half_sent.set()
        handler.connection.settimeout(0.2)
        while not self.mended.is_set():
            try:
                if handler.connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
        handler.close_connection = True

    def mend(self) -> None:
        self.mended.set()

    def close(self) -> None:
        self.mended.set()
        self._server.shutdown()
        self._server.server_close()
