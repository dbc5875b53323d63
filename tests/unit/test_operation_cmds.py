# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation is a command whose options come from its type."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rbee.cli import fields
from rbee.cli.main import COMMANDS, FAMILIES, main
from rbee.cli.operation_cmds import family
from rbee.contracts.operations import OPERATIONS, OperationType
from rbee.core.spec import WorkerOptions

NAMES = sorted(OPERATIONS)


def run(*args: str, env: dict[str, str] | None = None) -> Any:
    return CliRunner().invoke(main, list(args), env={"RBEE_QUEEN_URL": None, "RBEE_TOKEN_FILE": None, **(env or {})})


def words(kind: OperationType) -> list[str]:
    return [kind.family, kind.command] if kind.family else [kind.command]


def command(name: str) -> click.Command:
    kind = OPERATIONS[name]
    found = family(kind.family).get_command(click.Context(main), kind.command)
    assert found is not None
    return found


def argument(name: str) -> click.Argument | None:
    return next((p for p in command(name).params if isinstance(p, click.Argument)), None)


def options(name: str) -> dict[str, click.Option]:
    return {o: p for p in command(name).params if isinstance(p, click.Option) for o in p.opts}


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_has_a_command_with_help(name: str) -> None:
    kind = OPERATIONS[name]
    told = run(*words(kind), "--help")
    assert told.exit_code == 0, told.output
    if kind.family:
        assert kind.summary.split(":")[0][:40] in " ".join(told.output.split())


@pytest.mark.parametrize("name", [*COMMANDS, *FAMILIES])
def test_every_command_has_help_and_is_listed(name: str) -> None:
    assert run(name, "--help").exit_code == 0
    assert f"\n  {name} " in run("--help").output


def test_no_two_operations_share_a_command() -> None:
    assert len({tuple(words(k)) for k in OPERATIONS.values()}) == len(OPERATIONS)
    assert {k.family for k in OPERATIONS.values()} - {""} == set(FAMILIES)
    assert all(k.command in COMMANDS for k in OPERATIONS.values() if not k.family)


def test_there_is_no_such_command() -> None:
    told = run("wrker")
    assert told.exit_code == 2
    assert "No such command" in told.output


@pytest.mark.parametrize("name", [n for n in NAMES if OPERATIONS[n].family])
def test_every_field_that_must_be_given_is_an_option_that_must_or_the_argument(name: str) -> None:
    there = options(name)
    for field in dataclasses.fields(OPERATIONS[name].request):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        option = there.get("--hive" if field.name == "hive_id" else "--" + field.name.replace("_", "-"))
        if needed:
            assert option is not None, field.name
            assert option.required or argument(name) is not None
        elif option is not None:
            assert not option.required


def test_options_of_spawning_a_worker() -> None:
    there = options("WorkerSpawn")
    assert {"--hive", "--model", "--worker", "--device", "--engine", "--worker-id", "--port"} <= there.keys()
    assert isinstance(there["--worker"].type, click.Choice)
    assert "cuda" in there["--worker"].type.choices
    assert there["--port"].type is click.INT
    assert {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(WorkerOptions)} <= there.keys()
    assert there["--context-length"].name == "options__context_length"
    assert not {"--mark", "--options", "--declared-source"} & there.keys()


def test_the_one_thing_that_must_be_said_is_the_argument_too() -> None:
    shown = {name: found.metavar for name in NAMES if OPERATIONS[name].family and (found := argument(name))}
    assert shown["ModelGet"] == shown["ModelDelete"] == shown["ModelVerify"] == "MODEL_ID"
    assert shown["ModelDeleteBatch"] == "MODEL_ID..."
    assert shown["WorkerLogs"] == shown["WorkerGet"] == "WORKER_ID"
    assert shown["WorkerProcessDelete"] == shown["WorkerProcessGet"] == "PID|WORKER_ID"
    assert shown["HiveStart"] == shown["HiveStop"] == "HIVE_ID"
    assert (shown["WorkerStop"], shown.get("QueenStop")) == ("WORKER_ID", None)
    assert (shown["DownloadPause"], shown["DeviceGet"]) == ("DOWNLOAD_ID", "DEVICE_ID")
    assert (shown["ModelDownload"], shown["WorkerSpawn"]) == ("MODEL", "MODEL")
    assert not {"ModelList", "WorkerSpawnBatch", "SystemStats"} & shown.keys()


def test_what_is_said_twice_is_refused_but_an_argument_goes_before_the_environment() -> None:
    told = run("model", "get", "a", "--model-id", "b")
    assert told.exit_code == 2
    assert "leave one out" in told.output
    told = run("worker", "kill", "0", "--queen-url", "http://127.0.0.1:9", env={"RBEE_PID": "77"})
    assert "at least 1" in told.output


