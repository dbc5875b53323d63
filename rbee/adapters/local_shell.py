# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine, as a `Shell` like the others."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import cast

from rbee.contracts import defaults
from rbee.core.errors import RbeeError, Unreachable
from rbee.fleet.ports import Completed, OnProgress, Part, Stream


class LocalShell:
    """Runs commands as children of this process, in sessions of their own (a Ctrl-C here is not theirs)."""

    local = True
    peer_address = "127.0.0.1"

    def __init__(self, name: str = "localhost") -> None:
        self.name = name

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        # Output goes to files: a daemon that a command leaves behind may keep a pipe open for ever.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                done = subprocess.run(
                    list(argv),
                    check=False,
                    input=input,
                    stdout=out,
                    stderr=err,
                    timeout=timeout,
                    env={**os.environ, **env} if env else None,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                raise RbeeError(f"{self.name}: `{argv[0]}` did not end within {timeout:g} s.", code="timeout") from None
            except FileNotFoundError:
                return Completed(127, b"", f"{argv[0]}: not found\n".encode())
            except PermissionError:
                return Completed(126, b"", f"{argv[0]}: cannot be run\n".encode())
            out.seek(0)
            err.seek(0)
            return Completed(done.returncode, out.read(), err.read())

    def send(
        self,
        argv: Sequence[str],
        *,
        preamble: bytes,
        parts: Sequence[Part],
        on_progress: OnProgress | None = None,
    ) -> Completed:
        # Here, not above: whoever sends nothing needs no SSH library (a hive's machine has none).
        from rbee.adapters.ssh import chunks

        with tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, start_new_session=True
            )
            assert child.stdin is not None and child.stdout is not None
            got: list[bytes] = []
            reader = threading.Thread(target=lambda f=child.stdout: got.append(f.read()), daemon=True)
            reader.start()
            try:
                with child.stdin as pipe:
                    for chunk in chunks(preamble, parts, on_progress):
                        pipe.write(chunk)
            except BrokenPipeError:
                pass  # It ended without reading it all: its status and words say why.
            except BaseException:
                child.kill()
                raise
            finally:
                child.wait()
                reader.join()
                child.stdout.close()
            err.seek(0)
            return Completed(child.returncode, b"".join(got), err.read())

    def connect(self, host: str, port: int, timeout: float = defaults.CONNECT_TIMEOUT) -> Stream:
        try:
            return cast(Stream, socket.create_connection((host, port), timeout=timeout))
        except OSError as e:
            raise Unreachable(f"Nothing answers at {host}:{port} ({e.strerror or e}).") from None

    def close(self) -> None:
        return
