# SPDX-License-Identifier: GPL-3.0-or-later
"""How commands end when something is wrong: words or JSON, never a traceback."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rbee.cli.common import file_option, json_lines, output_option, people_errors
from rbee.cli.main import main
from rbee.cli.queen_link import checked
from rbee.core.errors import InvalidRequest, RbeeError


def run(error: BaseException, *args: str, before: bool = False) -> Any:
    @click.command()
    @file_option
    @output_option
    @people_errors
    def command(file: Path, output: str) -> None:
        if before:
            json_lines().emit({"type": "something"})
        raise error

    return CliRunner().invoke(command, list(args))


@pytest.mark.parametrize("before", [False, True])
def test_json_begins_with_the_versions_once_and_ends_with_the_problem(before: bool) -> None:
    told = run(RbeeError("No.", mend="Do.", code="made_up"), "-o", "json", before=before)
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["version", *(["something"] if before else []), "problem"]
    assert (lines[-1]["summary"], lines[-1]["mend"], lines[-1]["code"]) == ("No.", "Do.", "made_up")
    assert told.exit_code == 1


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), 1, "Error: Is a directory: /a."),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "Error: No space left on device."),
        (BrokenPipeError(), 141, ""),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_what_the_system_refuses_is_told_in_words(error: BaseException, code: int, says: str) -> None:
    told = run(error)
    assert told.exit_code == code
    assert says in told.stderr
    assert not told.stdout


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("http://127.0.0.1:7833", "http://127.0.0.1:7833"),
        ("box:7833", "http://box:7833"),
        ("[::1]:7833", "http://[::1]:7833"),
        ("http://box", "http://box"),
    ],
)
def test_an_address_of_a_queen(said: str, url: str) -> None:
    assert checked(said) == url


@pytest.mark.parametrize("said", ["ftp://box", "https://box", "http://", "", "http://box:port", "box:99999"])
def test_what_is_no_address_of_a_queen(said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(said)
    assert "http://HOST:PORT" in caught.value.mend


def test_a_queen_that_is_not_there_comes_with_what_to_do(tmp_path: Path) -> None:
    home = {f"XDG_{k}_HOME": str(tmp_path / k) for k in ("CONFIG", "CACHE", "DATA", "STATE")}
    told = CliRunner().invoke(main, ["status", "--queen-url", "127.0.0.1:9"], env=home)
    assert told.exit_code == 1
    assert "rbee apply" in told.stderr


@pytest.mark.parametrize("option", ["-f", "--file", "--target"])
def test_a_saved_plan_takes_no_other_file_or_target(option: str) -> None:
    told = CliRunner().invoke(main, ["apply", "plan.json", option, "queen"])
    assert told.exit_code == 2
    assert "A saved plan has its own" in told.stderr


def test_the_environments_file_is_no_hindrance_to_a_saved_plan() -> None:
    told = CliRunner().invoke(main, ["apply", "no-such-plan.json"], env={"RBEE_FILE": "x.yaml", "RBEE_TARGET": "queen"})
    assert told.exit_code == 1
    assert "no-such-plan.json cannot be read" in told.stderr
