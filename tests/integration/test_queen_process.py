# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen as a process of its own: settings, signals, locks, and the hive inside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import write_secret
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, KnownModel, QueenConfig, config_digest
from tests.support.queen import beat
from tests.support.waiting import until

SECRET = "a-secret-that-no-log-may-show"


class Home:
    """A home directory with the queen's settings, and the processes started in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        roots = {"CONFIG": "config", "CACHE": "cache", "DATA": "data", "STATE": "state"}
        self.env = {**os.environ, **{f"XDG_{k}_HOME": str(root / v) for k, v in roots.items()}}
        self.paths = Paths(*(root / v / "rbee" for v in roots.values()))
        self.started: list[subprocess.Popen[str]] = []

    def settle(self, config: QueenConfig) -> None:
        self.paths.queen_config.parent.mkdir(parents=True, exist_ok=True)
        self.paths.queen_config.write_bytes(codec.encode_pretty(config))

    def start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "rbee.cli.daemons", "queen"]
        process = subprocess.Popen(argv, env=self.env, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def run_file(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What the queen tells of herself, once she serves."""
        path = self.paths.state / "queen.run.json"

        def said() -> dict[str, Any] | None:
            assert process.poll() is None, process.stderr and process.stderr.read()
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads(path.read_text())
                return found if found["pid"] == process.pid else None
            return None

        found: dict[str, Any] = until(said, "the queen to start")
        return found


@contextlib.contextmanager
def home(root: Path, config: QueenConfig) -> Iterator[Home]:
    found = Home(root)
    found.settle(config)
    try:
        yield found
    finally:
        for process in found.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return json.loads(error.read())


def run(url: str, name: str, **fields: Any) -> Any:
    """The ended job of an operation."""
    job_id = ask(f"{url}/v1/jobs", {"operation": {name: fields}})["job_id"]
    with urllib.request.urlopen(f"{url}/v1/jobs/{job_id}/stream", timeout=60) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")
    return ask(f"{url}/v1/jobs/{job_id}")


CONFIG = QueenConfig(fleet="test", listen="127.0.0.1:0", models=(KnownModel(name="llama"),))


def test_a_queen_serves_reloads_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with home(tmp_path, CONFIG) as h:
        write_secret(h.paths.token, SECRET)
        queen = h.start()
        said = h.run_file(queen)
        run_file = h.paths.state / "queen.run.json"
        assert run_file.stat().st_mode & 0o777 == 0o600
        url = said["url"]
        info = ask(f"{url}/v1/queen")
        assert (info["fleet"], info["pid"], info["config_digest"]) == ("test", queen.pid, config_digest(CONFIG))
        assert said["config_digest"] == info["config_digest"]
        assert run(url, "QueenCheck")["state"] == "completed"

        second = h.start()
        assert second.wait(20) == 1
        assert second.stderr is not None
        assert "runs already" in second.stderr.read()

        changed = replace(CONFIG, aliases={"gpt": ("llama",)})
        h.settle(changed)
        assert ask(f"{url}/v1/queen/reload", {}) == {"config_digest": config_digest(changed)}
        assert "gpt" in {m["id"] for m in ask(f"{url}/v1/models")["data"]}
        assert json.loads(run_file.read_text())["config_digest"] == config_digest(changed)

        h.paths.queen_config.write_text('{"fleet": 3}')
        assert "fleet" in ask(f"{url}/v1/queen/reload", {})["error"]["message"]
        h.settle(replace(CONFIG, listen="127.0.0.1:1"))
        assert ask(f"{url}/v1/queen/reload", {})["error"]["code"] == "restart_needed"
        assert ask(f"{url}/v1/queen")["config_digest"] == config_digest(changed)

        h.settle(CONFIG)
        queen.send_signal(signal.SIGHUP)
        until(lambda: ask(f"{url}/v1/queen")["config_digest"] == config_digest(CONFIG), "the settings to be read again")

        queen.send_signal(signal.SIGTERM)
        assert queen.wait(20) == 0
        assert not run_file.exists()
        assert queen.stderr is not None
        log = queen.stderr.read()
        assert SECRET not in log
        lines = [json.loads(line) for line in log.splitlines()]
        assert {line["actor"] for line in lines} == {"queen"}
        assert any("listening on" in line["message"] for line in lines)


def test_jobs_of_a_queen_that_was_killed_are_told_as_interrupted(tmp_path: Path) -> None:
    with home(tmp_path, CONFIG) as h, socket.create_server(("127.0.0.1", 0)) as silent:
        queen = h.start()
        url = h.run_file(queen)["url"]
        done = run(url, "QueenCheck")
        worker = beat("w1", silent.getsockname()[1])
        assert ask(f"{url}/v1/worker-heartbeat", codec.plain(worker)) == {"status": "ok"}
        running = ask(f"{url}/v1/jobs", {"operation": {"Infer": {"model": "llama", "prompt": "x"}}})["job_id"]
        connection, _ = silent.accept()
        with connection:  # asked, and never answers
            assert connection.recv(100).startswith(b"POST /v1/chat/completions")
            run(url, "QueenCheck")  # accepted once all before it is in the file
            queen.kill()
            queen.wait()
        again = h.start()
        url = h.run_file(again)["url"]
        assert ask(f"{url}/v1/jobs/{done['job_id']}") == done
        job = ask(f"{url}/v1/jobs/{running}")
        assert (job["state"], job["error"]["code"]) == ("failed", "interrupted")
        with urllib.request.urlopen(f"{url}/v1/jobs/{running}/stream", timeout=20) as stream:
            told = stream.read()
        assert b'"event":"infer_start"' in told
        assert b'"code":"interrupted"' in told


