# SPDX-License-Identifier: GPL-3.0-or-later
"""What rbee.yaml may say of the queen's clients: keys, limits, and the files that keys are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee.adapters.yaml_source import YamlFiles
from rbee.core.problems import Problem, ProblemsError
from rbee.core.spec_queen import KeySpec, LimitsSpec
from rbee.fleet.load import Loaded, load

HEAD = "version: 1\nfleet: home\nhives: {here: {labels: {region: eu}}}\nqueen:\n"


def key(folder: Path, name: str, text: str = "a-key-of-25-characters-xyz", mode: int = 0o600) -> None:
    file = folder / name
    file.write_text(text)
    file.chmod(mode)


def read(folder: Path, queen: str, *, deploying: bool = False) -> Loaded:
    path = folder / "rbee.yaml"
    path.write_text(HEAD + queen)
    return load(path, {}, files=YamlFiles(), home=Path("/home/bee"), deploying=deploying)


def problems(folder: Path, queen: str, *, deploying: bool = False) -> list[Problem]:
    with pytest.raises(ProblemsError) as e:
        read(folder, queen, deploying=deploying)
    return list(e.value.problems)


def test_keys_and_limits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        key(tmp_path, name)
    said = (
        "  keys:\n"
        "    alice: {key_file: ./a}\n"
        "    cron: {key_file: b, priority: batch, weight: 3, concurrent: 2, requests_per_minute: 60, "
        "require: {region: eu}}\n"
        "  limits: {queue: 10, queue_timeout: 2m, cold_wait: 30s, first_byte_timeout: null, concurrent: 4}\n"
    )
    queen = read(tmp_path, said, deploying=True).spec.queen
    assert queen.keys == {
        "alice": KeySpec(name="alice", key_file=str(tmp_path / "a")),
        "cron": KeySpec(
            name="cron",
            key_file=str(tmp_path / "b"),
            priority="batch",
            weight=3,
            concurrent=2,
            requests_per_minute=60,
            require={"region": "eu"},
        ),
    }
    assert queen.limits == LimitsSpec(
        queue=10, queue_timeout=120.0, cold_wait=30.0, first_byte_timeout=None, concurrent=4
    )


def test_nothing_said(tmp_path: Path) -> None:
    queen = read(tmp_path, "  keys:\n  limits:\n").spec.queen
    assert queen.keys == {}
    assert queen.limits == LimitsSpec()


@pytest.mark.parametrize(
    ("queen", "line", "said"),
    [
        ("  keys: {alice: {}}", 5, "does not say `key_file`"),
        ("  keys:\n    alice:\n    bob: {key_file: a}", 6, ""),
        ("  keys: {alice: {key_file: 5}}", 5, "key_file"),
        ("  keys: {alice: {key_file: ''}}", 5, "key_file"),
        ("  keys: {alice: {key_file: a, priority: urgent}}", 5, "urgent"),
        ("  keys: {alice: {key_file: a, weight: 0}}", 5, "weight"),
        ("  keys: {alice: {key_file: a, requests_per_minute: 0}}", 5, "requests_per_minute"),
        ("  keys: {'no name': {key_file: a}}", 5, "no name"),
        (
            "  keys:\n    fleet: {key_file: a}",
            6,
            "No key can be called 'fleet'. Logs and metrics call the fleet's token",
        ),
        (
            "  keys:\n    anon-1: {key_file: a}",
            6,
            "No key can be called 'anon-1'. Logs and metrics call clients without",
        ),
        ("  token_file: a\n  keys: {alice: {key_file: ./a}}", 6, "The key is the fleet's token."),
        ("  keys:\n    a1: {key_file: a}\n    a2: {key_file: x/../a}", 7, "The keys 'a1' and 'a2' are the same file."),
        ("  keys:\n    a1:\n      key_file: a\n      require: {region: us}", 8, "No hive may serve the key 'a1'."),
        ("  limits: {queue: -1}", 5, "queue"),
        ("  limits: {queue_timeout: 5x}", 5, "queue_timeout"),
        ("  limits: {concurrent: 0}", 5, "concurrent"),
    ],
)
def test_what_cannot_be(tmp_path: Path, queen: str, line: int, said: str) -> None:
    key(tmp_path, "a")
    found = problems(tmp_path, queen)
    assert len(found) == 1
    assert found[0].where is not None
    assert found[0].where.line == line
    assert said in f"{found[0].summary} {found[0].detail}"


@pytest.mark.parametrize(
    ("text", "mode", "said", "mend"),
    [
        (None, 0o600, "does not exist", "openssl rand"),
        ("short", 0o600, "no usable key", "openssl rand"),
        ("a-key-of-25-characters-xyz", 0o640, "can be read by others", "chmod 600"),
        ("x" * 5000, 0o600, "no usable key", ""),
    ],
)
def test_a_key_file_that_is_no_good(tmp_path: Path, text: str | None, mode: int, said: str, mend: str) -> None:
    """An error where the queen runs; elsewhere, such as in CI, a warning."""
    if text is not None:
        key(tmp_path, "a", text, mode)
    queen = "  keys:\n    alice: {key_file: a}\n"
    (warned,) = read(tmp_path, queen).warnings
    (refused,) = problems(tmp_path, queen, deploying=True)
    assert (warned.severity, refused.severity) == ("warning", "error")
    for problem in (warned, refused):
        assert said in problem.summary
        assert mend in problem.mend
        assert problem.where is not None
        assert (problem.where.line, problem.where.column) == (6, 23)


def test_hives_that_are_damaged_are_not_counted(tmp_path: Path) -> None:
    key(tmp_path, "a")
    path = tmp_path / "rbee.yaml"
    path.write_text(
        "version: 1\nfleet: home\nhives: {here: {lables: {}}}\nqueen: {keys: {a: {key_file: a, require: {x: y}}}}\n"
    )
    with pytest.raises(ProblemsError) as e:
        load(path, {}, files=YamlFiles(), home=Path("/home/bee"))
    assert len(e.value.problems) == 1


SECRETS = [
    ("store: postgresql://rbee:geheim@db/rbee", "password in it"),
    ("store: postgresql://db/rbee?password=geheim", "password in it"),
    ("traces: http://bee:geheim@collector:4318", "user or password in it"),
    ("traces: http://geheim@collector:4318", "user or password in it"),
]


@pytest.mark.parametrize(("said", "why"), SECRETS)
@pytest.mark.parametrize("deploying", [False, True])
def test_no_address_has_a_secret_in_it(tmp_path: Path, said: str, why: str, deploying: bool) -> None:
    (refused,) = problems(tmp_path, f"  {said}\n", deploying=deploying)
    assert why in refused.summary
    assert refused.mend
    assert refused.where is not None
    assert refused.where.line == 5


def test_addresses_of_nothing_that_could_be_read_are_not_secrets(tmp_path: Path) -> None:
    assert read(tmp_path, "  store: 'postgresql://[db/rbee'\n").spec.queen.store == "postgresql://[db/rbee"


def test_the_password_of_the_database_is_in_a_file_of_ones_own(tmp_path: Path) -> None:
    said = "  store: postgresql://rbee@db/rbee\n  store_password_file: pw\n"
    (warned,) = read(tmp_path, said).warnings
    assert "cannot be read" in warned.summary
    (refused,) = problems(tmp_path, said, deploying=True)
    assert refused.summary == warned.summary
    key(tmp_path, "pw", "short", 0o640)
    (refused,) = problems(tmp_path, said, deploying=True)
    assert "can be read by others" in refused.summary
    key(tmp_path, "pw", "short")
    assert read(tmp_path, said, deploying=True).warnings == ()
    (warned,) = read(tmp_path, "  store_password_file: pw\n", deploying=True).warnings
    assert "there is none" in warned.summary


class Bare(YamlFiles):
    """A machine with rbee and none of its extras."""

    def lacks(self, module: str) -> bool:
        return super().lacks(f"{module}_not_there.at_all")


def test_what_the_queen_lacks_is_told_before_she_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_text(f"{HEAD}  store: postgresql://rbee@db/rbee\n  traces: http://127.0.0.1:4318\n")
    warned = load(path, {}, files=Bare(), home=tmp_path).warnings
    assert [w.summary for w in warned] == [
        "The driver of PostgreSQL is not installed.",
        "OpenTelemetry is not installed.",
    ]
    with pytest.raises(ProblemsError) as e:
        load(path, {}, files=Bare(), home=tmp_path, deploying=True)
    assert [p.severity for p in e.value.problems] == ["error", "error"]
    assert all("pip install" in p.mend for p in e.value.problems)


class Full(YamlFiles):
    """A machine with all of rbee's extras."""

    def lacks(self, module: str) -> bool:
        return False


def test_a_queen_that_has_all_she_needs_is_told_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_text(f"{HEAD}  store: postgresql://rbee@db/rbee\n  traces: http://127.0.0.1:4318\n")
    assert load(path, {}, files=Full(), home=tmp_path, deploying=True).warnings == ()
