# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading YAML: every bad file is a problem with a place; what words mean is YAML 1.2."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.yaml_nodes import MAX_DEPTH, parse
from rbee.adapters.yaml_source import MAX_BYTES, YamlFiles
from rbee.core.document import Document
from rbee.core.problems import Problem, ProblemsError, Where


def read(text: str, environment: dict[str, str] | None = None) -> Document:
    return parse(text, "f.yaml", environment or {})


def problem_in(text: str, environment: dict[str, str] | None = None) -> Problem:
    """The one problem of a text, whether it can be read or not."""
    try:
        problems = read(text, environment).problems
    except ProblemsError as e:
        problems = e.problems
    (problem,) = problems
    return problem


def refused(path: Path) -> Problem:
    with pytest.raises(ProblemsError) as e:
        YamlFiles().document(path, {})
    (problem,) = e.value.problems
    return problem


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("22:30", "22:30"),
        ("0644", 644),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-10-01", "2026-10-01"),
        ("9" * 30, float("9" * 30)),
        ("9" * 100, "9" * 100),
        ('"1"', "1"),
        ("'true'", "true"),
        ("!!str 1", "1"),
        ('!!int "7"', 7),
        ("! 1", "1"),
    ],
)
def test_words_mean_what_yaml_1_2_says(word: str, value: object) -> None:
    found = read(f"a: {word}\n").root.plain()
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_places_of_values_and_keys_count_from_one() -> None:
    document = read("a: 1\nb:\n  - x\n  - {c: é, d: 2}\n")
    assert document.where("a") == Where(file="f.yaml", line=1, column=4)
    assert document.where("b", key=True) == Where(file="f.yaml", line=2, column=1)
    assert document.where("b", 1, "d") == Where(file="f.yaml", line=4, column=15)
    assert document.where("b", 1, "d", key=True) == Where(file="f.yaml", line=4, column=12)
    assert document.where("b", 0, key=True) == Where(file="f.yaml", line=3, column=5)
    assert document.where("b", 1, "no") == document.where("b", 1)
    assert document.where("b", 7) == document.where("b")
    assert document.where("a", "no", key=True) == Where(file="f.yaml", line=1, column=1)
    assert document.lines[0] == "a: 1"


@pytest.mark.parametrize(
    ("text", "summary", "line", "column"),
    [
        ("", "The file is empty.", 0, 0),
        ("# only words\n", "The file is empty.", 0, 0),
        ("a: 1\n\tb: 2\n", "A tab.", 2, 1),
        ("a:\n\tb: 2\n", "A tab.", 2, 1),
        ("a: @b\n", "A text cannot begin with '@'.", 1, 4),
        ("a: b: c\n", "A `: ` where no key can be.", 1, 5),
        ("a: [1, 2\n", "A { or [ is not closed, or a comma is missing.", 2, 1),
        ("a: {b: ${env.X}}\n", "A `${...}` inside { } or [ ] needs quotes.", 1, 9),
        ('a: "b\n', "A quote is opened here and not closed.", 1, 4),
        ("a: 1\n b: 2\n", "A `: ` where no key can be.", 2, 3),
        ("a:\n  b: 1\n c: 2\n", "The indentation is off.", 3, 2),
        ("a: *no\n", "Nothing is named &no.", 1, 4),
        ("a: &x [*x]\n", "*x stands inside what it names.", 1, 8),
        ("a: 1\n---\nb: 2\n", "A second document begins here.", 2, 1),
        ("a: !include b.yaml\n", "The tag !include is not known.", 1, 4),
        ("a: !vault [1]\n", "The tag !vault is not known.", 1, 4),
        ("a: !!python/object:os.system {}\n", "The tag !!python/object:os.system is not known.", 1, 4),
        ("1: b\n", "The key 1 is no text.", 1, 1),
        ("a:\n  true: b\n", "The key true is no text.", 2, 3),
        ("'' : a\n~: b\n", "The key ~ is no text.", 2, 1),
        ("? [a]\n: b\n", "A key must be a text.", 1, 3),
        ("a: 1\nb: 2\na: 3\n", "'a' is here twice.", 3, 1),
        ("a: {<<: 1}\n", "`<<` takes a mapping, or a list of them.", 1, 5),
    ],
)
def test_a_bad_text_is_told_with_its_place(text: str, summary: str, line: int, column: int) -> None:
    problem = problem_in(text)
    assert (problem.summary, problem.where) == (summary, Where(file="f.yaml", line=line, column=column))
    assert problem.mend


def test_a_key_twice_names_both_places() -> None:
    assert "f.yaml:1:1" in problem_in("a: 1\nb: 2\na: 3\n").detail