def test_the_network_without_a_token_is_refused(tmp_path: Path) -> None:
    for config in (replace(CONFIG, listen="0.0.0.0:0"), replace(CONFIG, fleet_listen=("0.0.0.0:0",))):
        with home(tmp_path, config) as h:
            queen = h.start()
            assert queen.wait(20) == 2
            assert queen.stderr is not None
            assert "without a token" in queen.stderr.read()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with home(tmp_path, replace(CONFIG, listen=f"127.0.0.1:{port}")) as h:
            queen = h.start()
            assert queen.wait(20) == 1
            assert queen.stderr is not None
            assert queen.stderr.read() == f"error: Cannot listen on 127.0.0.1:{port}: the port is taken.\n"
            assert not (h.paths.state / "queen.run.json").exists()


def test_a_queen_who_cannot_be_put_together_says_so_and_nothing_else(tmp_path: Path) -> None:
    shadow = tmp_path / "shadow" / "opentelemetry"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ImportError('not installed')\n")
    with home(tmp_path, replace(CONFIG, traces="http://127.0.0.1:1")) as h:
        h.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(shadow.parent), h.env.get("PYTHONPATH")]))
        queen = h.start()
        assert queen.wait(20) == 1
        assert queen.stderr is not None
        said = queen.stderr.read()
        assert said.startswith("error: `queen.traces` needs OpenTelemetry") and said.count("\n") == 1, said


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    write_secret(token, SECRET)
    token.chmod(0o644)
    with home(tmp_path, replace(CONFIG, token_file=str(token))) as h:
        queen = h.start()
        assert queen.wait(20) == 2
        assert queen.stderr is not None
        said = queen.stderr.read()
        assert f"chmod 600 {token}" in said
        assert SECRET not in said


def test_settings_that_are_wrong_or_missing_are_told(tmp_path: Path) -> None:
    with home(tmp_path, CONFIG) as h:
        h.paths.queen_config.write_text("{")
        assert h.start().wait(20) == 2
        h.paths.queen_config.unlink()
        queen = h.start()
        assert queen.wait(20) == 2
        assert queen.stderr is not None
        assert "cannot be read" in queen.stderr.read()


def test_the_hive_of_this_machine_lives_inside_the_queen(tmp_path: Path) -> None:
    hive = HiveConfig(hive_id="localhost", fleet="test", listen="127.0.0.1:0")
    with home(tmp_path, replace(CONFIG, local_hive=hive)) as h:
        queen = h.start()
        url = h.run_file(queen)["url"]
        until(lambda: [x["status"] for x in ask(f"{url}/v1/queen")["hives"]] == ["online"], "her hive")
        job = run(url, "DeviceList", hive_id="localhost")
        assert job["state"] == "completed", job
        assert "cpu" in {d["id"] for d in job["result"]["devices"]}
        queen.send_signal(signal.SIGTERM)
        assert queen.wait(30) == 0
        assert not (h.paths.state / "hive.run.json").exists()


def test_a_hang_up_at_any_moment_ends_neither_queen_nor_hive(tmp_path: Path) -> None:
    hive = HiveConfig(hive_id="localhost", fleet="test", listen="127.0.0.1:0")
    with home(tmp_path, replace(CONFIG, local_hive=hive)) as h:
        queen = h.start()
        end = time.monotonic() + 20
        while not (h.paths.state / "hive.lock").exists():  # the hive comes first: there is no queen yet, for a moment
            assert time.monotonic() < end
            time.sleep(0.005)
        changed = replace(CONFIG, local_hive=hive, aliases={"gpt": ("llama",)})
        h.settle(changed)
        queen.send_signal(signal.SIGHUP)
        url = h.run_file(queen)["url"]
        until(
            lambda: ask(f"{url}/v1/queen")["config_digest"] == config_digest(changed), "the settings to be read again"
        )
        queen.send_signal(signal.SIGTERM)
        assert queen.wait(30) == 0

        h.paths.hive_config.write_bytes(codec.encode_pretty(hive))
        alone = subprocess.Popen([sys.executable, "-m", "rbee.cli.daemons", "hive"], env=h.env, stderr=subprocess.PIPE)
        try:
            serves = h.paths.state / "hive.run.json"
            until(lambda: serves.exists() or alone.poll() is not None, "the hive to serve")
            alone.send_signal(signal.SIGHUP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                alone.wait(0.5)
            assert alone.poll() is None
        finally:
            alone.terminate()
            alone.communicate()
