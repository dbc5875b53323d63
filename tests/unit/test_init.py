# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee init` and `rbee validate`, as a person runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.shipped import providers_dir
from rbee.adapters.yaml_nodes import parse
from rbee.adapters.yaml_source import YamlFiles
from rbee.cli import init_cmd, validate_cmd
from rbee.cli.init_template import Machine, fleet_name, render
from rbee.cli.views.problems import MOST, human
from rbee.core.problems import Problem, Where
from rbee.core.records import Device
from rbee.fleet.load import load

CPU = Device(id="cpu", device_id=0, device_type="cpu", name="CPU")
GPU = Device(id="cuda:0", device_id=0, device_type="cuda", name="NVIDIA GeForce RTX 4090")


def loads(text: str, tmp_path: Path) -> str:
    path = tmp_path / "rbee.yaml"
    path.write_text(text)
    engines = [providers_dir() / "engines"]
    return load(path, {}, files=YamlFiles(), home=tmp_path, provider_dirs=engines).spec.fleet


def test_the_first_file_is_valid_and_says_what_is_here(tmp_path: Path) -> None:
    machine = Machine(hostname="Big-Box.lan", cores=1, memory=2**35, devices=(CPU, GPU), ssh_hosts=("attic", "gate"))
    text = render(machine, "./schemas/rbee.json")
    assert loads(text, tmp_path) == "big-box"
    assert "# This machine: 1 core, 32.0 GiB of memory, NVIDIA GeForce RTX 4090." in text
    assert "or say which: cpu, cuda:0" in text
    assert "  # attic:\n  #   ssh: attic\n  # gate:\n  #   ssh: gate\n" in text
    assert "llama-3.1-8b" in text


def test_its_comments_are_valid_once_taken_in(tmp_path: Path) -> None:
    text = render(Machine(hostname="x", cores=2, memory=0, ssh_hosts=("attic", "10.0.0.7", "x_y+z")), "s")
    taken = [
        line.replace("# ", "", 1) if line.startswith("  ") and line.lstrip()[0] == "#" else line
        for line in text.splitlines()
    ]
    taken = [line for line in taken if "Hosts of your" not in line]
    assert loads("\n".join(taken), tmp_path) == "x"
    assert parse("\n".join(taken), "f", {}).root.plain()["hives"]["10.0.0.7"] == {"ssh": "10.0.0.7"}


def test_only_so_many_hosts_are_listed() -> None:
    text = render(Machine(hostname="x", cores=2, memory=0, ssh_hosts=tuple(f"host-{i}" for i in range(30))), "s")
    assert "# ... and 10 more" in text


@given(st.text(max_size=80), st.lists(st.text(min_size=1, max_size=80), max_size=4), st.text(max_size=40))
def test_no_name_of_anything_breaks_the_first_file(hostname: str, hosts: list[str], card: str) -> None:
    device = Device(id="cuda:0", device_id=0, device_type="cuda", name=card)
    machine = Machine(hostname=hostname, cores=2, memory=2**33, devices=(CPU, device), ssh_hosts=hosts)
    found = parse(render(machine, "s"), "f", {}).root.plain()
    assert found["fleet"] == fleet_name(hostname)
    assert set(found["hives"]) == {"localhost"}


def test_init_writes_once_and_over_it_only_by_force(tmp_path: Path) -> None:
    file = str(tmp_path / "rbee.yaml")
    first = CliRunner().invoke(init_cmd.command, ["-f", file])
    assert (first.exit_code, first.stdout) == (
        0,
        f"Wrote {file}. Edit it, then: rbee validate, rbee plan, rbee apply.\n",
    )
    assert CliRunner().invoke(validate_cmd.command, ["-f", file]).exit_code == 0
    Path(file).write_text("mine")
    second = CliRunner().invoke(init_cmd.command, ["-f", file])
    assert second.exit_code == 1
    assert "There is a file already." in second.stderr
    assert Path(file).read_text() == "mine"
    assert CliRunner().invoke(init_cmd.command, ["-f", file, "--force"]).exit_code == 0
    assert Path(file).read_text() != "mine"