def said(command: str, *words: str, env: dict[str, str] | None = None) -> dict[str, object]:
    """The fields of a request, as such words say them."""
    request = OPERATIONS[command].request
    found: dict[str, object] = {}

    def keep(**given: object) -> None:
        found.update(fields.said_fields(request, given))

    told = CliRunner().invoke(click.Command("it", params=fields.parameters(request), callback=keep), words, env=env)
    assert told.exit_code == 0, told.output
    return found


@pytest.mark.parametrize("command", ["WorkerProcessGet", "WorkerProcessDelete"])
def test_a_number_is_a_pid_and_any_other_word_a_workers_id(command: str) -> None:
    assert said(command, "4242") == {"pid": 4242}
    assert said(command, "chat-0") == {"worker_id": "chat-0"}
    assert said(command, "4242", "--worker-id", "chat-0") == {"pid": 4242, "worker_id": "chat-0"}
    assert said(command, "--worker-id", "77") == {"worker_id": "77"}
    # What the environment says is of another.
    assert said(command, "chat-0", env={"RBEE_PID": "77"}) == {"worker_id": "chat-0"}


def test_flags_lists_and_short_options() -> None:
    assert options("ModelDelete")["--force"].is_flag
    assert options("WorkerLogs")["-f"].is_flag
    assert options("WorkerLogs")["-n"].name == "tail"
    assert options("ModelDeleteBatch")["--model-id"].multiple
    assert options("WorkerSpawnBatch")["--file"].required


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "at least 1"),
        ('[{"model": "m", "port": 0}]', "workers[0].port"),
        ("workers:\n- {model: m, worker: abacus}\n", "workers[0].worker"),
        ("{{", "neither JSON nor YAML"),
        ("- " * 2000, "neither JSON nor YAML"),
        ("x" * (2**20 + 1), "larger than"),
        ("3", "array"),
    ],
)
def test_a_batch_is_read_from_a_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "batch").write_text(text)
    told = run("worker", "spawn-batch", "-f", str(tmp_path / "batch"), "--queen-url", "http://127.0.0.1:9")
    assert told.exit_code == 1
    assert words in told.output


def test_every_option_has_a_name_in_the_environment() -> None:
    for name in NAMES:
        if OPERATIONS[name].family:
            for opt, option in options(name).items():
                assert option.envvar or opt == "--help", (name, opt)
                assert str(option.envvar).startswith("RBEE_")


def test_what_is_missing_is_said_before_anything_is_asked() -> None:
    told = run("model", "download")
    assert told.exit_code == 2
    assert "--model" in told.output
    told = run("model", "delete-batch")
    assert told.exit_code == 2
    assert "Missing argument MODEL_ID" in told.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["model", "download", "--model", "hf:a/b/c.gguf", "--sha256", "nonsense"], "sha256"),
        (["worker", "kill", "--pid", "0"], "pid"),
        (["worker", "spawn", "--model", ""], "model"),
        (["worker", "kill", "0"], "pid"),
        (["model", "get", ""], "model_id"),
        (["model", "delete-batch", "a", "--force"] + ["b"] * 10_000, "at most 10000"),
        (["worker", "spawn-batch", "--file", "/nowhere/at all"], "cannot be read"),
    ],
)
def test_what_the_type_refuses_is_refused_here(args: list[str], words: str) -> None:
    told = run(*args, "--queen-url", "http://127.0.0.1:9")  # nobody is asked
    assert told.exit_code == 1
    assert words in told.output
    assert "127.0.0.1:9" not in told.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_an_environment_variable_of_its_name(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    for option in (p for p in found.params if isinstance(p, click.Option)):
        flag = option.opts[-1].removeprefix("--")
        assert option.envvar == f"RBEE_{flag.replace('-', '_').upper()}", flag


def test_a_value_that_is_no_choice_is_a_usage_error() -> None:
    told = run("worker", "spawn", "--model", "m", "--worker", "abacus")
    assert told.exit_code == 2
    assert "abacus" in told.output


def test_a_queen_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    home = {f"XDG_{k}_HOME": str(tmp_path / k) for k in ("CONFIG", "CACHE", "DATA", "STATE")}
    told = run("worker", "list", env={**home, "RBEE_QUEEN_URL": "http://127.0.0.1:9"})
    assert told.exit_code == 1
    assert "Error: " in told.output
    assert "Traceback" not in told.output


@pytest.mark.parametrize("name", [None, "jobs", "policy", *FAMILIES])
def test_no_line_of_a_list_of_commands_is_cut(name: str | None) -> None:
    asked = [name, "--help"] if name is not None else ["--help"]
    shown = CliRunner().invoke(main, asked, terminal_width=80).output
    assert "Commands:" in shown
    assert [line for line in shown.partition("Commands:")[2].splitlines() if line.endswith("...")] == []
