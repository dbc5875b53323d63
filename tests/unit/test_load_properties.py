# SPDX-License-Identifier: GPL-3.0-or-later
"""Any fleet, written down and read again, is the same fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee.adapters.yaml_source import YamlFiles
from rbee.contracts import codec
from rbee.contracts.schemas import SCHEMAS
from rbee.core.problems import ProblemsError
from rbee.core.spec import (
    Defaults,
    HiveSpec,
    ModelSpec,
    PolicySpec,
    Replicas,
    Spec,
    Ssh,
    Where,
    WorkerOptions,
    WorkerSpec,
)
from rbee.core.spec_queen import QueenSpec
from rbee.fleet.load import load

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
MODELS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,20}", fullmatch=True)
#: `${` is left out: it is not a text of the file but a variable.
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="$"), min_size=1, max_size=9
)
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=2)
OPTIONS = st.builds(
    WorkerOptions,
    context_length=st.none() | st.integers(64, 10**6),
    parallel=st.none() | st.integers(1, 256),
    batch_size=st.none() | st.integers(1, 4096),
    threads=st.none() | st.integers(1, 64),
)
TIMEOUTS = st.none() | st.integers(0, 10**6).map(float)


def policies_for(models: list[str]) -> st.SearchStrategy[PolicySpec]:
    names = st.lists(st.sampled_from(models), max_size=2, unique=True).map(tuple)
    return st.builds(PolicySpec, models=names, filter=st.none() | TEXTS, reason=st.none() | TEXTS)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A fleet in which every name is there and every port is free, as `load` gives one."""
    local = draw(NAMES)
    hives = {local: HiveSpec(name=local, labels=draw(LABELS))}
    for i, name in enumerate(draw(st.lists(NAMES.filter(lambda n: n != local), max_size=3, unique=True))):
        port, user = draw(st.none() | st.integers(1, 65535)), draw(st.none() | NAMES)
        hives[name] = HiveSpec(name=name, ssh=Ssh(host=f"host-{i}", port=port, user=user), labels=draw(LABELS))
    sources = st.sampled_from(["builtin:bee-tiny", "hf:org/repo/model.gguf", "https://h.example/m.gguf"])
    models = {n: ModelSpec(name=n, source=draw(sources)) for n in draw(st.lists(MODELS, min_size=1, max_size=3))}
    workers = {n: draw(workers_of(n, hives, models)) for n in draw(st.lists(NAMES, max_size=4))}
    free = MODELS.filter(lambda n: n not in models)
    ends = st.lists(st.sampled_from(sorted(models)), min_size=1, max_size=2, unique=True).map(tuple)
    return Spec(
        version=1,
        fleet=draw(NAMES),
        queen=QueenSpec(advertise=draw(st.none() | TEXTS)),
        hives=hives,
        models=models,
        workers=workers,
        aliases=draw(st.dictionaries(free, ends, max_size=2)),
        policies=draw(st.dictionaries(NAMES, policies_for(sorted(models)), max_size=2)),
        defaults=Defaults(),
    )


few = st.integers(0, 10)


@st.composite
def workers_of(draw: st.DrawFn, name: str, hives: dict[str, HiveSpec], models: dict[str, ModelSpec]) -> WorkerSpec:
    hive = draw(st.sampled_from(sorted(hives)))
    where = draw(st.booleans())
    return WorkerSpec(
        name=name,
        model=draw(st.sampled_from(sorted(models))),
        hive=None if where else hive,
        where=Where(labels=dict(hives[hive].labels)) if where else None,
        device=draw(st.sampled_from(["auto", "cpu", "cuda:1"])),
        replicas=draw(st.builds(lambda least, more: Replicas(min=least, max=least + more), few, few)),
        options=draw(OPTIONS),
        idle_timeout=draw(TIMEOUTS),
    )


def written(spec: Spec) -> dict[str, Any]:
    """The file that says a spec: what the loader fills in itself is left out."""
    plain = codec.plain(spec)
    for section in ("hives", "models", "workers"):
        for thing in plain[section].values():
            del thing["name"]
    for hive in plain["hives"].values():
        if hive["ssh"] is None:
            del hive["ssh"]
    return dict(plain)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(spec=specs(), form=st.sampled_from(["json", "block", "flow"]))
def test_any_fleet_written_and_read_is_the_same(folder: Path, spec: Spec, form: str) -> None:
    path = folder / "rbee.yaml"
    if form == "json":
        text = json.dumps(written(spec), ensure_ascii=False)
    else:
        # All in quotes: PyYAML leaves plain what is a text in YAML 1.1 and a number in 1.2 (`0o7`).
        text = yaml.safe_dump(written(spec), default_style='"', default_flow_style=form == "flow", allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    assert load(path, {}, files=YamlFiles(), home=folder).spec == spec


_SCHEMA = SCHEMAS["rbee"]()
_KEYS = sorted({key for part in (_SCHEMA, *_SCHEMA["$defs"].values()) for key in part["properties"]})
_WORDS = st.sampled_from(["a", "cpu", "x:1", "5m", "hf:a/b", "9300-9302"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 70000) | TEXTS | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*_KEYS, "a", "b"]), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    sections=st.dictionaries(st.sampled_from(["queen", "hives", "models", "workers", "aliases", "defaults"]), _VALUES)
)
def test_no_file_does_anything_but_load_or_be_told(folder: Path, sections: dict[str, Any]) -> None:
    path = folder / "rbee.yaml"
    path.write_text(yaml.dump({"version": 1, "fleet": "f", **sections}, allow_unicode=True), encoding="utf-8")
    try:
        load(path, {}, files=YamlFiles(), home=folder)
    except ProblemsError as e:
        assert all(p.where and p.where.line for p in e.problems)
