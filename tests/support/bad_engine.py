# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines that do not work: `python bad_engine.py HOW PORT`.

`silent` never listens, `dies` ends at once with a reason, `stubborn` is ready and ends for no signal but SIGKILL, nor
does its child, whose pid it answers to whatever is asked; `chatty` is ready and writes without end; `greedy` is ready
and takes memory without end once it has to work.
"""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable


def serve(answer: bytes, asked: Callable[[], None] = lambda: None) -> None:
    """Answer 200 to everything, for ever; `asked` is called for what is posted."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            asked()

        def log_message(self, format: str, *args: object) -> None:
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Answer).serve_forever()


def stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # it inherits what is ignored
    sys.stderr.write(f"child {child.pid}\n")
    sys.stderr.flush()
    serve(str(child.pid).encode())


def greedy() -> None:
    threading.Thread(target=serve, args=(b"ok", take_all), daemon=True).start()


def take_all() -> None:
    held = []
    while True:
        held.append(bytearray(b"x") * 2**20)


def chatty() -> None:
    threading.Thread(target=serve, args=(b"ok",), daemon=True).start()
    number = 0
    while True:
        sys.stderr.write("".join(f"{n:09} {'word ' * 20}\n" for n in range(number, number + 100)))
        number += 100


if __name__ == "__main__":
    if sys.argv[1] == "dies":
        sys.stderr.write("0.00.001 E the accelerator is on fire\n")
        sys.exit(1)
    if sys.argv[1] == "stubborn":
        stubborn()
    if sys.argv[1] == "greedy":
        greedy()
    if sys.argv[1] == "chatty":
        chatty()
    time.sleep(600)
