# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of operations for people: tables, named lines, units; narration while a job runs."""

from __future__ import annotations

import dataclasses
import typing
from datetime import datetime, timezone
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest

from rbee.cli.views import records, units
from rbee.cli.views.narration import Narration
from rbee.contracts import codec
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.devices import DeviceListResponse
from rbee.contracts.operations.models import (
    ModelDeleteBatchResponse,
    ModelGetResponse,
    ModelListResponse,
    ModelNotDeleted,
    ModelVerifyResponse,
)
from rbee.contracts.operations.preload import ModelPreloadStatsResponse
from rbee.contracts.operations.workers import WorkerSpawnBatchResponse, WorkerSpawned
from rbee.core.errors import RbeeError
from rbee.core.records import Device, ModelFile, ModelRecord

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
MODEL = ModelRecord(
    id="llama", name="llama", path="/m", size_bytes=1_234_567_890, status="available", context_length=4096,
    added_at="2026-11-20T11:57:00Z",
)  # fmt: skip


def lines(answer: Any) -> list[str]:
    return list(records.render(answer, NOW))


def test_a_list_is_a_table() -> None:
    other = dataclasses.replace(MODEL, id="b", quantization="Q4_K_M", size_bytes=5)
    head, first, second = lines(ModelListResponse(models=(MODEL, other)))
    assert head.split("  ")[0] == "ID"
    assert "CONTEXT LENGTH" in head
    assert first.split() == ["llama", "available", "1.2", "GB", "-", "-", "-", "4096", "3m00s", "ago"]
    assert second.index("Q4_K_M") == head.index("QUANTIZATION")
    assert lines(ModelListResponse(models=())) == ["No models."]


def test_one_thing_is_named_lines_without_what_it_does_not_say() -> None:
    record = dataclasses.replace(MODEL, files=(ModelFile(name="a", size_bytes=1), ModelFile(name="b", size_bytes=2)))
    told = lines(ModelGetResponse(model=record, chat_template="{{ a }}\n\x1b[31mb"))
    assert "id:             llama" in told
    assert "size:           1.2 GB" in told
    assert not any(line.startswith(("error:", "architecture:")) for line in told)
    at = told.index("files:")
    assert [line.split() for line in told[at + 1 : at + 4]] == [["NAME", "SIZE"], ["a", "1", "B"], ["b", "2", "B"]]
    assert told[-3:] == ["chat template:", "  {{ a }}", "   [31mb"]


def test_what_stands_beside_a_table_is_below_it() -> None:
    device = Device(id="cpu", device_id=0, device_type="cpu", name="Some CPU", cores=8)
    told = lines(DeviceListResponse(devices=(device,), reasons={"nvidia": "no driver"}))
    assert told == ["ID   NAME      CORES  WORKERS", "cpu  Some CPU  8      -", "", "nvidia: no driver"]
    failed = ModelDeleteBatchResponse(deleted=("a",), failed=(ModelNotDeleted(model_id="b", error="used", code="c"),))
    assert lines(failed) == ["deleted: a", "", "Failed:", "  MODEL ID  ERROR  CODE", "  b         used   c"]
    stats = ModelPreloadStatsResponse(
        total_size_bytes=0, budget_bytes=10**9, cached_models=(), hit_rate=0.5, hits=1, misses=1, evictions=0
    )
    assert "hit rate:      50%" in lines(stats)
    assert "budget:        1.0 GB" in lines(stats)
    assert "cached models: -" in lines(stats)


def test_the_exit_code_says_whether_all_came_true() -> None:
    good = ModelVerifyResponse(model_id="a", verified=True, checksum="x", expected="x", against="source", size_bytes=1)
    assert records.well(good)
    assert not records.well(dataclasses.replace(good, verified=False))
    assert records.well(dataclasses.replace(good, verified=False, expected=None, against="nothing"))
    assert records.well(ModelDeleteBatchResponse(deleted=("a",)))
    spawned = WorkerSpawned(model="m", worker_id="w", ok=False)
    assert not records.well(WorkerSpawnBatchResponse(workers=(spawned,), started=0, failed=1))
    assert records.well(WorkerSpawnBatchResponse(workers=(spawned,), started=1, failed=0))
    assert records.well(DeviceListResponse(devices=(), reasons={"nvidia": "no driver"}))


@pytest.mark.parametrize("status", ["healthy", "degraded", "unhealthy"])
def test_a_hive_that_is_not_well_is_no_success(status: str) -> None:
    made = dataclasses.replace(_filled(OPERATIONS["HiveStatus"].response), status=status)
    assert records.well(made) == (status == "healthy")


