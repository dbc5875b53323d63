# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine over SSH: one connection for a whole apply, many commands on it at once."""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import paramiko
from fabric import Config

from rbee.adapters import ssh_config, ssh_open
from rbee.adapters.ssh_stream import ChannelStream
from rbee.contracts import defaults
from rbee.core.errors import RbeeError, Unreachable
from rbee.core.spec import Ssh
from rbee.fleet.ports import Completed, OnProgress, Part, Stream

#: A transfer that moves nothing for this long is given up. A slow machine is silent while it unpacks what it got; one
#: that is gone is noticed sooner (see `ssh_open.DEAD_AFTER`).
SILENCE = 300.0
_CHUNK = 2**18
#: paramiko sends at most this much at a time whatever it is given.
_PACKET = 2**15
#: How long output may lag behind the end of its command before we stop waiting for it.
_LAG = 1.0
#: RFC 4254: the server's settings forbid that kind of channel.
_PROHIBITED = 1

# What paramiko logs, we raise; without a handler Python would print it among our own words.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshShell:
    """`Shell` over SSH. The connection is opened by the first command and opened again when it was lost."""

    local = False

    def __init__(self, name: str, ssh: Ssh, config: Config | None = None) -> None:
        self.name = name
        self._ssh = ssh
        self._config = config
        self._connection: Any = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def peer_address(self) -> str:
        transport = self._transport()
        if isinstance(transport.sock, paramiko.Channel):
            return str(self._connection.host)
        try:
            return str(transport.getpeername()[0])
        except (OSError, AttributeError):
            return str(self._connection.host)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        words = ["env", *(f"{k}={v}" for k, v in env.items()), *argv] if env else list(argv)
        return self._run(words, iter((input,) if input else ()), _Deadline(timeout, argv))

    def send(
        self,
        argv: Sequence[str],
        *,
        preamble: bytes,
        parts: Sequence[Part],
        on_progress: OnProgress | None = None,
    ) -> Completed:
        return self._run(list(argv), chunks(preamble, parts, on_progress), _Deadline(None, argv))

    def connect(self, host: str, port: int, timeout: float = defaults.CONNECT_TIMEOUT) -> Stream:
        transport = self._transport()
        try:
            channel = transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=timeout)
        except paramiko.ChannelException as e:
            if e.code == _PROHIBITED:
                return self._directly(host, port, timeout)
            raise Unreachable(f"{self.name}: nothing answers at {host}:{port} there ({e.text}).") from None
        except (paramiko.SSHException, OSError, EOFError) as e:
            raise Unreachable(f"{self.name}: {e or 'the SSH connection was lost'}.") from None
        return cast(Stream, ChannelStream(channel))

    def _directly(self, host: str, port: int, timeout: float) -> Stream:
        """Without SSH, where its server forbids forwarding: the queen reaches that address plainly too."""
        try:
            return cast(Stream, socket.create_connection((host, port), timeout=timeout))
        except OSError as e:
            raise Unreachable(
                f"{self.name}: its sshd forbids forwarding, and {host}:{port} cannot be reached from here "
                f"({e.strerror or e}).",
                mend="Set `AllowTcpForwarding yes` in its sshd_config, or open that port to this machine.",
            ) from None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        hop = self._connection
        self._connection = None
        while hop is not None and not isinstance(hop, (str, bool)):
            with contextlib.suppress(Exception):
                hop.close()
            hop = hop.gateway

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._closed:
                raise Unreachable(f"{self.name}: the connection was closed.")
            if self._connection is None or not self._connection.is_connected:
                self._drop()
                if self._config is None:
                    self._config = ssh_config.load()
                self._connection = ssh_open.connection(self._ssh, self._config)
                ssh_open.open_connection(self._connection)
            return cast(paramiko.Transport, self._connection.transport)

    def _run(self, argv: list[str], data: Iterator[bytes], deadline: _Deadline) -> Completed:
        transport = self._transport()
        try:
            channel = transport.open_session(timeout=deadline.step())
        except (paramiko.SSHException, OSError, EOFError) as e:
            raise Unreachable(f"{self.name}: {e or 'the SSH connection was lost'}.") from None
        try:
            feeder = _Feeder(channel, data, deadline)
            channel.exec_command(shlex.join(argv))
            channel.settimeout(_LAG)
            feeder.start()
            out = self._drain(channel, channel.recv, deadline)
            err = self._drain(channel, channel.recv_stderr, deadline)
            deadline.wait(channel.status_event.wait)
            rc = channel.recv_exit_status()
        except TimeoutError:
            if transport.is_active():
                raise deadline.passed(self.name) from None
            raise Unreachable(f"{self.name}: the SSH connection was lost.") from None
        except (paramiko.SSHException, EOFError, OSError) as e:
            raise Unreachable(f"{self.name}: the SSH connection was lost ({e}).") from None
        finally:
            with contextlib.suppress(Exception):
                channel.close()
        feeder.finish()
        if rc == -1 and not transport.is_active():
            raise Unreachable(f"{self.name}: the SSH connection was lost while a command ran.")
        return Completed(rc, out, err)

    @staticmethod
    def _drain(channel: paramiko.Channel, recv: Callable[[int], bytes], deadline: _Deadline) -> bytes:
        """All of a stream. A child left behind that keeps it open does not hold us up."""
        got = bytearray()
        while True:
            channel.settimeout(min(_LAG, deadline.step()))  # the feeder's too: it goes on after one
            try:
                chunk = recv(_CHUNK)
            except TimeoutError:
                if channel.exit_status_ready():
                    return bytes(got)
                deadline.step()
                continue
            if not chunk:
                return bytes(got)
            deadline.moved()
            got += chunk


