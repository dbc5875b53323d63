# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts that supervisors are given."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters import service_texts as texts

ARGV = ["/home/bee/.local/share/rbee/releases/a b/bin/python", "-m", "rbee.cli.daemons", "hive"]
ENVIRON = {"HOME": "/home/bee", "XDG_CONFIG_HOME": '/home/bee/100% "mine"\\$x', "PATH": "/usr/bin:/bin"}
GOLDEN = Path(__file__).parent / "goldens"


def test_the_unit_is_the_golden() -> None:
    assert (
        texts.systemd_unit("hive", ARGV, ENVIRON, "/home/bee/100%/hive.log")
        == (GOLDEN / "rbee-hive.service").read_text()
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    python = shutil.which("true") or "/bin/true"
    (tmp_path / "rbee-hive.service").write_text(texts.systemd_unit("hive", [python, "a b"], ENVIRON, "/tmp/hive.log"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(tmp_path / "rbee-hive.service")], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "rbee-hive.service" in line]
    assert not ours, done.stderr


def test_the_plist_says_the_same() -> None:
    told = plistlib.loads(texts.launchd_plist("org.rbee.hive", ARGV, ENVIRON, "/l"))
    assert told["ProgramArguments"] == ARGV and told["EnvironmentVariables"] == ENVIRON
    assert told["AbandonProcessGroup"] is True and told["KeepAlive"] == {"SuccessfulExit": False}


def test_the_crontab_line_gives_sh_the_same_words() -> None:
    line = texts.crontab_line("hive", ["/bin/echo", "a b"], ENVIRON)
    assert line.startswith("@reboot ") and line.endswith(" # rbee:hive") and "HOME=/home" not in line.split("XDG")[0]
    command = line.removeprefix("@reboot ").replace("\\%", "%").partition(" >/dev/null")[0]
    assert shlex.split(command)[-2:] == ["/bin/echo", "a b"]
    assert f"XDG_CONFIG_HOME={ENVIRON['XDG_CONFIG_HOME']}" in shlex.split(command)


LINES = st.lists(st.text(st.characters(codec="ascii", min_codepoint=32), max_size=30), max_size=5)


@given(LINES)
def test_the_lines_of_others_stay(others: list[str]) -> None:
    others = [x for x in others if not x.rstrip().endswith("# rbee:hive")]
    before = "".join(f"{x}\n" for x in others)
    once = texts.with_line(before, "hive", "@reboot x # rbee:hive")
    assert once.splitlines() == [*others, "@reboot x # rbee:hive"]
    assert texts.with_line(once, "hive", "@reboot y # rbee:hive").splitlines() == [*others, "@reboot y # rbee:hive"]
    assert texts.with_line(once, "hive", None) == before


def test_only_what_a_daemon_needs_is_kept_of_the_environment() -> None:
    kept = texts.kept(
        {"PATH": "/bin", "SSH_CONNECTION": "x", "HF_TOKEN": "s", "XDG_DATA_HOME": "/d", "LANG": "", "LC_ALL": "a\nb"}
    )
    assert kept == {"PATH": "/bin", "XDG_DATA_HOME": "/d"}
