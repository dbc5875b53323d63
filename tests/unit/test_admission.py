# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hive refuses before it starts a worker, and what it says then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import gguf, shipped
from rbee.core.errors import InvalidRequest, NotFound, RbeeError
from rbee.core.providers import EngineProvider
from rbee.core.slug import slug
from rbee.core.spec import WorkerOptions
from rbee.daemons.hive.workers import admission, sizing
from rbee.daemons.hive.workers.sizing import Needs
from tests.support.tiny_bert import write_tiny_bert
from tests.unit.test_hive_parts import CPU, MODEL, SPAWN, installed, provider


@pytest.mark.parametrize("backend", [("cuda", "nvidia"), ("rocm", "amd"), ("metal", "apple")])
def test_a_device_that_is_not_there_says_why(backend: tuple[str, str]) -> None:
    asked, reasons = replace(SPAWN, worker=backend[0]), {backend[1]: "The driver does not answer."}
    with pytest.raises(NotFound, match=r"hive \(The driver does not answer\.\)\. It has: cpu") as missing:
        admission.choose_device(asked, [CPU], reasons)
    assert missing.value.code == "device_not_found"
    with pytest.raises(RbeeError, match=r"cannot be used: The driver") as broken:
        admission.choose_device(asked, [CPU], reasons, {backend[1]})
    assert broken.value.code == "device_not_usable"
    with pytest.raises(NotFound, match="no device cpu:3"):
        admission.choose_device(replace(SPAWN, device=3), [CPU])


@pytest.mark.parametrize("worker_id", ["a", "chat-0", "A.b_c-9", "x" * 100])
def test_worker_ids_that_are_fine(worker_id: str) -> None:
    admission.check_worker_id(worker_id, [worker_id, "other"])


