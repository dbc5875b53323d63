# SPDX-License-Identifier: GPL-3.0-or-later
"""`GET /openapi.json`: a daemon's HTTP as OpenAPI 3.1, made from its table of routes and the wire types. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from rbee.contracts.capabilities import Capabilities
from rbee.contracts.heartbeat import HiveHeartbeat, WorkerHeartbeat
from rbee.contracts.jobs import Job, JobAccepted, JobPage
from rbee.contracts.operations import Daemon
from rbee.contracts.schema import Schemas
from rbee.contracts.schemas import SCHEMAS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is said of one method of one path, beside its place in a table of routes."""

    summary: str
    answer: type | None = None
    body: type | None = None
    status: int = 200
    media: str = "application/json"


_TEXT, _STREAM = "text/plain", "text/event-stream"
#: By method and path, of both daemons.
ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    ("POST", "/v1/jobs"): Endpoint("Start an operation as a job.", JobAccepted, status=202),
    ("GET", "/v1/jobs"): Endpoint("Jobs, newest first (`state`, `limit`, `cursor`).", JobPage),
    ("GET", "/v1/jobs/{job_id}"): Endpoint("One job, with its result or error.", Job),
    ("DELETE", "/v1/jobs/{job_id}"): Endpoint("Cancel a job; 409 when it has ended.", Job),
    ("GET", "/v1/jobs/{job_id}/stream"): Endpoint("Its events, resumable by `Last-Event-ID`.", media=_STREAM),
    ("GET", "/v1/models"): Endpoint("Models and aliases, as OpenAI lists them."),
    ("GET", "/v1/models/{name}"): Endpoint("One model."),
    ("POST", "/v1/worker-heartbeat"): Endpoint("A worker tells how it is.", body=WorkerHeartbeat),
    ("POST", "/v1/hive-heartbeat"): Endpoint("A hive tells how it is and what changed.", body=HiveHeartbeat),
    ("GET", "/v1/queen"): Endpoint("The queen herself: fleet, settings' digest, hives."),
    ("POST", "/v1/queen/reload"): Endpoint("Read the settings again."),
    ("GET", "/capabilities"): Endpoint("What a hive has; with `queen_url` it begins its heartbeats.", Capabilities),
    ("GET", "/metrics"): Endpoint("Prometheus' text.", media=_TEXT),
    ("GET", "/health"): Endpoint("Whether the process lives.", media=_TEXT),
    ("GET", "/readyz"): Endpoint("Whether it serves."),
    ("GET", "/openapi.json"): Endpoint("This document."),
}
#: OpenAI's paths (and one of Anthropic's): bodies go to an engine as they are.
_INFERENCE: Final = Endpoint("Answered by a worker of the model, streamed or whole.")
_INFERENCE_BODY: Final = {
    "type": "object",
    "properties": {"model": {"type": "string"}, "stream": {"type": "boolean"}},
    "required": ["model"],
}
_ERROR: Final = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "code", "param"],
        }
    },
    "required": ["error"],
}
_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def document(daemon: Daemon, version: str, routes: Iterable[tuple[str, str, bool]]) -> dict[str, Any]:
    """The document of a daemon whose `routes` are (method, path, whether a listener may want the token for it)."""
    made = Schemas(closed=False)
    operations = _operations_of(daemon)
    made.defs |= operations.pop("$defs") | {"Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for method, path, token in routes:
        plain = _PARAMETER.sub(r"{\1}", path)
        endpoint = ENDPOINTS.get((method, plain), _INFERENCE)
        said = _said(endpoint, made, _PARAMETER.findall(path))
        if (method, plain) == ("POST", "/v1/jobs"):
            said["requestBody"] = _content(operations)
        elif endpoint is _INFERENCE:
            said["requestBody"] = _content(_INFERENCE_BODY)
        if not token:
            said["security"] = []
        paths.setdefault(plain, {})[method.lower()] = said
    found = {
        "openapi": "3.1.0",
        "info": {"title": f"rbee {daemon}", "version": version},
        "security": [{"bearer": []}, {"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(made.defs.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
    moved: dict[str, Any] = json.loads(json.dumps(found).replace('"#/$defs/', '"#/components/schemas/'))
    return moved


def _operations_of(daemon: Daemon) -> dict[str, Any]:
    """The body of `POST /v1/jobs`: the queen takes every operation, a hive those that it serves."""
    whole = SCHEMAS["operations"]()
    served = {n for n, told in whole["x-operations"].items() if daemon == "queen" or daemon in told["served_by"]}
    whole.pop("$schema")
    whole["x-operations"] = {name: told for name, told in whole["x-operations"].items() if name in served}
    one_of = [body for body in whole["properties"]["operation"]["oneOf"] if body["required"][0] in served]
    return {**whole, "properties": {"operation": {"oneOf": one_of}}}


def _said(endpoint: Endpoint, made: Schemas, parameters: list[str]) -> dict[str, Any]:
    answer = made.of(endpoint.answer) if endpoint.answer is not None else {}
    described = HTTPStatus(endpoint.status).phrase
    said: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): {"description": described, "content": {endpoint.media: {"schema": answer}}},
            "default": {"description": "An error, as OpenAI's servers tell it.", **_content({"$ref": "#/$defs/Error"})},
        },
    }
    if parameters:
        text = {"type": "string"}
        said["parameters"] = [{"name": n, "in": "path", "required": True, "schema": text} for n in parameters]
    if endpoint.body is not None:
        said["requestBody"] = _content(made.of(endpoint.body))
    return said


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
