# SPDX-License-Identifier: GPL-3.0-or-later
"""From the file and the machines to what is wanted on each: engines, devices, models, places, and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rbee.contracts.configs import KnownWorker, QueenConfig, boot_digest, config_digest
from rbee.core.actual import Actual, HiveActual, QueenActual, Unknown
from rbee.core.desired import Desired, EngineWanted, ModelWanted, Pin
from rbee.core.placement import worker_ids
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider, Install, Needs
from rbee.core.records import Device, Mark
from rbee.core.spec import HiveSpec, ModelSpec, Replicas, Spec, Ssh, Where, WorkerOptions, WorkerSpec
from rbee.fleet.desired import Inputs, make_desired
from rbee.fleet.settings import hive_config
from tests.unit.strategies import CPU, ENGINE, bare, binary, hive_actual, provider, worker

GPU = Device(id="cuda:0", device_id=0, device_type="cuda", name="H200")
HERE = HiveSpec(name="here")
BOX = HiveSpec(name="box", ssh=Ssh(host="box"), labels={"power": "loud"})
ATTIC = HiveSpec(name="attic", ssh=Ssh(host="attic"), labels={"power": "quiet"})
QUEEN = QueenConfig(fleet="home")
PIN = Pin(source="hf:org/tiny.gguf", sha256="a" * 64, revision="v1", commit="c0ffee")
LOUD = Where(labels={"power": "loud"})
ANY = Where()


def spec(*hives: HiveSpec, source: str = "hf:org/tiny.gguf", workers: Sequence[WorkerSpec] = ()) -> Spec:
    return Spec(
        version=1,
        fleet="home",
        hives={h.name: h for h in hives},
        models={"tiny": ModelSpec(name="tiny", source=source, revision="v1")},
        workers={w.name: w for w in workers},
    )


def chat(replicas: int | Replicas = 1, **kw: Any) -> WorkerSpec:
    many = Replicas(min=replicas, max=replicas) if isinstance(replicas, int) else replicas
    return WorkerSpec(**{"name": "chat", "model": "tiny", "replicas": many, **kw})


def want(
    of: Spec,
    seen: Mapping[str, HiveActual | Unknown],
    providers: Sequence[EngineProvider] = (provider(),),
    predicted: int | None = None,
    **kw: Any,
) -> Desired:
    return want_with_queen(of, seen, providers, predicted, **kw)[0]


def want_with_queen(
    of: Spec,
    seen: Mapping[str, HiveActual | Unknown],
    providers: Sequence[EngineProvider] = (provider(),),
    predicted: int | None = None,
    **kw: Any,
) -> tuple[Desired, QueenConfig]:
    configs = {
        n: hive_config(of, of.hives[n], a, token_file="/t", release="r1")
        for n, a in seen.items()
        if isinstance(a, HiveActual) and n in of.hives
    }
    return make_desired(
        Inputs(
            spec=of,
            providers=providers,
            actual=Actual(queen=QueenActual(running=False), hives=dict(seen)),
            release="r1",
            token_digest="t1",
            queen_config=QUEEN,
            hive_configs=configs,
            predict=lambda model, worker: predicted,
            **kw,
        )
    )


def places(found: Desired) -> dict[str, str]:
    return {w.worker_id: name for name, hive in found.hives.items() for w in hive.workers}


def summaries(found: Desired) -> list[str]:
    return [p.summary for p in found.problems]


def test_replicas_are_numbered() -> None:
    assert worker_ids(chat(replicas=2)) == ("chat-0", "chat-1")
    assert worker_ids(chat(replicas=0)) == ()


def test_all_of_a_hive_is_worked_out() -> None:
    of = spec(BOX, workers=[chat(hive="box", options=WorkerOptions(parallel=2))])
    found, queen = want_with_queen(of, {"box": bare()}, pinned={"tiny": PIN})
    assert found.problems == ()
    hive = found.hives["box"]
    assert (hive.local, hive.release, hive.token_digest, hive.held) == (False, "r1", "t1", ())
    assert len(hive.config_digest) == 16
    assert hive.engines == (EngineWanted(binary_id=ENGINE, engine="llama-cpp"),)
    assert hive.models == (
        ModelWanted(name="tiny", source="hf:org/tiny.gguf", revision="v1", commit="c0ffee", sha256="a" * 64),
    )
    (made,) = hive.workers
    assert (made.worker_id, made.spec_name, made.device, made.binary_id) == ("chat-0", "chat", "cpu", ENGINE)
    assert made.options.parallel == 2
    assert found.queen is not None
    assert found.queen.hives == ("box",)
    assert (found.queen.config_digest, found.queen.boot_digest) == (config_digest(queen), boot_digest(QUEEN))
    known = KnownWorker(
        worker_id="chat-0", spec_name="chat", model="tiny", hive_id="box", worker_type="cpu", engine="llama-cpp",
        options=WorkerOptions(parallel=2), mark=Mark(fleet="home", spec_digest=made.digest),
    )  # fmt: skip
    assert queen == replace(QUEEN, workers=(known,))


def test_a_digest_of_the_file_beats_the_lock() -> None:
    of = spec(BOX, workers=[chat(hive="box")])
    of.models["tiny"] = ModelSpec(name="tiny", source="hf:org/tiny.gguf", sha256="b" * 64)
    (model,) = want(of, {"box": bare()}, pinned={"tiny": PIN}).hives["box"].models
    assert (model.sha256, model.commit) == ("b" * 64, None)
    of.models["tiny"] = replace(of.models["tiny"], sha256=PIN.sha256)
    (model,) = want(of, {"box": bare()}, pinned={"tiny": PIN}).hives["box"].models
    assert (model.sha256, model.commit) == (PIN.sha256, PIN.commit)  # the same bytes: where they are is known


def test_a_changed_local_file_is_another_model_and_another_worker() -> None:
    def made(files: dict[str, str], **kw: Any) -> tuple[str | None, str]:
        of = spec(BOX, source="file:/m/t.gguf", workers=[chat(hive="box")])
        of.models["tiny"] = replace(of.models["tiny"], **kw)
        hive = want(of, {"box": bare()}, files=files, pinned={"tiny": replace(PIN, sha256="f" * 64)}).hives["box"]
        return hive.models[0].sha256, hive.workers[0].digest

    first, second = made({"tiny": "a" * 64}), made({"tiny": "b" * 64})
    assert (first[0], second[0]) == ("a" * 64, "b" * 64)
    assert first[1] != second[1]
    assert made({"tiny": "a" * 64}, sha256="e" * 64)[0] == "e" * 64  # what the file says goes first
    assert made({}) == ("f" * 64, made({"other": "a" * 64})[1])  # a pin is no reason for a new process


@pytest.mark.parametrize(
    ("hive", "source", "push"),
    [
        (BOX, "file:/m/t.gguf", "/m/t.gguf"),
        (HERE, "file:/m/t.gguf", None),
        (BOX, "hf:org/t.gguf", None),
        (BOX, "builtin:bee-tiny", None),
    ],
)
def test_only_files_for_other_machines_are_pushed(hive: HiveSpec, source: str, push: str | None) -> None:
    found = want(spec(hive, source=source, workers=[chat(hive=hive.name)]), {hive.name: bare()})
    assert found.hives[hive.name].models[0].push_from == push


def digest_of(seen: HiveActual | None = None, **kw: Any) -> str:
    of = spec(BOX, source=kw.pop("source", "hf:org/tiny.gguf"), workers=[chat(hive="box", **kw)])
    return want(of, {"box": seen or bare()}, [provider(worker_types=("cuda", "cpu"))]).hives["box"].workers[0].digest


def test_a_workers_digest_is_of_what_asks_for_a_new_process() -> None:
    same = {digest_of(), digest_of(replicas=1), digest_of(idle_timeout=5.0), digest_of(device="cpu")}
    assert len(same) == 1
    differing = [
        digest_of(source="hf:org/other.gguf"),
        digest_of(options=WorkerOptions(parallel=2)),
        digest_of(options=WorkerOptions(memory_limit_mb=900)),
        digest_of(bare(devices=(CPU, GPU))),
        digest_of(bare(platform="linux-arm64", binaries=(binary("llama-cpp-1-linux-arm64"),))),
    ]
    assert len({*differing, *same}) == 6


@pytest.mark.parametrize(("devices", "device"), [((CPU,), "cpu"), ((CPU, GPU), "cuda:0")])
def test_auto_takes_the_best_device_there(devices: tuple[Device, ...], device: str) -> None:
    found = want(
        spec(BOX, workers=[chat(hive="box")]),
        {"box": bare(devices=devices)},
        [provider(worker_types=("cuda", "cpu"))],
    )
    assert found.hives["box"].workers[0].device == device


# ------------------------------------------------------------ what cannot be


def test_a_device_that_the_hive_does_not_have() -> None:
    found = want(spec(BOX, workers=[chat(hive="box", device="cuda:7")]), {"box": bare()})
    (problem,) = found.problems
    assert problem.summary == "Worker 'chat-0' cannot run on hive 'box'"
    assert problem.detail == "There is no device 'cuda:7'; it has cpu."
    assert problem.subject == "workers.chat-0"
    assert places(found) == {}
    assert found.hives["box"].models == ()


def test_an_engine_that_cannot_be_installed_there() -> None:
    found = want(spec(BOX, workers=[chat(hive="box")]), {"box": bare(platform="macos-arm64")})
    assert summaries(found) == ["Engine 'llama-cpp' cannot be installed on hive 'box'"]
    assert found.problems[0].detail == "The machine is macos-arm64; the provider knows linux-x86_64."
    nowhere = want(spec(BOX, workers=[chat(hive="box")]), {"box": bare()}, [provider(install=())])
    assert nowhere.problems[0].detail == "The machine is linux-x86_64; the provider knows none."


def test_an_engine_that_is_there_need_not_be_installable() -> None:
    of = spec(BOX, workers=[chat(hive="box")])
    installed = bare(platform="macos-arm64", binaries=(binary("llama-cpp-1-macos-arm64"),))
    assert want(of, {"box": installed}).problems == ()
    other_version = bare(platform="macos-arm64", binaries=(binary("llama-cpp-0-macos-arm64"),))
    broken = bare(platform="macos-arm64", binaries=(binary("llama-cpp-1-macos-arm64", status="failed"),))
    assert len(want(of, {"box": other_version}).problems) == len(want(of, {"box": broken}).problems) == 1


NEEDY = provider(
    needs=Needs(cpu_flags={"x86_64": ("avx2", "f16c")}, libraries=("libgomp.so.1",), hints={"libgomp.so.1": "apt it"})
)


def test_flags_and_libraries_that_the_machine_lacks_are_told_together() -> None:
    of = spec(BOX, workers=[chat(hive="box")])
    found = want(of, {"box": bare(cpu_flags=("sse", "f16c"), missing_libraries=("libgomp.so.1", "libx"))}, [NEEDY])
    assert summaries(found) == ["The CPU of hive 'box' lacks avx2", "Hive 'box' lacks the library libgomp.so.1"]
    assert [p.mend for p in found.problems] == ["Run this worker on another machine.", "apt it"]
    assert places(found) == {}


@pytest.mark.parametrize(
    "seen",
    [
        bare(cpu_flags=("avx2", "f16c")),
        bare(cpu_flags=()),  # not known: that is not lacking
        bare(cpu_flags=("neon",), platform="linux-arm64"),  # nothing is said of that architecture
    ],
)
def test_what_is_not_lacking(seen: HiveActual) -> None:
    needy = provider(needs=NEEDY.needs, install=tuple(Install(platform=f"linux-{a}", requirements=()) for a in ARCHS))
    assert want(spec(BOX, workers=[chat(hive="box")]), {"box": seen}, [needy]).problems == ()


ARCHS = ("x86_64", "arm64")


@pytest.mark.parametrize(
    ("free", "predicted", "problem"),
    [(3 * 2**20, 2 * 2**20, True), (4 * 2**20, 2 * 2**20, False), (0, 2**40, False), (1, None, False)],
)
def test_memory_that_all_new_cpu_workers_want_together(free: int, predicted: int | None, problem: bool) -> None:
    of = spec(BOX, workers=[chat(hive="box", replicas=2)])
    found = want(of, {"box": bare(memory_available=free, memory_total=8 * 2**20)}, predicted=predicted)
    assert (summaries(found) == ["Not enough memory on hive 'box'"]) is problem
    if problem:
        assert found.problems[0].detail == "Its new CPU workers will take about 4 MB; 3 MB of 8 MB are free."


def test_on_a_hive_with_too_little_memory_nothing_new_is_begun_and_what_runs_stays() -> None:
    of = spec(BOX, workers=[chat(hive="box", replicas=3)])
    seen = bare(memory_available=2**20, workers=(worker("chat-1"), worker("chat-2", status="starting")))
    found = want(of, {"box": seen}, predicted=2**20)
    assert summaries(found) == ["Not enough memory on hive 'box'"]
    assert places(found) == {"chat-1": "box"}
    assert held(found) == {"box": ("chat-2",)}  # it is not stopped as one that nobody wants


def test_a_worker_stays_where_it_runs_while_there_is_no_memory_where_it_should_go() -> None:
    of = spec(BOX, ATTIC, workers=[chat(hive="attic")])
    found = want(of, {"box": hive_actual(), "attic": bare(memory_available=1)}, predicted=2**20)
    assert (places(found), held(found)) == ({}, {"box": ("chat-0",)})


def cpu(cores: int | None) -> Device:
    return replace(CPU, cores=cores)


@pytest.mark.parametrize(
    ("cores", "options", "problem"),
    [(2, {}, False), (1, {}, True), (4, {"threads": 2}, False), (3, {"threads": 2}, True), (None, {}, False)],
)
def test_threads_that_all_cpu_workers_take_together(cores: int | None, options: Any, problem: bool) -> None:
    of = spec(BOX, workers=[chat(hive="box", replicas=2, options=WorkerOptions(**options))])
    found = want(of, {"box": bare(devices=(cpu(cores),), workers=(worker("chat-1"),))})
    assert (summaries(found) == ["Not enough CPU cores on hive 'box'"]) is problem
    assert places(found) == {"chat-1": "box"} if problem else {"chat-0": "box", "chat-1": "box"}


def test_what_runs_keeps_running_where_there_are_too_few_cores() -> None:
    of = spec(BOX, workers=[chat(hive="box", replicas=2)])
    seen = bare(devices=(cpu(1),), workers=(worker("chat-0"), worker("chat-1", status="starting")))
    found = want(of, {"box": seen})
    assert (places(found), held(found)) == ({"chat-0": "box"}, {"box": ("chat-1",)})


@pytest.mark.parametrize(
    ("status", "problem"), [("ready", False), ("busy", False), ("unloaded", False), ("starting", True), ("dead", True)]
)
def test_what_runs_has_its_memory_already(status: Any, problem: bool) -> None:
    seen = bare(memory_available=2**20, workers=(worker(status=status),))
    found = want(spec(BOX, workers=[chat(hive="box")]), {"box": seen}, predicted=2**21)
    assert bool(found.problems) is problem


def test_a_gpu_worker_takes_no_memory_of_the_machine() -> None:
    of, seen = spec(BOX, workers=[chat(hive="box")]), bare(devices=(CPU, GPU), memory_available=1)
    assert want(of, {"box": seen}, [provider(worker_types=("cuda",))], predicted=2**40).problems == ()


# ------------------------------------------------------------ where


def test_labels_decide() -> None:
    of = spec(BOX, ATTIC, workers=[chat(where=LOUD, replicas=2)])
    assert places(want(of, {"box": bare(), "attic": bare()})) == {"chat-0": "box", "chat-1": "box"}


def test_workers_of_several_names_spread_together() -> None:
    of = spec(BOX, ATTIC, workers=[chat(where=ANY), chat(name="code", where=ANY)])
    assert set(places(want(of, {"box": bare(), "attic": bare()})).values()) == {"box", "attic"}


def test_where_no_hive_fits_it_is_told_once() -> None:
    of = spec(ATTIC, workers=[chat(where=LOUD, replicas=3)])
    found = want(of, {"attic": bare()})
    (problem,) = found.problems
    assert problem.summary == "No usable hive fits worker 'chat'"
    assert problem.detail == "It asks for labels power=loud; hives of this file: attic."
    assert problem.subject == "workers.chat"


def test_where_no_hive_is_there_at_all() -> None:
    for anyhow in (chat(where=ANY), chat()):
        (problem,) = want(spec(workers=[anyhow]), {}).problems
        assert problem.detail == "It asks for labels (none asked); hives of this file: none."
    assert want(spec(workers=[chat(where=ANY, replicas=0)]), {}).problems == ()


def test_new_replicas_go_past_machines_that_cannot_be_used() -> None:
    of = spec(BOX, ATTIC, HERE, workers=[chat(where=ANY, replicas=2)])
    full = bare(problems=(Problem(summary="full"),))
    seen: dict[str, HiveActual | Unknown] = {"box": Unknown(why=""), "attic": full, "here": bare()}
    assert places(want(of, seen)) == {"chat-0": "here", "chat-1": "here"}


def test_new_replicas_go_to_machines_that_have_the_device() -> None:
    of = spec(ATTIC, BOX, workers=[chat(where=ANY, device="cuda:0")])
    cuda = [provider(worker_types=("cuda", "cpu"))]
    found = want(of, {"attic": bare(), "box": bare(devices=(CPU, GPU))}, cuda)
    assert places(found) == {"chat-0": "box"}
    assert found.problems == ()
    assert summaries(want(of, {"attic": bare(), "box": bare()}, cuda)) == ["Worker 'chat-0' cannot run on hive 'attic'"]


def test_new_replicas_go_to_machines_that_lack_nothing() -> None:
    of = spec(ATTIC, BOX, workers=[chat(where=ANY)])
    found = want(of, {"attic": bare(missing_libraries=("libgomp.so.1",)), "box": bare()}, [NEEDY])
    assert places(found) == {"chat-0": "box"}


def test_replicas_stay_where_they_run() -> None:
    of = spec(ATTIC, BOX, workers=[chat(where=ANY, replicas=2)])
    seen = {"attic": bare(), "box": hive_actual(workers=(worker("chat-0"), worker("chat-1")))}
    assert places(want(of, seen)) == {"chat-0": "box", "chat-1": "box"}


def test_another_fleets_worker_of_that_name_decides_nothing() -> None:
    of = spec(ATTIC, BOX, workers=[chat(where=ANY)])
    seen = {"attic": bare(), "box": hive_actual(workers=(worker("chat-0", fleet="other"),))}
    assert places(want(of, seen)) == {"chat-0": "attic"}


def test_a_replica_on_a_machine_that_has_a_problem_now_is_not_started_elsewhere() -> None:
    of = spec(ATTIC, BOX, workers=[chat(where=ANY)])
    seen = {"attic": bare(), "box": hive_actual(problems=(Problem(summary="full"),))}
    found = want(of, seen)
    assert places(found) == {}
    assert found.problems == ()  # the hive's own problem is told by the diff


# ------------------------------------------------------------ held


def held(found: Desired) -> dict[str, tuple[str, ...]]:
    return {n: h.held for n, h in found.hives.items() if h.held}


def test_what_runs_is_held_while_what_is_wanted_cannot_be_had() -> None:
    of = spec(BOX, workers=[chat(hive="box", device="cuda:7")])
    assert held(want(of, {"box": hive_actual()})) == {"box": ("chat-0",)}
    assert held(want(of, {"box": bare()})) == {}


def test_what_runs_is_held_while_its_new_machine_is_unknown() -> None:
    of = spec(BOX, ATTIC, workers=[chat(hive="attic")])
    assert held(want(of, {"box": hive_actual(), "attic": Unknown(why="down")})) == {"box": ("chat-0",)}
    assert held(want(of, {"box": hive_actual(), "attic": bare()})) == {}


def test_what_runs_is_held_while_no_hive_fits() -> None:
    of = spec(BOX, workers=[chat(where=Where(labels={"power": "none"}))])
    assert held(want(of, {"box": hive_actual()})) == {"box": ("chat-0",)}


def test_a_replica_that_is_not_asked_for_any_more_is_not_held() -> None:
    of = spec(BOX, workers=[chat(hive="box", device="cuda:7", replicas=0)])
    assert held(want(of, {"box": hive_actual()})) == {}


def test_a_hive_that_was_not_seen_has_no_settings_yet() -> None:
    assert want(spec(BOX), {"box": Unknown(why="")}).hives["box"].config_digest == ""


def test_what_only_too_big_workers_would_need_is_not_brought() -> None:
    """A model of many GB is not fetched for workers that cannot begin; what is there already is not removed."""
    of = spec(BOX, workers=[chat(hive="box")])
    empty = want(of, {"box": bare(memory_available=1)}, predicted=2**20).hives["box"]
    assert (empty.models, empty.engines) == ((), ())
    there = replace(hive_actual(), memory_available=1, workers=())
    found = want(of, {"box": there}, predicted=2**20).hives["box"]
    assert {m.name for m in found.models} <= {m.id for m in there.models}
    assert {e.binary_id for e in found.engines} == {b.id for b in there.binaries}


# ------------------------------------------------------------ on demand


def on_demand(found: Desired) -> dict[str, bool]:
    return {w.worker_id: w.on_demand for hive in found.hives.values() for w in hive.workers}


def test_replicas_beyond_the_least_are_on_demand_and_have_all_that_they_need_brought() -> None:
    of = spec(BOX, workers=[chat(Replicas(min=1, max=3), hive="box")])
    found, queen = want_with_queen(of, {"box": bare()})
    assert on_demand(found) == {"chat-0": False, "chat-1": True, "chat-2": True}
    assert [(w.worker_id, w.on_demand) for w in queen.workers] == [
        ("chat-0", False),
        ("chat-1", True),
        ("chat-2", True),
    ]
    none, queen = want_with_queen(spec(BOX, workers=[chat(Replicas(min=0, max=1), hive="box")]), {"box": bare()})
    assert (on_demand(none), len(queen.workers)) == ({"chat-0": True}, 1)
    assert (len(none.hives["box"].engines), len(none.hives["box"].models)) == (1, 1)


def test_what_is_on_demand_takes_no_memory_and_no_cores_of_the_plan() -> None:
    of = spec(BOX, workers=[chat(Replicas(min=1, max=9), hive="box")])
    seen = bare(memory_available=2**20, devices=(cpu(1),))
    found = want(of, {"box": seen}, predicted=2**20)
    assert (found.problems, len(places(found))) == ((), 9)


def test_where_the_others_do_not_fit_only_those_are_on_demand_whose_files_are_there() -> None:
    of = spec(BOX, workers=[chat(Replicas(min=1, max=2), hive="box")])
    assert places(want(of, {"box": bare(memory_available=1)}, predicted=2**20)) == {}
    seen = replace(hive_actual(), memory_available=1, workers=())
    assert places(want(of, {"box": seen}, predicted=2**20)) == {"chat-1": "box"}


def test_what_is_on_demand_is_placed_after_all_that_always_runs() -> None:
    many, one = chat(Replicas(min=0, max=2), where=ANY), chat(name="code", replicas=2, where=ANY)
    found = want(spec(BOX, ATTIC, workers=[many, one]), {"box": bare(), "attic": bare()})
    assert places(found) == {"code-0": "attic", "code-1": "box", "chat-0": "attic", "chat-1": "box"}


def test_what_cannot_be_had_on_demand_is_told_once() -> None:
    of = spec(BOX, workers=[chat(Replicas(min=0, max=3), hive="box", device="cuda:7")])
    assert summaries(want(of, {"box": bare()})) == ["Worker 'chat-0' cannot run on hive 'box'"]
    of = spec(BOX, workers=[chat(Replicas(min=1, max=3), hive="box", device="cuda:7")])
    assert summaries(want(of, {"box": bare()})) == ["Worker 'chat-0' cannot run on hive 'box'"]


def test_a_worker_on_demand_stays_where_the_queen_was_told_that_it_is() -> None:
    of = spec(ATTIC, BOX, workers=[chat(Replicas(min=0, max=1), where=ANY)])
    seen = {"attic": bare(), "box": bare()}
    first, told = want_with_queen(of, seen)
    assert places(first) == {"chat-0": "attic"}
    of.workers["more"] = chat(name="more", where=ANY)
    assert places(want(of, seen, before=told))["chat-0"] == "attic"
    gone = replace(told, workers=(replace(told.workers[0], hive_id="cellar"),))
    assert places(want(of, seen, before=gone))["chat-0"] == "box"


def test_the_queen_keeps_what_she_knew_of_workers_on_a_machine_that_is_not_there_now() -> None:
    of = spec(BOX, ATTIC, workers=[chat(hive="box"), chat(name="code", hive="attic", device="cuda:0")])
    cuda = [provider(worker_types=("cuda", "cpu"))]
    seen = {"box": bare(), "attic": bare(devices=(CPU, GPU))}
    _, told = want_with_queen(of, seen, cuda)
    assert [(w.worker_id, w.hive_id, w.worker_type, w.device) for w in told.workers] == [
        ("chat-0", "box", "cpu", 0),
        ("code-0", "attic", "cuda", 0),
    ]
    down: dict[str, HiveActual | Unknown] = {**seen, "attic": Unknown(why="down")}
    assert want_with_queen(of, down, cuda, before=told)[1] == told
    assert [w.worker_id for w in want_with_queen(of, down, cuda)[1].workers] == ["chat-0"]
    del of.workers["code"]  # what the file has no more is not started again
    assert [w.worker_id for w in want_with_queen(of, down, cuda, before=told)[1].workers] == ["chat-0"]


def test_a_worker_that_is_being_unloaded_has_its_memory_for_the_plan() -> None:
    going = worker(status="stopping", next="unloaded")
    seen = bare(memory_available=2**20, workers=(going,))
    assert want(spec(BOX, workers=[chat(hive="box")]), {"box": seen}, predicted=2**21).problems == ()
