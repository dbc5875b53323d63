# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.download.server FILE [BYTES_PER_SECOND]`: one file over HTTP by sendfile, with ranges.

The second argument bounds each connection, as servers of large files do. Prints its port.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

AT_ONCE = 2**22
SLICE = 0.02


def serve(connection: socket.socket, file: int, size: int, most: float | None) -> None:
    with connection:
        while request := _head(connection):
            found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d*)", request)
            start = int(found[1]) if found else 0
            end = int(found[2]) + 1 if found and found[2] else size
            head = f'HTTP/1.1 {206 if found else 200} OK\r\nETag: "one"\r\nAccept-Ranges: bytes\r\n'
            if found:
                head += f"Content-Range: bytes {start}-{end - 1}/{size}\r\n"
            connection.sendall(f"{head}Content-Length: {end - start}\r\n\r\n".encode())
            try:
                _send(connection, file, start, end, most)
            except OSError:
                return


def _head(connection: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(65536)
        if not piece:
            return b""
        got += piece
    return got


def _send(connection: socket.socket, file: int, at: int, end: int, most: float | None) -> None:
    began, first = time.monotonic(), at
    while at < end:
        count = AT_ONCE if most is None else max(1, int(most * SLICE))
        at += os.sendfile(connection.fileno(), file, at, min(count, end - at))
        if most is not None:
            time.sleep(max(0.0, began + (at - first) / most - time.monotonic()))


def main() -> None:
    file = os.open(sys.argv[1], os.O_RDONLY)
    size, most = Path(sys.argv[1]).stat().st_size, float(sys.argv[2]) if len(sys.argv) > 2 else None
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, file, size, most), daemon=True).start()


if __name__ == "__main__":
    main()
