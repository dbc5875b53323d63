# SPDX-License-Identifier: GPL-3.0-or-later
"""The small things that everything stands on: problems, errors, digests, durations, the spec's own answers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core import errors
from rbee.core.checks import is_loopback, split_address
from rbee.core.digest import digest
from rbee.core.document import Document, Node
from rbee.core.facts import Roots
from rbee.core.problems import Problem, ProblemsError, Where, did_you_mean
from rbee.core.providers import EngineProvider, Install, binary_id, fill_command
from rbee.core.resolve import Places, seconds
from rbee.core.spec import HiveSpec, ModelSpec, Spec, Ssh

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_problem_says_where_what_why_and_how() -> None:
    where = Where(file="rbee.yaml", line=3, column=5)
    problem = Problem(summary="What.", detail="Why.", mend="How.", where=where)
    assert str(problem) == "rbee.yaml:3:5: What.\n  Why.\n  How."
    assert str(Problem(summary="What.")) == "What."
    assert str(Where(file="rbee.yaml")) == "rbee.yaml"


def test_an_error_carries_every_problem() -> None:
    found = [Problem(summary="a"), Problem(summary="b")]
    error = ProblemsError(iter(found))
    assert error.problems == tuple(found)
    assert str(error) == "a\nb"


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("modle", ["model", "hive"], "Did you mean 'model'?"),
        ("xyz", ["b", "a"], "Known: a, b."),
        ("xyz", [], ""),
        ("zzzz", list("abcdefghijklm"), "Known: a, b, c, d, e, f, g, h, i, j, ..."),
    ],
)
def test_near_misses_are_offered(word: str, known: list[str], said: str) -> None:
    assert did_you_mean(word, known) == said


def test_errors_have_stable_codes_and_mends() -> None:
    error = errors.NotFound("No model 'm'.", mend="Did you mean 'n'?")
    assert (error.code, error.message, str(error)) == ("not_found", "No model 'm'.", "No model 'm'. Did you mean 'n'?")
    assert errors.RbeeError("x", code="own").code == "own"
    assert str(errors.Unreachable("x")) == "x"
    assert errors.Unavailable("x", retry_after=3.0).retry_after == 3.0
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.RbeeError)]
    assert len({k.code for k in kinds}) == len(kinds)


@given(VALUES)
def test_a_digest_is_of_the_value_and_not_of_its_order(value: Any) -> None:
    again = json.loads(json.dumps(value))
    if isinstance(again, dict):
        again = dict(reversed(again.items()))
    assert digest(again) == digest(value)
    assert len(digest(value, 12)) == 12


def test_a_digest_takes_dataclasses_and_sets_and_nothing_without_json() -> None:
    install = Install(platform="p", requirements=("a",))
    assert digest(install) == digest(dataclasses.asdict(install)) == digest([install][0])
    assert digest({3, 1, 2}) == digest(frozenset([2, 3, 1])) == digest([1, 2, 3])
    assert digest({"a": 1}) != digest({"a": 2})
    with pytest.raises(TypeError, match="cannot digest a object"):
        digest(object())
    with pytest.raises(TypeError, match="cannot digest a type"):
        digest(Install)


def test_the_local_hive_is_the_one_without_ssh() -> None:
    far, here = HiveSpec(name="far", ssh=Ssh(host="far")), HiveSpec(name="here")
    assert Spec(version=1, fleet="f", hives={"far": far, "here": here}).local_hive is here
    assert Spec(version=1, fleet="f", hives={"far": far}, models={"m": ModelSpec(source="x")}).local_hive is None


def test_a_provider_knows_its_wheels_by_platform() -> None:
    install = Install(platform="linux-x86_64", requirements=("a==1",))
    provider = EngineProvider(
        kind="engine", name="e", version="1.2", summary="s", worker_types=("cpu",), formats=("gguf",), module="m",
        distribution="d", command=("{python}",), install=(install,), tasks={"embed": ("/v1/embeddings",)},
    )  # fmt: skip
    assert provider.install_for("linux-x86_64") is install
    assert provider.install_for("macos-arm64") is None
    assert provider.paths_for(None) == provider.paths_for("generate") == provider.paths
    assert (provider.paths_for("embed"), provider.paths_for("rerank")) == (("/v1/embeddings",), ())
    assert binary_id(provider, "linux-x86_64") == "e-1.2-linux-x86_64"


def test_an_engine_is_started_without_what_is_unset() -> None:
    command = ("{python}", "-m", "e", "--threads", "{threads}", "--port={port}", "--x", "{device_index}")
    values = {"python": "/p", "threads": None, "port": 9, "device_index": 0}
    assert fill_command(command, values) == ("/p", "-m", "e", "--port=9", "--x", "0")
    assert fill_command(("{threads}", "a", "{threads}", "--b=1", "{threads}"), {"threads": None}) == ("a", "--b=1")
    with pytest.raises(KeyError):
        fill_command(("{port}",), {})


@pytest.mark.parametrize(("text", "value"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172800), ("0s", 0)])
def test_durations_are_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "5min", "-5m", "5m\n"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


def test_paths_are_of_the_folder_or_the_home() -> None:
    places = Places(folder="/etc/fleet", home="/home/bee")
    assert [places.path(p) for p in ("a/../b", "../c", "/d/./e", "~", "~/f", "~g")] == [
        "/etc/fleet/b", "/etc/c", "/d/e", "/home/bee", "/home/bee/f", "/etc/fleet/~g",
    ]  # fmt: skip


def test_addresses_have_hosts_and_ports() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("a.b:7833") == ("a.b", 7833)
    assert [is_loopback(h) for h in ("127.9.9.9", "::1", "localhost", "x.localhost", "10.0.0.1", "a.b")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


def test_a_document_answers_for_what_is_not_there() -> None:
    leaf = Node(value=1, line=2, column=3)
    document = Document(file="f", root=Node(value=[leaf], line=1, column=1))
    assert document.root.child("key") is None
    assert document.root.child(1) is None
    assert document.root.child(0) is leaf
    assert Node(value={"0": leaf}, line=1, column=1).child(0) is None
    assert leaf.child(0) is None
    assert document.where(0) == Where(file="f", line=2, column=3)
    assert not document.broken((0, "no", "no"))


def test_where_things_are_on_a_machine() -> None:
    roots = Roots(config="/c", cache="/k", data="/d", state="/s")
    assert (roots.releases, roots.engines, roots.models, roots.wheels) == (
        "/d/releases", "/k/workers", "/k/models", "/k/wheels",
    )  # fmt: skip
    assert (roots.token, roots.hive_config, roots.queen_config) == ("/c/token", "/c/hive.json", "/c/queen.json")
