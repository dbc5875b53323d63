# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that writes and removes files on a machine, run as a process of its own, as a machine does."""

from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee.fleet import commands


def run(limit: Callable[[], None] | None = None, **asked: Any) -> dict[str, Any]:
    done = subprocess.run(
        commands.script(sys.executable, "files"),
        input=commands.script_input("files", asked),
        capture_output=True,
        timeout=60,
        preexec_fn=limit,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    found: dict[str, Any] = json.loads(done.stdout.decode().partition("rbee: ")[2])
    return found


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_files_are_written_with_their_mode_into_directories_that_are_made(tmp_path: Path) -> None:
    secret, open_ = tmp_path / "config" / "rbee" / "token", tmp_path / "notes"
    told = run(
        write=[{"path": str(secret), "text": "sesame ä\n"}, {"path": str(open_), "text": "for all", "mode": 0o644}]
    )
    assert told == {"written": 2, "removed": []}
    assert (secret.read_text(encoding="utf-8"), mode(secret)) == ("sesame ä\n", 0o600)
    assert (open_.read_text(), mode(open_)) == ("for all", 0o644)


def test_what_was_there_is_replaced_and_its_mode_with_it(tmp_path: Path) -> None:
    path, other = tmp_path / "token", tmp_path / "elsewhere"
    other.write_text("not mine")
    path.symlink_to(other)
    run(write=[{"path": str(path), "text": "new"}])
    assert (path.is_symlink(), path.read_text(), mode(path)) == (False, "new", 0o600)
    assert other.read_text() == "not mine"
    other.chmod(0o666)
    run(write=[{"path": str(other), "text": "mine"}])
    assert mode(other) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "token"]  # no temporary files


def test_only_what_is_there_is_removed_and_told(tmp_path: Path) -> None:
    folder, file, link, kept = (tmp_path / n for n in ("folder", "file", "link", "kept"))
    (folder / "deep").mkdir(parents=True)
    kept.mkdir()
    (kept / "x").write_text("x")
    file.write_text("x")
    link.symlink_to(kept)
    paths = [str(p) for p in (folder, file, link, tmp_path / "none")]
    assert run(remove=paths, roots=[str(tmp_path)]) == {"written": 0, "removed": paths[:3]}
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]  # of a link the link itself, not what it leads to
    assert (kept / "x").exists()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that nobody may remove; `root` beside it is rbee's."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    found = tmp_path / "outside" / "treasure"
    found.write_text("gold")
    return found


@pytest.mark.parametrize(
    "path",
    [
        "{top}/outside/treasure",
        "{top}/root/../outside/treasure",
        "{top}/root/link/treasure",
        "{top}/root",
        "{top}",
        "/",
    ],
)
def test_nothing_outside_the_roots_is_ever_removed(tmp_path: Path, outside: Path, path: str) -> None:
    (tmp_path / "root" / "link").symlink_to(outside.parent)
    named = path.format(top=tmp_path)
    told = run(remove=[named], roots=[str(tmp_path / "root")])
    assert told == {"error": f"{named} is outside rbee's directories"}
    assert outside.read_text() == "gold"
    assert (tmp_path / "root").is_dir()


@pytest.mark.parametrize("name", [".", "..", "link/..", "../outside"])
def test_names_that_lead_out_are_refused(tmp_path: Path, outside: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "link").symlink_to(outside.parent)
    told = run(remove=[f"{root}/{name}"], roots=[str(root)])
    assert "outside rbee's directories" in told["error"]
    assert outside.exists()
    assert root.is_dir()


def test_without_roots_nothing_is_removed(outside: Path) -> None:
    assert "outside" in run(remove=[str(outside)])["error"]
    assert outside.exists()


def test_a_root_that_is_a_link_is_where_it_leads(tmp_path: Path) -> None:
    """A home on another disk: the root's own link is the machine's, what is below it is rbee's."""
    real = tmp_path / "disk"
    real.mkdir()
    (real / "x").write_text("x")
    (tmp_path / "rbee").symlink_to(real)
    assert run(remove=[f"{tmp_path}/rbee/x"], roots=[f"{tmp_path}/rbee"])["removed"]
    assert list(real.iterdir()) == []


def test_only_empty_directories_are_tidied(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "x").write_text("x")
    assert "error" not in run(tidy=[str(empty), str(full), str(tmp_path / "none")])
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_an_error_is_told_in_the_machines_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    told = run(write=[{"path": str(tmp_path / "file" / "deep" / "token"), "text": "x"}])
    assert told == {"error": f"Not a directory: {tmp_path}/file/deep", "errno": errno.ENOTDIR}


def test_a_write_that_ends_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")

    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    told = run(small_files_only, write=[{"path": str(path), "text": "x" * 1000}])
    assert told["error"].startswith("File too large")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("token", "old")]


def test_no_parameters_do_nothing() -> None:
    assert run() == {"written": 0, "removed": []}
