# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets for tests: hypothesis strategies of Desired and Actual, makers of small values, and an example plan."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rbee.core.actual import Actual, HiveActual, HiveLive, KnownTo, QueenActual, Unknown
from rbee.core.desired import Desired, EngineWanted, HiveWanted, ModelWanted, QueenWanted, WorkerWanted
from rbee.core.plan import Plan, make_plan
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider, Install
from rbee.core.records import Device, Mark, ModelRecord, WorkerBinary, WorkerRecord
from rbee.core.spec import WorkerOptions

#: A busy machine is no failure: nothing here is judged by how long it takes.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

FLEET = "home"
OURS = Mark(fleet=FLEET)
ENGINE, MODEL = "llama-cpp-1-linux-x86_64", "tiny"
CPU = Device(id="cpu", device_id=0, device_type="cpu", name="CPU")


# ------------------------------------------------------------ small values, complete but for what a test says


def model(name: str = MODEL, **kw: Any) -> ModelRecord:
    said = {
        "name": name, "path": f"/models/{name}.gguf", "size_bytes": 10, "status": "available",
        "source": f"hf:org/{name}.gguf", "checksum": "c" * 64, "mark": OURS,
    }  # fmt: skip
    return ModelRecord(id=name, **{**said, **kw})


def worker(worker_id: str = "chat-0", *, digest: str = "d0", fleet: str | None = FLEET, **kw: Any) -> WorkerRecord:
    said = {
        "model": MODEL, "engine": "llama-cpp", "worker_type": "cpu", "device": "cpu", "port": 9300, "url": "",
        "pid": 100, "status": "ready", "mark": Mark(fleet=fleet, spec_digest=digest) if fleet else None,
    }  # fmt: skip
    return WorkerRecord(worker_id=worker_id, **{**said, **kw})


def binary(binary_id: str = ENGINE, **kw: Any) -> WorkerBinary:
    said = {"engine": "llama-cpp", "version": "1", "worker_type": "cpu", "platform": "linux-x86_64", "path": "/e"}
    return WorkerBinary(id=binary_id, **{**said, "mark": OURS, **kw})


def provider(name: str = "llama-cpp", **kw: Any) -> EngineProvider:
    said = {
        "kind": "engine", "version": "1", "summary": "", "worker_types": ("cpu",), "formats": ("gguf",),
        "module": name, "distribution": name, "command": (),
        "install": (Install(platform="linux-x86_64", requirements=()),),
    }  # fmt: skip
    return EngineProvider(name=name, **{**said, **kw})


def wanted_model(name: str = MODEL, **kw: Any) -> ModelWanted:
    return ModelWanted(name=name, **{"source": f"hf:org/{name}.gguf", **kw})


def wanted_worker(worker_id: str = "chat-0", *, digest: str = "d0", **kw: Any) -> WorkerWanted:
    said = {
        "spec_name": worker_id.rpartition("-")[0], "model": MODEL, "engine": "llama-cpp", "binary_id": ENGINE,
        "device": "cpu", "options": WorkerOptions(),
    }  # fmt: skip
    return WorkerWanted(worker_id=worker_id, digest=digest, **{**said, **kw})


def hive_wanted(name: str = "box", **kw: Any) -> HiveWanted:
    said = {
        "local": False, "release": "r1", "config_digest": "c1", "token_digest": "t1",
        "engines": (EngineWanted(binary_id=ENGINE, engine="llama-cpp"),),
        "models": (wanted_model(),), "workers": (wanted_worker(),),
    }  # fmt: skip
    return HiveWanted(name=name, **{**said, **kw})


