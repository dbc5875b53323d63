# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document: whole in itself, and of what is really declared."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from rbee.contracts import codec, openapi
from rbee.contracts.jobs import JobAccepted
from rbee.contracts.operations import OPERATIONS, Daemon, parse_operation, wire
from rbee.contracts.operations.hives import HiveCheck

ROUTES = [
    ("GET", "/health", False),
    ("POST", "/v1/jobs", True),
    ("GET", "/v1/jobs/{job_id}", True),
    ("GET", "/v1/models/{name:.+}", True),
    ("POST", "/v1/worker-heartbeat", True),
    ("POST", "/v1/chat/completions", True),
]


def schema_in(made: dict[str, Any], *way: str) -> dict[str, Any]:
    """A schema of the document as one that stands alone."""
    found: Any = made
    for step in way:
        found = found[step]
    return {**found, "components": made["components"]}


@pytest.mark.parametrize("daemon", ["queen", "hive"])
def test_every_reference_is_there_and_every_schema_is_one(daemon: Daemon) -> None:
    made = openapi.document(daemon, "1.0", ROUTES)
    text = json.dumps(made)
    for name in re.findall(r'"\$ref": "([^"]+)"', text):
        root, _, last = name.rpartition("/")
        assert root == "#/components/schemas"
        assert last in made["components"]["schemas"]
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert made["openapi"].startswith("3.1")
    assert made["paths"]["/health"]["get"]["security"] == []
    assert "security" not in made["paths"]["/v1/jobs"]["post"]
    assert [p["name"] for p in made["paths"]["/v1/models/{name}"]["get"]["parameters"]] == ["name"]


@pytest.mark.parametrize("daemon", ["queen", "hive"])
def test_the_operations_are_those_that_the_daemon_takes(daemon: Daemon) -> None:
    made = openapi.document(daemon, "1.0", ROUTES)
    body = schema_in(made, "paths", "/v1/jobs", "post", "requestBody", "content", "application/json", "schema")
    expected = {n for n, kind in OPERATIONS.items() if daemon == "queen" or "hive" in kind.served_by}
    assert set(body["x-operations"]) == expected
    assert {one["required"][0] for one in body["properties"]["operation"]["oneOf"]} == expected
    check = jsonschema.Draft202012Validator(body)
    assert check.is_valid(wire(HiveCheck(hive_id="h1")))
    assert not check.is_valid({"operation": {"HiveChek": {}}})
    answer = made["paths"]["/v1/jobs"]["post"]["responses"]["202"]["content"]["application/json"]["schema"]
    accepted = JobAccepted(job_id="job-1", sse_url="/v1/jobs/job-1/stream")
    jsonschema.validate(codec.plain(accepted), {**answer, "components": made["components"]})


@pytest.mark.parametrize("daemon", ["queen", "hive"])
def test_every_operation_has_an_example_that_is_taken(daemon: Daemon) -> None:
    made = openapi.document(daemon, "1.0", ROUTES)
    content = made["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    check = jsonschema.Draft202012Validator({**content["schema"], "components": made["components"]})
    assert set(content["examples"]) == set(content["schema"]["x-operations"])
    for name, told in content["examples"].items():
        check.validate(told["value"])
        kind, _ = parse_operation(codec.encode(told["value"]))
        assert (kind.name, kind.summary) == (name, told["summary"])


def test_routes_say_their_errors_parameters_and_what_follows_from_a_job() -> None:
    made = openapi.document("hive", "1.0", [*ROUTES, ("GET", "/v1/jobs", True), ("DELETE", "/v1/jobs/{job_id}", True)])
    post, one = made["paths"]["/v1/jobs"]["post"], made["paths"]["/v1/jobs/{job_id}"]
    assert post["requestBody"]["required"] is True
    assert set(post["responses"]) == {"202", "400", "401", "403", "409", "413", "501", "503"}
    assert set(one["delete"]["responses"]) == {"200", "400", "401", "403", "404", "409", "413"}
    assert set(made["paths"]["/health"]["get"]["responses"]) == {"200", "400", "413"}
    assert set(made["paths"]["/v1/chat/completions"]["post"]["responses"]) == {"200", "default"}
    links = post["responses"]["202"]["links"]
    assert links["job"]["operationId"] == one["get"]["operationId"] == "get_v1_jobs_job_id"
    assert links["cancel"]["operationId"] == one["delete"]["operationId"]
    assert [p["name"] for p in made["paths"]["/v1/jobs"]["get"]["parameters"]] == [
        "state", "operation", "hive_id", "since", "limit", "cursor",
    ]  # fmt: skip
    ids = [said["operationId"] for path in made["paths"].values() for said in path.values()]
    assert len(set(ids)) == len(ids)
