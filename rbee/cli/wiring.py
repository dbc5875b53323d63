# SPDX-License-Identifier: GPL-3.0-or-later
"""How the controller is put together: real SSH, real files, real clocks behind the ports of plan and apply."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from rbee.adapters import gguf, shipped
from rbee.adapters.hive_api import HttpHiveApi
from rbee.adapters.local_shell import LocalShell
from rbee.adapters.machines import open_shell
from rbee.adapters.paths import Paths, write_atomic
from rbee.adapters.queen_api import HttpQueenApi
from rbee.adapters.secrets import load_token, make_token, write_secret
from rbee.adapters.system import now
from rbee.contracts import codec
from rbee.contracts.configs import QueenConfig
from rbee.core.errors import RbeeError
from rbee.core.memory import DEFAULT_PARALLEL, window, worker_bytes
from rbee.core.spec import HiveSpec, ModelSpec, WorkerSpec
from rbee.fleet.ports import HiveApi, QueenApi, Shell


class SystemClock:
    def now(self) -> str:
        return now()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class RealMachines:
    """Shells opened when first asked for and kept; one lock, because many threads ask."""

    def __init__(self, home: RealHome) -> None:
        self._home = home
        self._shells: dict[str, Shell] = {}
        self._lock = threading.Lock()

    def shell(self, hive: HiveSpec) -> Shell:
        with self._lock:
            if hive.name not in self._shells:
                self._shells[hive.name] = open_shell(hive.name, hive.ssh)
            return self._shells[hive.name]

    def hive_api(self, hive: HiveSpec, url: str) -> HiveApi:
        return HttpHiveApi(self.shell(hive), url, self._home.token_if_any)

    def queen_api(self, url: str) -> QueenApi:
        return HttpQueenApi(LocalShell(), url, self._home.token_if_any)

    def queen_config(self) -> QueenConfig | None:
        return self._home.queen_config()

    def close(self) -> None:
        with self._lock:
            shells, self._shells = list(self._shells.values()), {}
        for shell in shells:
            shell.close()


class RealHome:
    """This machine's token and queen settings. `token_file` may be the one that rbee.yaml names."""

    def __init__(self, paths: Paths, token_file: str | None) -> None:
        self.paths = paths
        self._token_file = Path(token_file) if token_file else paths.token
        self._given = token_file is not None
        self._making = threading.Lock()

    @property
    def token_file(self) -> str:
        return str(self._token_file)

    def token(self) -> str:
        with self._making:  # many hives ask at once, and all must get the same
            if not self._token_file.exists():
                if self._given:
                    load_token(self._token_file)  # raises: a file that someone named must be there
                write_secret(self._token_file, make_token())
        return load_token(self._token_file).reveal()

    def token_if_any(self) -> str | None:
        return load_token(self._token_file).reveal() if self._token_file.exists() else None

    def token_digest(self) -> str:
        """First 16 hex digits of the token's SHA-256; empty while there is none. Raises BadSecret."""
        said = self.token_if_any()
        if said is None and self._given:
            load_token(self._token_file)
        return hashlib.sha256(said.encode()).hexdigest()[:16] if said else ""

    def queen_config(self) -> QueenConfig | None:
        """Raises RbeeError `bad_config` when the file is there and is none."""
        try:
            return codec.decode(QueenConfig, self.paths.queen_config.read_bytes())
        except FileNotFoundError:
            return None
        except codec.CodecError as e:
            raise RbeeError(
                f"{self.paths.queen_config} cannot be understood: {e}.",
                code="bad_config",
                mend="rbee wrote it; move it away and apply again.",
            ) from None

    def write_queen_config(self, config: QueenConfig) -> None:
        write_atomic(self.paths.queen_config, codec.encode_pretty(config), mode=0o600)

    def forget(self) -> None:
        gone = [self.paths.queen_config]
        gone += [self.paths.data / f"{name}.db{end}" for name in ("queen", "hive") for end in ("", "-wal", "-shm")]
        gone += [self.paths.data / "memory.json", self.paths.state / "hive.queen.json"]
        if not self._given:
            gone.append(self._token_file)
        for path in gone:
            path.unlink(missing_ok=True)
        for name in ("queen", "hive"):
            shutil.rmtree(self.paths.data / f"{name}.results", ignore_errors=True)


def predict_memory(model: ModelSpec, worker: WorkerSpec) -> int | None:
    """Bytes that a CPU worker will take, when the model's file is here to be read; None when it is not."""
    scheme, _, rest = model.source.partition(":")
    try:
        if scheme == "file":
            header = gguf.check_whole(Path(rest))
        elif scheme == "builtin":
            header = gguf.read_header(shipped.builtin_model(rest))
        else:
            return None
    except (RbeeError, OSError):
        return None  # a broken file is told by the hive, with the engine's own words
    options = worker.options
    given = window(
        options.task,
        trained=header.context_length,
        causal=header.shape.causal,
        context_length=options.context_length,
        batch_size=options.batch_size,
    )
    return worker_bytes(header.shape, options.task, given=given, parallel=options.parallel or DEFAULT_PARALLEL)


def own_addresses() -> frozenset[str]:
    """IP addresses of this machine's interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    return frozenset(
        a.address.partition("%")[0] for found in psutil.net_if_addrs().values() for a in found if a.family in families
    )


@contextmanager
def machines_of(home: RealHome) -> Iterator[RealMachines]:
    machines = RealMachines(home)
    try:
        yield machines
    finally:
        machines.close()