def hive_actual(**kw: Any) -> HiveActual:
    """A hive that is as `hive_wanted` asks."""
    said = {
        "address": "10.0.0.1", "platform": "linux-x86_64",
        "live": HiveLive(fleet=FLEET, release="r1", config_digest="c1", url="http://10.0.0.1:7835"),
        "releases": ("r1",), "release_fleets": {"r1": FLEET}, "token_digest": "t1", "devices": (CPU,),
        "models": (model(),), "workers": (worker(),), "binaries": (binary(),),
    }  # fmt: skip
    return HiveActual(**{**said, **kw})


def bare(**kw: Any) -> HiveActual:
    """A machine on which there is nothing of rbee."""
    return HiveActual(**{"address": "10.0.0.1", "platform": "linux-x86_64", "devices": (CPU,), **kw})


def queen_wanted(*hives: str, **kw: Any) -> QueenWanted:
    said = {"release": "r1", "config_digest": "q1", "boot_digest": "b1", "token_digest": "t1"}
    return QueenWanted(hives=hives, **{**said, **kw})


def queen_actual(*hives: str, **kw: Any) -> QueenActual:
    said = {"running": True, "fleet": FLEET, "release": "r1", "config_digest": "q1", "boot_digest": "b1"}
    known = tuple(KnownTo(hive_id=h, url="", online=True) for h in hives)
    return QueenActual(**{**said, "token_digest": "t1", "hives": known, **kw})


def desired(*hives: HiveWanted, **kw: Any) -> Desired:
    said = {"fleet": FLEET, "queen": queen_wanted(*(h.name for h in hives))}
    return Desired(hives={h.name: h for h in hives}, **{**said, **kw})


def example_plan() -> Plan:
    """A plan with all four signs, on two machines, and one machine that is unknown."""
    box = hive_wanted(workers=(wanted_worker(), wanted_worker("code-0")))
    there = hive_wanted("attic", config_digest="c2", workers=(wanted_worker("talk-0", digest="d9"),))
    wanted = desired(box, there, hive_wanted("cellar", workers=()), queen=queen_wanted("attic", "box", "cellar"))
    seen = Actual(
        queen=queen_actual("attic", config_digest="q0"),
        hives={
            "box": bare(),
            "attic": hive_actual(
                address="10.0.0.2", workers=(worker("talk-0"), worker("old-0", pid=101)), models=(model(), model("old"))
            ),
            "cellar": Unknown(why="ssh: connect to 10.0.0.3 port 22: No route to host", mend="Is it on?"),
        },
    )
    return make_plan(wanted, seen, None)


# ------------------------------------------------------------ strategies

HIVES = ("attic", "box", "here")
LOCAL = "here"
MODELS = ("m1", "m2", "m3")
ENGINES = ("e-1", "e-2")
WORKERS = ("w-0", "w-1", "w-2", "w-3")
marks = st.sampled_from([None, OURS, OURS, Mark(fleet="other")])
digests = st.sampled_from(["one", "two"])
idle = st.sampled_from([None, 0.0, 300.0])


@st.composite
def hives_wanted(draw: st.DrawFn, name: str, ids: list[str], held: list[str]) -> HiveWanted:
    workers = tuple(
        wanted_worker(
            i,
            digest=f"{draw(digests)} {m} {e}",
            model=m,
            binary_id=e,
            engine=e,
            idle_timeout=draw(idle),
            on_demand=draw(st.booleans()),
        )
        for i in ids
        for m, e in [(draw(st.sampled_from(MODELS)), draw(st.sampled_from(ENGINES)))]
    )
    return hive_wanted(
        name,
        local=name == LOCAL,
        release=draw(digests),
        config_digest=draw(digests),
        token_digest=draw(digests),
        engines=tuple(EngineWanted(binary_id=e, engine=e) for e in sorted({w.engine for w in workers})),
        models=tuple(
            wanted_model(
                m,
                sha256=draw(st.sampled_from([None, "c" * 64, "f" * 64])),
                push_from=draw(st.sampled_from([None, f"/here/{m}"])),
            )
            for m in sorted({w.model for w in workers})
        ),
        workers=workers,
        held=tuple(held),
    )


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    keep = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        return Desired(fleet=FLEET, queen=None, keep_models=keep)
    names = draw(st.lists(st.sampled_from(HIVES), unique=True))
    share = {w: (draw(st.sampled_from([*names, ""])), draw(st.integers(0, 3)) == 0) for w in WORKERS}
    hives = {
        n: draw(
            hives_wanted(
                n,
                [w for w, (h, held) in share.items() if h == n and not held],
                [w for w, (h, held) in share.items() if h == n and held],
            )
        )
        for n in names
    }
    return desired(*hives.values())