class _Feeder(threading.Thread):
    """Gives a command its input while its output is read: a command may answer before it has read it all."""

    def __init__(self, channel: paramiko.Channel, data: Iterator[bytes], deadline: _Deadline) -> None:
        super().__init__(daemon=True)
        self._channel, self._data, self._deadline = channel, data, deadline
        self._failed: Exception | None = None

    def run(self) -> None:
        try:
            for chunk in self._data:
                if not self._give(chunk):
                    return
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                self._channel.shutdown_write()
        except Exception as e:  # a local file could not be read; the command must not wait for the rest of it
            self._failed = e
            self._channel.close()

    def _give(self, chunk: bytes) -> bool:
        """False when the command ended without reading it all: its status and words then say why."""
        sent = 0
        while sent < len(chunk):
            if self._channel.exit_status_ready():
                return False
            try:
                sent += self._channel.send(chunk[sent : sent + _PACKET])
                self._deadline.moved()
            except TimeoutError:
                if self._deadline.over:
                    return False
            except (OSError, EOFError, paramiko.SSHException):
                return False
        return True

    def finish(self) -> None:
        """Raises what went wrong here."""
        self.join(_LAG)
        if self._failed is not None:
            raise self._failed


class _Deadline:
    """A command's time: so many seconds in all, or (None) `SILENCE` seconds since something moved."""

    def __init__(self, seconds: float | None, argv: Sequence[str]) -> None:
        self._seconds = seconds
        self._argv = argv
        self._end = time.monotonic() + (SILENCE if seconds is None else seconds)

    def moved(self) -> None:
        if self._seconds is None:
            self._end = time.monotonic() + SILENCE

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    def step(self) -> float:
        """Seconds that are left. Raises TimeoutError when none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def wait(self, wait: Callable[[float], bool]) -> None:
        if not wait(self.step()):
            raise TimeoutError

    def passed(self, name: str) -> RbeeError:
        shown = f"{self._seconds:g} s" if self._seconds is not None else f"{SILENCE:g} s of silence"
        return RbeeError(f"{name}: `{self._argv[0]}` did not end within {shown}.", code="timeout")


def chunks(preamble: bytes, parts: Sequence[Part], on_progress: OnProgress | None) -> Iterator[bytes]:
    """The preamble, then the files from their offsets on; tells how much has been taken."""
    total = sum(p.size for p in parts)
    done = sum(p.offset for p in parts)
    if preamble:
        yield preamble
    for part in parts:
        with part.path.open("rb") as f:
            f.seek(part.offset)
            while chunk := f.read(_CHUNK):
                yield chunk
                done += len(chunk)
                if on_progress:
                    on_progress(done, total)
