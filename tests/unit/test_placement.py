# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hive, device and engine a worker gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core.placement import choose_engine, model_format, place
from rbee.core.records import Device
from rbee.core.spec import HiveSpec, ModelSpec, Ssh, Where, WorkerSpec
from tests.unit.strategies import CPU, provider

GGUF, MLC = "hf:org/tiny.gguf", "hf:mlc-ai/Qwen-MLC"
LLAMA = provider("llama-cpp", worker_types=("cuda", "cpu"))
MLC_LLM = provider("mlc-llm", worker_types=("cuda",), formats=("mlc",))
BOTH = [LLAMA, MLC_LLM]


def gpu(index: int, kind: Any = "cuda") -> Device:
    return Device(id=f"{kind}:{index}", device_id=index, device_type=kind, name="G")


def of(source: str) -> ModelSpec:
    return ModelSpec(name="tiny", source=source)


def spec(**kw: Any) -> WorkerSpec:
    return WorkerSpec(name="chat", model="tiny", **kw)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (GGUF, "gguf"),
        (MLC, "mlc"),
        ("hf:mlc-ai/qwen-mlc/", "mlc"),
        ("https://x/a-MLC?download=1", "mlc"),
        ("f", "gguf"),
    ],
)
def test_format_by_name(source: str, expected: str) -> None:
    assert model_format(of(source)) == expected


def test_what_is_said_of_the_format_goes_first() -> None:
    assert model_format(ModelSpec(source=GGUF, format="mlc")) == "mlc"
    assert model_format(ModelSpec(source=MLC, format="gguf")) == "gguf"
    found = choose_engine(spec(), ModelSpec(source="hf:org/tuned", format="mlc"), [CPU, gpu(0)], BOTH)
    assert found == (MLC_LLM, "cuda:0")


@pytest.mark.parametrize(
    ("worker", "source", "devices", "expected"),
    [
        (spec(), GGUF, [CPU], "llama-cpp cpu"),
        (spec(), GGUF, [CPU, gpu(1), gpu(0)], "llama-cpp cuda:0"),
        (spec(), GGUF, [gpu(0, "metal"), CPU], "llama-cpp cpu"),
        (spec(device="cuda:1"), GGUF, [CPU, gpu(0), gpu(1)], "llama-cpp cuda:1"),
        (spec(), MLC, [CPU, gpu(0)], "mlc-llm cuda:0"),
        (spec(engine="llama-cpp", device="cpu"), GGUF, [CPU], "llama-cpp cpu"),
    ],
)
def test_what_is_chosen(worker: WorkerSpec, source: str, devices: list[Device], expected: str) -> None:
    found = choose_engine(worker, of(source), devices, BOTH)
    assert not isinstance(found, str), found
    assert f"{found[0].name} {found[1]}" == expected


@pytest.mark.parametrize(
    ("worker", "source", "devices", "why"),
    [
        (spec(engine="llama-cpp"), MLC, [CPU], f"{MLC} is a mlc model, which engine 'llama-cpp' cannot read"),
        (spec(device="cuda:1"), GGUF, [gpu(0), CPU], "there is no device 'cuda:1'; it has cpu, cuda:0"),
        (spec(device="cpu"), GGUF, [], "there is no device 'cpu'; it has none"),
        (spec(device="cpu"), MLC, [CPU], "no engine runs a mlc model on cpu"),
        (spec(), MLC, [CPU], "no device of it can run a mlc model (it has cpu)"),
        (spec(), GGUF, [], "no device of it can run a gguf model (it has none)"),
    ],
)
def test_why_there_is_none(worker: WorkerSpec, source: str, devices: list[Device], why: str) -> None:
    assert choose_engine(worker, of(source), devices, BOTH) == why


def test_without_providers_nothing_can_be_read() -> None:
    assert choose_engine(spec(), of(GGUF), [CPU], []) == f"{GGUF} is a gguf model, which any engine cannot read"


# ------------------------------------------------------------ hives


def hive(name: str, **labels: str) -> HiveSpec:
    return HiveSpec(name=name, ssh=Ssh(host=name), labels=labels)


FLEET = {"a": hive("a", power="loud"), "b": hive("b", power="quiet"), "c": hive("c", power="quiet", region="eu")}
QUIET = spec(where=Where(labels={"power": "quiet"}))


def test_a_named_hive_gets_all_even_where_none_is_usable() -> None:
    assert place(["chat-0", "chat-1"], spec(hive="a"), {}, {"chat-0": "b"}, {}) == {"chat-0": "a", "chat-1": "a"}


def test_labels_are_respected_and_replicas_spread() -> None:
    found = place([f"chat-{i}" for i in range(4)], QUIET, FLEET, {}, {})
    assert found == {"chat-0": "b", "chat-1": "c", "chat-2": "b", "chat-3": "c"}


def test_all_labels_must_fit() -> None:
    both = spec(where=Where(labels={"power": "quiet", "region": "eu"}))
    assert place(["chat-0"], both, FLEET, {}, {}) == {"chat-0": "c"}
    assert place(["chat-0"], spec(where=Where(labels={"power": "off"})), FLEET, {}, {}) == {}


def test_the_emptiest_hive_is_taken() -> None:
    assert place(["chat-0"], QUIET, FLEET, {}, {"b": 2.0, "c": 1.0}) == {"chat-0": "c"}


def test_what_runs_stays_and_counts() -> None:
    running = {"chat-1": "b", "chat-2": "a"}  # a does not fit any more
    assert place(["chat-0", "chat-1", "chat-2"], QUIET, FLEET, running, {}) == {
        "chat-1": "b",
        "chat-0": "c",
        "chat-2": "b",
    }


names = st.sampled_from(["a", "b", "c", "gone"])
ids = st.lists(st.sampled_from([f"chat-{i}" for i in range(6)]), unique=True, min_size=1)
wheres = st.builds(
    Where, labels=st.dictionaries(st.sampled_from(["power", "region"]), st.sampled_from(["quiet", "eu"]))
)
loads = st.dictionaries(names, st.floats(0, 10))


@given(ids, wheres, st.dictionaries(st.sampled_from([f"chat-{i}" for i in range(6)]), names), loads)
def test_placing_is_steady_complete_and_fits(
    replicas: list[str], where: Where, running: dict[str, str], load: dict[str, float]
) -> None:
    worker = spec(where=where)
    found = place(replicas, worker, FLEET, running, load)
    fitting = {n for n, h in FLEET.items() if where.labels.items() <= h.labels.items()}
    assert set(found.values()) <= fitting
    assert set(found) == (set(replicas) if fitting else set())
    assert all(found[r] == running[r] for r in replicas if running.get(r) in fitting)
    assert place(replicas, worker, FLEET, {**running, **found}, load) == found


@given(ids, st.just(Where()))
def test_equal_hives_get_equal_shares(replicas: list[str], where: Where) -> None:
    found = place(replicas, spec(where=where), FLEET, {}, {})
    shares = [sum(1 for h in found.values() if h == n) for n in FLEET]
    assert max(shares) - min(shares) <= 1