@st.composite
def hives_actual(draw: st.DrawFn, name: str) -> HiveActual | Unknown:
    if draw(st.integers(0, 5)) == 0:
        return Unknown(why="No route to host.")
    live = st.builds(HiveLive, fleet=st.sampled_from([FLEET] * 4 + ["other"]), release=digests, config_digest=digests)
    statuses = st.sampled_from(["starting", "ready", "busy", "stopping", "dead", "failed", "unloaded"])
    fleets = draw(st.dictionaries(digests, st.sampled_from([FLEET, "other", ""])))
    return HiveActual(
        address="" if name == LOCAL else f"10.0.0.{HIVES.index(name)}",
        platform=draw(st.sampled_from(["linux-x86_64"] * 4 + [""])),
        live=draw(st.none() | live),
        releases=tuple(fleets),
        release_fleets={r: f for r, f in fleets.items() if f},
        token_digest=draw(st.none() | digests),
        models=tuple(
            model(
                m,
                status=draw(st.sampled_from(["available", "available", "downloading", "failed"])),
                source=draw(st.sampled_from([f"hf:org/{m}.gguf"] * 2 + ["hf:else/where"])),
                mark=draw(marks),
            )
            for m in draw(st.lists(st.sampled_from(MODELS), unique=True))
        ),
        workers=tuple(
            worker(
                w,
                status=draw(statuses),
                next=draw(st.sampled_from([None, "unloaded", "starting"])),
                digest=f"{draw(digests)} {m} {e}",  # a digest is of these too
                fleet=draw(st.sampled_from([None, FLEET, FLEET, "other"])),
                model=m,
                engine=e,
                idle_timeout=draw(idle),
            )
            for w in draw(st.lists(st.sampled_from(WORKERS), unique=True))
            for m, e in [(draw(st.sampled_from(MODELS)), draw(st.sampled_from(ENGINES)))]
        ),
        binaries=tuple(
            binary(e, engine=e, status=draw(st.sampled_from(["available", "failed"])), mark=draw(marks))
            for e in draw(st.lists(st.sampled_from(ENGINES), unique=True))
        ),
        memory_available=draw(st.integers(0, 2**33)),
        problems=(Problem(summary=f"{name} is full", subject=f"hives.{name}"),) if draw(st.integers(0, 5)) == 0 else (),
    )


@st.composite
def queens(draw: st.DrawFn) -> QueenActual | Unknown:
    if draw(st.integers(0, 5)) == 0:
        return Unknown(why="She does not answer.")
    known = draw(st.lists(st.sampled_from(HIVES), unique=True))
    return QueenActual(
        running=draw(st.booleans()),
        fleet=FLEET,
        release=draw(st.sampled_from(["r1", "r0"])),
        config_digest=draw(st.sampled_from(["q1", "q0"])),
        boot_digest=draw(st.sampled_from(["b1", "b0"])),
        token_digest=draw(st.sampled_from([None, "t1", "t0"])),
        hives=tuple(KnownTo(hive_id=h, url="", online=draw(st.booleans())) for h in known),
    )


@st.composite
def actuals(draw: st.DrawFn) -> Actual:
    names = draw(st.lists(st.sampled_from(HIVES), unique=True))
    return Actual(queen=draw(queens()), hives={n: draw(hives_actual(n)) for n in names})