def test_variables_are_filled_in_and_may_be_numbers() -> None:
    document = read(
        'a: ${env.PORT}\nb: "${env.PORT}"\nc: x-${env.NAME}-$${env.NAME}\nd: ${env.EMPTY}\n',
        {"PORT": "22", "NAME": "${env.PORT}", "EMPTY": ""},
    )
    assert document.root.plain() == {"a": 22, "b": "22", "c": "x-${env.PORT}-${env.NAME}", "d": ""}
    assert not document.problems


@pytest.mark.parametrize(
    ("text", "summary", "mend", "column"),
    [
        ("a: ${env.HOSTS}", "${env.HOSTS} is not set in the environment.", "Did you mean 'HOST'?", 4),
        ("a: x ${env.NO}", "${env.NO} is not set in the environment.", "export NO=", 6),
        ('a: "${HOST}"', "${HOST} is not known.", "${env.HOST}", 5),
        ("a: ${env.1}", "${env.1} is not known.", "${env.NAME}", 4),
        ('a: "${env.HOST"', "${env.HOST is not closed.", "$${", 5),
    ],
)
def test_a_variable_that_cannot_be_filled_in_is_told(text: str, summary: str, mend: str, column: int) -> None:
    problem = problem_in(text, {"HOST": "h"})
    assert problem.summary == summary
    assert mend in problem.mend
    assert problem.where == Where(file="f.yaml", line=1, column=column)


def test_what_was_told_already_is_broken() -> None:
    document = read("a: {b: [x, '${env.NO}']}\nc: 1\n")
    assert list(document.broken_paths()) == [("a", "b", 1)]
    assert document.broken(("a", "b", 1))
    assert document.broken(("a", "b", 1, "deeper"))
    assert not document.broken(("a", "b", 0))
    assert not document.broken(("c", "no", "such"))


def test_a_variable_on_a_later_line_of_a_text_has_that_line() -> None:
    where = problem_in('a: "x\n  ${env.NO}"').where
    assert where is not None
    assert where.line in (1, 2)


def test_aliases_and_merges_stand_for_what_they_name() -> None:
    document = read("a: &x {b: 1, c: 2}\nd: *x\ne: {<<: *x, c: 3}\nf: {<<: [*x, {g: 4}]}\n")
    assert document.root.plain() == {
        "a": {"b": 1, "c": 2},
        "d": {"b": 1, "c": 2},
        "e": {"b": 1, "c": 3},
        "f": {"b": 1, "c": 2, "g": 4},
    }


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert problem_in("\n".join(levels)).summary == "More than 200000 values."


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 50_000])
def test_endless_depth_is_refused(text: str) -> None:
    assert problem_in(text).summary == f"More than {MAX_DEPTH} levels deep."


def test_bytes_that_are_no_utf8_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    problem = refused(path)
    assert problem.summary == "The file is not UTF-8."
    assert problem.detail == "Byte 11 is 0xe9."
    assert problem.where == Where(file=str(path), line=2, column=7)
    path.write_bytes("a: 1".encode("utf-16"))
    assert refused(path).summary == "The file is UTF-16."


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert YamlFiles().document(path, {}).root.plain() == {"a": 1, "b": 2}


def test_a_control_character_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_text("a: 1\nb: x\x00\n")
    problem = refused(path)
    assert problem.summary == "A control character (U+0000)."
    assert problem.where == Where(file=str(path), line=2, column=5)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.yaml").summary == "There is no such file."
    assert refused(tmp_path).summary == "This is a directory."
    assert refused(tmp_path / ("x" * 300)).summary == "The file cannot be read."


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rbee.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert refused(path).summary == "The file is larger than 1 MiB."


def test_kinds_and_listings(tmp_path: Path) -> None:
    files = YamlFiles()
    for name in ("b.yaml", "a.yml", "c.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "d.yaml").mkdir()
    assert files.kind(tmp_path) == "directory"
    assert files.kind(tmp_path / "c.txt") == "file"
    assert files.kind(tmp_path / "no") == "missing"
    assert [p.name for p in files.listing(tmp_path)] == ["a.yml", "b.yaml"]
    assert files.listing(tmp_path / "no") == []


_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200)
_YAMLISH = st.text(st.sampled_from(string.ascii_lowercase + " \n\t:-[]{}&*!|>'\"#%@,?$0123456789~<."), max_size=120)


@given(st.one_of(_TEXTS, _YAMLISH))
def test_no_text_does_anything_but_read_or_be_told(text: str) -> None:
    try:
        document = read(text)
    except ProblemsError as e:
        assert e.problems
    else:
        document.root.plain()


@given(st.one_of(st.binary(max_size=200), _YAMLISH.map(str.encode)))
def test_no_file_does_anything_but_read_or_be_told(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        YamlFiles().document(path, {})
    except ProblemsError as e:
        assert all(p.where and p.where.file == str(path) for p in e.problems)