def test_init_says_why_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(init_cmd.command, ["-f", str(tmp_path / "file" / "rbee.yaml"), "--force"])
    assert result.exit_code == 1
    assert "The file cannot be written." in result.stderr


def test_hosts_of_an_ssh_config_are_its_names_without_patterns() -> None:
    text = "Host a b 'x y' # words\n  HostName x\nhost=c\nHost *\nHost !d e? a\nHost 'f\n  Match host g\n"
    assert init_cmd.host_names(text) == ["a", "b", "c"]


def test_validate_tells_people_what_the_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "rbee.yaml"
    file.write_text("version: 1\nfleet: home\nhives: {a: {}}\n")
    result = CliRunner().invoke(validate_cmd.command, ["-f", str(file)])
    assert result.stdout == f"{file} is valid: fleet home, 1 hive, 0 models, 0 workers.\n"


def test_validate_tells_people_what_is_wrong_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "rbee.yaml"
    file.write_text("version: 1\nfleet: home\nhivs: {a: {}}\n")
    result = CliRunner().invoke(validate_cmd.command, ["-f", str(file)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "Error: Unknown key 'hivs' in the file.",
        f"  at {file}:3:1",
        "    3 | hivs: {a: {}}",
        "      | ^",
        "  Did you mean 'hives'?",
        "",
        "1 error.",
    ]


@pytest.mark.parametrize(("text", "code"), [("version: 1\nfleet: home\n", 0), ("version: 1\nfleet: ''\n", 1)])
def test_validate_tells_programs_in_lines_of_json(tmp_path: Path, text: str, code: int) -> None:
    file = tmp_path / "rbee.yaml"
    file.write_text(text)
    result = CliRunner().invoke(validate_cmd.command, ["-f", str(file), "-o", "json"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == code
    assert [line["type"] for line in lines] == ["version", *["problem"] * code, "result"]
    assert lines[-1] == {"type": "result", "valid": code == 0, "errors": code, "warnings": 0}
    if code:
        assert lines[1]["where"] == {"file": str(file), "line": 2, "column": 8}


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    env = {**os.environ, "RBEE_FILE": str(tmp_path / "no.yaml")}
    result = CliRunner().invoke(validate_cmd.command, [], env=env)
    assert f"at {tmp_path / 'no.yaml'}" in result.stderr


def test_many_problems_are_counted_and_files_that_are_gone_have_no_excerpt() -> None:
    where = Where(file="/no/such/file", line=3, column=1)
    text = human([Problem(summary=f"p{i}", where=where, severity="warning" if i % 2 else "error") for i in range(60)])
    assert text.count(" at /no/such/file:3:1") == MOST
    assert text.endswith("... and 10 more.\n\n30 errors and 30 warnings.")
    assert human([]) == "No problem."


def test_a_long_line_is_shown_around_its_place(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("x" * 500 + "HERE" + "y" * 500)
    text = human([Problem(summary="p", where=Where(file=str(file), line=1, column=501))])
    shown, caret = text.splitlines()[2:4]
    assert len(shown) < 140
    bare = caret.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert shown[bare.index("^") :].startswith("HERE")


def test_nothing_in_a_file_commands_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "rbee.yaml"
    file.write_text('version: 1\nfleet: home\n"\\e[31mred": 1\nx\x1b[2J: 1\n')
    result = CliRunner().invoke(validate_cmd.command, ["-f", str(file)])
    assert result.exit_code == 1
    file.write_text('version: 1\nfleet: home\nhives: {"\\e[31mred": {x: 1}}\n')
    more = CliRunner().invoke(validate_cmd.command, ["-f", str(file)])
    assert "\x1b" not in result.stderr + more.stderr
    assert "Unknown key 'x' in `hives. [31mred`." in more.stderr