def _value(hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _value(args[0])
    if origin in (typing.Union, UnionType):
        return _value(args[0])
    if origin is Literal:
        return args[0]
    if origin is tuple:
        return (_value(args[0]),) if args[1] is ... else tuple(map(_value, args))
    if origin is dict:
        return {"key": _value(args[1])}
    if dataclasses.is_dataclass(hint):
        return _filled(hint)
    return {str: "text\x1b", int: 3, float: 2.5, bool: True}[hint]


def _filled(kind: Any) -> Any:
    """A value of the type that says all that can be said."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{f.name: _value(hints[f.name]) for f in dataclasses.fields(kind)})


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_answer_can_be_shown_full_or_nearly_empty(name: str) -> None:
    full = _filled(OPERATIONS[name].response)
    told = lines(full)
    assert told
    assert all(line.isprintable() for line in told), told
    for field in dataclasses.fields(full):
        if isinstance(getattr(full, field.name), tuple):
            full = dataclasses.replace(full, **{field.name: ()})
    assert all(line.isprintable() for line in lines(full))


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("size_bytes", 999, "999 B"),
        ("size_bytes", 1500, "1.5 kB"),
        ("size_bytes", 2 * 10**15, "2000.0 TB"),
        ("speed_bytes_per_sec", 12_500_000, "12.5 MB/s"),
        ("vram_total_mb", 24576, "24.0 GiB"),
        ("memory_mb", 812.4, "812 MiB"),
        ("ram_used_gb", 3.14, "3.1 GB"),
        ("eta_seconds", 3.2, "3.2s"),
        ("uptime_seconds", 93_784, "1d2h"),
        ("uptime_seconds", 4000, "1h06m"),
        ("preload_time_ms", 1234, "1,234 ms"),
        ("cpu_usage_percent", 12.4, "12 %"),
        ("temperature_celsius", 61.0, "61 °C"),
        ("power_usage_watts", 220.5, "220 W"),
        ("avg_tokens_per_sec", 12.0, "12"),
        ("verified", False, "no"),
        ("workers", ("a", "b"), "a, b"),
        ("labels", {"b": 1, "a": "x"}, "a=x, b=1"),
        ("error", None, "-"),
        ("load_average", (0.5, 1.25, 2.0), "0.5, 1.25, 2"),
        ("added_at", "2026-11-18T11:00:00Z", "2d1h ago"),
        ("added_at", "2026-11-20T12:00:00", "now"),
        ("last_seen", "long ago\x07", "long ago "),
        ("anything", object, "<class 'object'>"),
    ],
)
def test_values_have_their_units(name: str, said: Any, words: str) -> None:
    assert units.value(name, said, NOW) == words


def narrate(name: str, *events: dict[str, Any], as_json: bool = False) -> None:
    with Narration(OPERATIONS[name], as_json=as_json) as told:
        for event in events:
            told.show(event)


def progress(done: int) -> dict[str, Any]:
    return {
        "event": "model_download_progress", "message": f"{done} of 1000", "bytes_downloaded": done,
        "total_bytes": 1000, "level": "info",
    }  # fmt: skip


def test_without_a_terminal_progress_is_a_line_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    narrate("ModelDownload", *(progress(n) for n in range(0, 301, 10)), {"event": "x", "message": "There.\nx"})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["0 of 1000", "100 of 1000", "200 of 1000", "300 of 1000", "There. x"]


def test_an_error_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = {"event": "worker_spawn_error", "message": "No engine is installed.", "level": "error"}
    with pytest.raises(RbeeError), Narration(OPERATIONS["WorkerSpawn"], as_json=False) as told:
        told.show(failed)
        raise RbeeError("No engine is installed.", mend="Apply.")
    assert capsys.readouterr().err == ""  # whoever catches the error says it
    with pytest.raises(RbeeError), Narration(OPERATIONS["WorkerSpawn"], as_json=False) as told:
        told.show(failed)
        raise RbeeError("Something else.")
    narrate("WorkerSpawnBatch", failed, {"event": "x", "message": "1 of 2 started.", "level": "info"})
    said = "No engine is installed."
    assert capsys.readouterr().err.splitlines() == [said, said, "1 of 2 started."]


def test_of_a_question_only_warnings_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    narrate(
        "ModelList",
        {"event": "model_list_result", "message": "3 models.", "level": "info"},
        {"event": "model_list_bad", "message": "One cannot be read.", "level": "warning"},
        {"event": "nothing", "level": "error"},
    )
    assert capsys.readouterr().err == "One cannot be read.\n"


def test_lines_of_a_log_are_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    narrate("WorkerLogs", {"event": "worker_logs_line", "line": "ready\x1b[2J", "message": "ready", "level": "info"})
    assert capsys.readouterr() == ("ready [2J\n", "")


def test_programs_get_every_event_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    narrate("ModelList", progress(10), {"event": "x"}, as_json=True)
    out, err = capsys.readouterr()
    assert (codec.decode(dict[str, Any], out.splitlines()[0]), err) == (progress(10), "")
    assert len(out.splitlines()) == 2
