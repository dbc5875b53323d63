# SPDX-License-Identifier: GPL-3.0-or-later
"""What the use cases of plan and apply need from outside. Adapters fulfil these; tests put fakes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from rbee.contracts.capabilities import Capabilities
from rbee.core.document import Document
from rbee.core.errors import RbeeError
from rbee.core.facts import MachineFacts
from rbee.core.providers import EngineProvider
from rbee.core.records import Mark

#: Called with (bytes done, bytes in all); may be called from any thread, must not block.
OnProgress = Callable[[int, int], None]
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: exit status, standard output, standard error."""

    rc: int
    out: bytes = b""
    err: bytes = b""

    @property
    def ok(self) -> bool:
        return self.rc == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A local file to be streamed from `offset` on."""

    path: Path
    size: int
    offset: int = 0


class Files(Protocol):
    """The files of this machine, as far as loading needs them."""

    def document(self, path: Path, environment: Mapping[str, str]) -> Document:
        """Raises ProblemsError with why the file cannot be read."""
        ...

    def kind(self, path: Path) -> Literal["file", "directory", "missing"]: ...

    def listing(self, folder: Path) -> list[Path]: ...

    def secret(self, path: Path) -> tuple[str, str] | None:
        """What is wrong with a file that holds a key, and how to mend it; None: nothing."""
        ...

    def password(self, path: Path) -> tuple[str, str] | None:
        """The same of a file that holds a password."""
        ...

    def lacks(self, module: str) -> bool:
        """Whether a module of Python is not installed here."""
        ...


class Stream(Protocol):
    """As much of a socket as `http.client` uses."""

    def sendall(self, data: bytes, /) -> None: ...
    def makefile(self, mode: str, /) -> BinaryIO: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def close(self) -> None: ...


class Shell(Protocol):
    """A machine where commands can be run. Thread-safe; calls block.

    A command is an argv list, never a string; secrets and data go by standard input. Raises Unreachable when
    the machine cannot be reached (or is lost while a command runs), RbeeError `timeout` when `timeout`
    seconds pass; a command that fails is no exception but its `rc`.
    """

    @property
    def name(self) -> str: ...

    @property
    def local(self) -> bool: ...

    @property
    def peer_address(self) -> str:
        """IP address of the machine as this one reached it; behind a jump host, as the jump host does."""
        ...

    def run(
        self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed: ...

    def send(
        self, argv: Sequence[str], *, preamble: bytes, parts: Sequence[Part], on_progress: OnProgress | None = None
    ) -> Completed:
        """Run a command with `preamble` and then the files as its standard input. No deadline but silence."""
        ...

    def connect(self, host: str, port: int, timeout: float = 10.0) -> Stream:
        """A TCP connection made from that machine (over the SSH connection, or plainly when local)."""
        ...

    def close(self) -> None: ...


class HiveApi(Protocol):
    """A hive's HTTP API. Blocks; thread-safe."""

    def capabilities(self) -> Capabilities: ...

    def run(self, request: Any, on_event: OnEvent | None = None) -> Any:
        """Submit the operation, tell its events, return its response value.

        A dropped stream is resumed. Raises RbeeError with the job's code and message when it fails,
        `cancelled` when someone cancels it; KeyboardInterrupt cancels the job first. Unreachable when the
        hive is not there.
        """
        ...

    def cancel(self) -> None:
        """Cancel every job that this object has running (from another thread)."""
        ...


class QueenApi(HiveApi, Protocol):
    def info(self) -> dict[str, Any]:
        """`GET /v1/queen`: fleet, version, release, config_digest, hives."""
        ...

    def reload(self) -> None:
        """Read queen.json again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a bundle is made for: `linux-x86_64`, minor version of Python, and the libc it must run on."""

    platform: str
    python: tuple[int, int]
    libc: str = "glibc"
    libc_version: tuple[int, int] = (2, 28)

    @classmethod
    def of(cls, facts: MachineFacts) -> Target:
        """The target that a machine is. Raises RbeeError `no_python` when it has no Python new enough."""
        if facts.python is None:
            raise RbeeError("The machine has no Python 3.10 or newer.", code="no_python")
        return cls(
            platform=facts.platform,
            python=facts.python.version[:2],
            libc=facts.libc or "glibc",
            libc_version=facts.libc_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel on this machine's disk, addressed by its SHA-256."""

    name: str
    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What is installed as one directory on a machine.

    A release's `id` is its content's digest, an engine's its binary id. `metadata` is merged into the
    metadata.json that the installed directory gets (placeholders `{path}` and `{python}` filled in there).
    """

    kind: Literal["release", "engine"]
    id: str
    wheels: tuple[Wheel, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(w.size for w in self.wheels)


class Bundler(Protocol):
    """Makes bundles on the controller; fetches wheels that it has not yet. Blocks; thread-safe."""

    @property
    def release_id(self) -> str:
        """Digest of the rbee that is running here: what hives should run."""
        ...

    def release(self, target: Target, mark: Mark) -> Bundle: ...

    def engine(self, provider: EngineProvider, target: Target, mark: Mark) -> Bundle: ...


class Clock(Protocol):
    def now(self) -> str:
        """RFC 3339, UTC, with Z."""
        ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...
