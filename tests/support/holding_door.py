# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands before a daemon and hands bytes on; what has to do with new jobs it can hold back, or lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

#: Of a `POST /v1/jobs`: nothing; its answer is held, or lost with the connection; itself is held, or lost then.
Holds = Literal["nothing", "answers", "cuts", "requests", "loses"]
_ASKS = b"POST /v1/jobs "


class Door:
    """`hold` says what happens to requests that come from then on; `release` lets go of what is held."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._hold: Holds = "nothing"
        self._released = threading.Event()
        #: The first line of each request.
        self.lines: list[str] = []

    def hold(self, what: Holds) -> None:
        self._released = threading.Event()
        self._hold = what
        self.lines.clear()

    def release(self) -> None:
        self._hold = "nothing"
        self._released.set()

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def close(self) -> None:
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connect(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            #: What happens to the answer of this connection's last request.
            held: list[tuple[Holds, threading.Event]] = [("nothing", self._released)]
            back = threading.Thread(target=self._answers, args=(far, near, held), daemon=True)
            back.start()
            # Whoever asked may be gone, and what he asked for arrives all the same: so it is on a slow way.
            with contextlib.suppress(OSError):
                while piece := near.recv(65536):
                    self.lines.append(piece.partition(b"\r\n")[0].decode(errors="replace"))
                    released = self._released
                    held[0] = (self._hold if piece.startswith(_ASKS) else "nothing", released)
                    if held[0][0] in ("requests", "loses"):
                        released.wait()
                    if held[0][0] == "loses":
                        break
                    far.sendall(piece)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
            back.join()

    def _answers(self, far: socket.socket, near: socket.socket, held: list[tuple[Holds, threading.Event]]) -> None:
        with contextlib.suppress(OSError):
            while piece := far.recv(65536):
                what, released = held[0]
                if what == "answers":
                    released.wait()
                elif what == "cuts":
                    break
                near.sendall(piece)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def door_before(url: str) -> Iterator[Door]:
    door = Door(int(url.rpartition(":")[2]))
    thread = threading.Thread(target=door.serve, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.close()
        thread.join()
