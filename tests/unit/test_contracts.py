# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire: JSON at the border, operations by name, settings and their digests, narration."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.contracts import codec, jobs, narration
from rbee.contracts.bounds import refused
from rbee.contracts.configs import HiveConfig, QueenConfig, boot_digest, config_digest
from rbee.contracts.operations import OPERATIONS, parse_operation, wire
from rbee.contracts.operations.hives import HiveCheck
from rbee.contracts.operations.inference import Infer
from rbee.contracts.operations.workers import WorkerSpawn
from rbee.core.doc import Doc
from rbee.core.errors import InvalidRequest
from rbee.core.records import Mark
from rbee.core.spec import WorkerOptions


def test_values_survive_the_wire() -> None:
    spawn = WorkerSpawn(model="m", options=WorkerOptions(threads=2), mark=Mark(fleet="f"), device=1)
    assert codec.decode(WorkerSpawn, codec.encode(spawn)) == spawn
    assert codec.convert(WorkerSpawn, codec.plain(spawn)) == spawn
    assert codec.to_mapping(spawn)["options"]["threads"] == 2
    pretty = codec.encode_pretty(spawn)
    assert pretty.endswith(b"}\n")
    assert codec.decode(WorkerSpawn, pretty) == spawn


def test_what_a_newer_peer_adds_is_ignored() -> None:
    assert codec.decode(HiveCheck, b'{"hive_id": "h", "newer": 1}') == HiveCheck(hive_id="h")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'{"hive_id": 1}', b"[]", b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"]
)
def test_bad_json_is_a_codec_error(data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(HiveCheck, data)


def test_a_codec_error_names_the_field() -> None:
    with pytest.raises(codec.CodecError, match=r"\$\.options\.threads"):
        codec.convert(WorkerSpawn, {"model": "m", "options": {"threads": "two"}})


def test_only_objects_are_mappings() -> None:
    with pytest.raises(codec.CodecError, match="expected an object, got list"):
        codec.to_mapping([1])


def test_an_operation_crosses_the_wire_by_its_name() -> None:
    request = Infer(model="m", prompt="p", stop=("x",))
    body = codec.encode(wire(request))
    assert list(json.loads(body)["operation"]) == ["Infer"]
    assert parse_operation(body) == (OPERATIONS["Infer"], request)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "exactly one name"),
        (b'{"operation": {}}', "exactly one name"),
        (b'{"operation": {"Status": {}, "Infer": {}}}', "exactly one name"),
        (b'{"operation": "Status"}', "exactly one name"),
        (b'{"operation": {"WorkerSpwan": {}}}', "Did you mean 'WorkerSpawn'?"),
        (b'{"operation": {"WorkerSpawn": {}}}', "WorkerSpawn: Object missing required field `model`"),
        (b'{"operation": {"Status": 3}}', "Status: "),
    ],
)
def test_a_bad_body_is_told_what_is_wrong(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        parse_operation(body)
    assert said in str(e.value)
    assert e.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("WorkerProcessDelete", {"pid": 0}, "$.pid: must be at least 1"),
        ("WorkerSpawn", {"model": "m", "port": 65536}, "$.port: must be at most 65535"),
        ("WorkerSpawn", {"model": ""}, "$.model: must not be empty"),
        ("WorkerSpawn", {"model": "m", "worker": "abacus"}, "$.worker: must be one of cpu, cuda, metal, rocm, vulkan"),
        ("WorkerSpawn", {"model": "m", "options": {"parallel": 0}}, "$.options.parallel: must be at least 1"),
        ("ModelDownload", {"model": "m", "sha256": "x"}, "$.sha256: must match ^[0-9a-f]{64}$"),
        ("Infer", {"model": "m", "prompt": "x" * 32769}, "$.prompt: must have at most 32768 characters"),
        ("Infer", {"model": "m", "prompt": "x", "temperature": 2.5}, "$.temperature: must be at most 2"),
        ("Infer", {"model": "m", "prompt": "x", "stop": ["x"] * 5}, "$.stop: must have at most 4 items"),
        ("Infer", {"model": "", "prompt": ""}, "$.model: must not be empty; $.prompt: must not be empty"),
    ],
)
def test_what_lies_outside_a_fields_bounds_is_told_all_at_once(name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        parse_operation(json.dumps({"operation": {name: fields}}).encode())
    assert e.value.message == f"{name}: {said}"


def test_bounds_are_inclusive_and_what_was_not_said_is_not_looked_at() -> None:
    infer = {"model": "m", "prompt": "x" * 32768, "temperature": 2, "stop": ["x"] * 4, "max_tokens": None}
    parse_operation(json.dumps({"operation": {"Infer": infer}}).encode())
    spawn = {"model": "m", "port": 1, "device": 0, "options": {"parallel": 256}}
    parse_operation(json.dumps({"operation": {"WorkerSpawn": spawn}}).encode())


@dataclass(frozen=True)
class Pin:
    digits: Annotated[str, Doc("At least four.", min_length=4)] | None = None
    plain: int | None = 3


def test_bounds_of_an_optional_annotation() -> None:
    assert list(refused(Pin(digits="123"))) == ["$.digits: must have at least 4 characters"]
    assert list(refused(Pin(digits="1234"))) == list(refused(Pin())) == []


@given(st.binary(max_size=100))
def test_no_body_does_anything_but_parse_or_be_told(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_operation(body)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_says_what_it_is(name: str) -> None:
    kind = OPERATIONS[name]
    assert kind.name == kind.request.__name__ == name
    assert kind.summary.endswith(".")
    assert kind.served_by
    assert kind.command


def test_no_two_operations_have_one_command() -> None:
    commands = [(kind.family, kind.command) for kind in OPERATIONS.values()]
    assert len(commands) == len(set(commands))


def test_the_digest_of_settings_is_of_their_values() -> None:
    first = HiveConfig(hive_id="h", fleet="f")
    assert config_digest(first) == config_digest(HiveConfig(hive_id="h", fleet="f"))
    assert config_digest(first) != config_digest(HiveConfig(hive_id="h", fleet="f", release="r"))
    queen = QueenConfig(fleet="f", local_hive=first)
    assert codec.decode(QueenConfig, codec.encode(queen)) == queen
    assert config_digest(queen) != config_digest(QueenConfig(fleet="f"))
    assert boot_digest(queen) != boot_digest(QueenConfig(fleet="f"))
    assert boot_digest(queen) == boot_digest(QueenConfig(fleet="f", local_hive=first, aliases={"a": ("m",)}))


def test_narration_carries_its_name_twice_and_its_numbers_as_numbers() -> None:
    event = narration.narration(
        "model_download_progress", "Half", timestamp="T", job_id="j", actor="hive", level="debug", bytes_downloaded=5
    )
    assert event["event"] == event["action"] == "model_download_progress"
    assert (event["bytes_downloaded"], event["level"], event["actor"]) == (5, "debug", "hive")
    assert narration.narration("n", "m", timestamp="T", job_id="j", actor="a")["level"] == "info"


def test_a_job_ends_in_one_of_three_states() -> None:
    error = jobs.JobError(error="No.", code="not_found", timestamp="T")
    job = jobs.Job(job_id="job-1", operation="Status", state="failed", created_at="T", error=error)
    page = jobs.JobPage(jobs=(job,), cursor="c")
    assert codec.decode(jobs.JobPage, codec.encode(page)) == page
    assert job.state in jobs.ENDED
    assert {"completed", "failed", "cancelled"} == jobs.ENDED


def test_who_gives_a_key_knows_the_jobs_id() -> None:
    made = jobs.job_of("nightly/2026-01-31")
    assert made == jobs.job_of("nightly/2026-01-31") != jobs.job_of("nightly/2026-02-01")
    assert uuid.UUID(made.removeprefix("job-")).version == 4


@pytest.mark.parametrize("key", ["", "two words", "caf\u00e9", "line\n", "x" * 256])
def test_not_everything_is_a_key(key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        jobs.job_of(key)


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing() -> None:
    body = {"operation": {"WorkerSpawn": {"model": "m", "device": 2.0, "idle_timeout": 3.0, "mark": {"fleet": "f"}}}}
    _, asked = parse_operation(codec.encode(body))
    assert (asked.device, asked.idle_timeout) == (2, 3)
    _, batch = parse_operation(
        codec.encode({"operation": {"WorkerSpawnBatch": {"workers": [{"model": "m", "port": 9e3}]}}})
    )
    assert batch.workers[0].port == 9000
    for wrong in (2.5, 1e300, -1.0):
        with pytest.raises(InvalidRequest, match=r"WorkerSpawn: .*\$\.device"):
            parse_operation(codec.encode({"operation": {"WorkerSpawn": {"model": "m", "device": wrong}}}))