@pytest.mark.parametrize("worker_id", ["", "../x", "a/b", ".a", "-a", "x" * 101, "käfer", "a\n", "a b", "a\x00"])
def test_worker_ids_that_are_not(worker_id: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 100 of the characters") as refused:
        admission.check_worker_id(worker_id, [])
    assert refused.value.code == "bad_worker_id"


@pytest.mark.parametrize(("one", "other"), [("Chat", "chat"), ("a.", slug("a.")), (slug("a."), "a.")])
def test_two_ids_never_share_a_folder(one: str, other: str) -> None:
    with pytest.raises(InvalidRequest, match="would share a folder"):
        admission.check_worker_id(one, ["b", other])


def test_only_the_hives_ports_may_be_asked_for() -> None:
    for port in (None, 9300, 9999):
        admission.check_port(port, (9300, 9999))
    with pytest.raises(InvalidRequest, match="9300 to 9999") as refused:
        admission.check_port(80, (9300, 9999))
    assert refused.value.code == "port_out_of_range"


def test_an_engine_that_was_named_says_what_it_is_for() -> None:
    asked, entry = replace(SPAWN, engine="llama-cpp"), installed("1")
    with pytest.raises(InvalidRequest, match="reads gguf models, and this one is mlc") as refused:
        admission.choose_engine(asked, replace(MODEL, format="mlc"), [entry], (), "x86_64")
    assert refused.value.code == "wrong_format"
    with pytest.raises(InvalidRequest, match="does not run on cuda; it runs on cpu") as refused:
        admission.choose_engine(replace(asked, worker="cuda"), MODEL, [entry], (), "x86_64")
    assert refused.value.code == "wrong_device"
    # One for that device which is not the one installed here.
    with pytest.raises(NotFound, match="No llama-cpp is installed"):
        admission.choose_engine(
            replace(asked, worker="metal"), MODEL, [installed("1", worker_types=("metal", "cpu"))], (), "arm64"
        )


ALL = ("x", "{context_length}", "{parallel}", "{batch_size}", "{threads}")


@pytest.mark.parametrize(
    ("options", "command", "said"),
    [
        (WorkerOptions(batch_size=64), ("x", "{parallel}"), "llama-cpp has no option batch_size"),
        (WorkerOptions(threads=1), ("x",), "no option threads"),
        (WorkerOptions(batch_size=257), ALL, "257 tokens cannot be: its 2 slots of 128 tokens hold 256"),
        (WorkerOptions(memory_limit_mb=99), ALL, "about 100 MB, more than its memory limit of 99 MB"),
    ],
)
def test_options_that_cannot_be(options: WorkerOptions, command: tuple[str, ...], said: str) -> None:
    needs = Needs(memory=10**8, slots=2, context_length=128)
    with pytest.raises(InvalidRequest, match=said):
        admission.check_options(replace(SPAWN, options=options), provider(command=command), needs)


def test_options_that_can_be() -> None:
    needs = Needs(memory=10**8, slots=2, context_length=128)
    for options in (WorkerOptions(), WorkerOptions(batch_size=256, threads=9, memory_limit_mb=100)):
        admission.check_options(replace(SPAWN, options=options), provider(command=ALL), needs)
    on_gpu = replace(SPAWN, worker="cuda", options=WorkerOptions(memory_limit_mb=1))
    admission.check_options(on_gpu, provider(command=ALL), needs)
    unknown = Needs(memory=1, slots=2, context_length=None)
    asked = replace(SPAWN, options=WorkerOptions(batch_size=10**6))
    admission.check_options(asked, provider(command=ALL), unknown)


def test_a_context_beyond_the_models_is_noted() -> None:
    header = gguf.read_header(shipped.builtin_model("bee-tiny"))
    trained = header.shape.context_length
    asked = replace(SPAWN, options=WorkerOptions(context_length=trained + 1))
    (note,) = sizing.notes_of(asked, sizing.needs_of(asked, MODEL, header))
    assert f"{trained:,} tokens" in note
    assert sizing.notes_of(SPAWN, sizing.needs_of(SPAWN, MODEL, header)) == ()
    assert sizing.notes_of(asked, sizing.needs_of(asked, MODEL, None)) == ()


def test_a_task_that_engine_or_model_cannot_do(tmp_path: Path) -> None:
    bert = gguf.read_header(write_tiny_bert(tmp_path / "bert.gguf"))
    ranker = gguf.read_header(write_tiny_bert(tmp_path / "rank.gguf", rank=True))
    bee = gguf.read_header(shipped.builtin_model("bee-tiny"))
    engine = provider(tasks={"embed": ("/v1/embeddings",), "rerank": ("/v1/rerank",)})

    def refused(task: Any, header: Any, engine: EngineProvider = engine) -> str:
        asked = replace(SPAWN, options=WorkerOptions(task=task))
        with pytest.raises(InvalidRequest) as found:
            admission.check_task(asked, engine, header)
        return f"{found.value.code} {found.value}"

    assert "option_not_supported" in refused("embed", bee, provider())
    assert "no classification head" in refused("rerank", bee)
    assert "no classification head" in refused("rerank", bert)
    assert "task: embed" in refused(None, bert)
    assert "task: rerank" in refused("generate", ranker)
    for task, header in ((None, bee), ("embed", bee), ("embed", bert), ("rerank", ranker), ("rerank", None)):
        admission.check_task(replace(SPAWN, options=WorkerOptions(task=task)), engine, header)  # type: ignore[arg-type]


def test_memory_of_a_worker_that_embeds(tmp_path: Path) -> None:
    bert = gguf.read_header(write_tiny_bert(tmp_path / "bert.gguf", context=4096))
    embeds = replace(SPAWN, options=WorkerOptions(task="embed"))
    assert sizing.needs_of(embeds, MODEL, bert).context_length == 4096
    bee = gguf.read_header(shipped.builtin_model("bee-tiny"))
    needs = sizing.needs_of(embeds, MODEL, bee)
    assert (needs.context_length, needs.slots) == (512, 2)
    on_gpu = sizing.needs_of(replace(embeds, worker="cuda"), MODEL, bee)
    assert on_gpu.memory > needs.memory
