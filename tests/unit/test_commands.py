# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands: what they are made of, and that a POSIX shell understands them."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rbee.fleet import commands

SCRIPTS = sorted(p.stem for p in (Path(commands.__file__).parent / "remote").glob("*.py") if p.stem != "__init__")
SHELLS = [s for s in ("sh", "dash", "bash", "busybox") if shutil.which(s)]


def test_there_are_scripts() -> None:
    assert {"probe", "install", "receive", "files"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_standard_library_and_old_enough_for_any_hive(name: str) -> None:
    tree = ast.parse(commands.program(name), feature_version=(3, 10))
    imported = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module).partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


def test_no_command_line_holds_a_newline_or_the_parameters() -> None:
    for argv in (commands.find_python_and("probe"), commands.script("/usr/bin/python3", "install")):
        assert not any("\n" in word for word in argv)
        assert sum(map(len, argv)) < 2000
    assert b'"token": "secret"' in commands.script_input("files", {"token": "secret"})


def test_a_configured_python_is_the_only_one_tried() -> None:
    assert commands.pythons("/opt/python") == ["/opt/python"]
    assert commands.pythons(None)[0] == "python3" and commands.pythons(None)[-1] == "python3.10"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("configured", [sys.executable, None])
def test_the_finder_runs_a_script(shell: str, configured: str | None, tmp_path: Path) -> None:
    argv = commands.find_python_and("probe", configured)
    argv = ["busybox", *argv] if shell == "busybox" else [shell, *argv[1:]]
    done = subprocess.run(argv, input=commands.script_input("probe", {}), capture_output=True)
    assert b"\nrbee: {" in done.stdout, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_finder_says_what_it_refused(shell: str, tmp_path: Path) -> None:
    """A program that answers as an old Python would."""
    old = tmp_path / "with a space" / "python3"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 97 ;; esac\necho 3.8.1=/old/python3\n')
    old.chmod(0o755)
    argv = commands.find_python_and("probe", str(old))
    argv = ["busybox", *argv] if shell == "busybox" else [shell, *argv[1:]]
    done = subprocess.run(argv, input=commands.script_input("probe", {}), capture_output=True)
    assert done.stdout.strip().endswith(b" 3.8.1=/old/python3") and b"rbee-nopython: " in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stub_that_only_looks_like_a_python_is_passed_over(shell: str, tmp_path: Path) -> None:
    stub = tmp_path / "python3"
    stub.write_text("#!/bin/sh\necho 'xcode-select: no developer tools were found' >&2\nexit 1\n")
    stub.chmod(0o755)
    argv = [*commands.find_python_and("probe", str(stub)), sys.executable]
    argv = ["busybox", *argv] if shell == "busybox" else [shell, *argv[1:]]
    done = subprocess.run(argv, input=commands.script_input("probe", {}), capture_output=True)
    assert b"\nrbee: {" in done.stdout, done
