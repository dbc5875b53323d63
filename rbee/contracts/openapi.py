# SPDX-License-Identifier: GPL-3.0-or-later
"""`GET /openapi.json`: a daemon's HTTP as OpenAPI 3.1, made from its table of routes and the wire types. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, get_args

from rbee.contracts.capabilities import Capabilities
from rbee.contracts.heartbeat import HiveHeartbeat, WorkerHeartbeat
from rbee.contracts.jobs import KEY_HEADER, KEY_PATTERN, Job, JobAccepted, JobPage
from rbee.contracts.operations import OPERATIONS, Daemon
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
    #: Statuses of its errors, beside those that every route has.
    errors: tuple[int, ...] = ()
    #: What may stand behind the `?`, or in a header, each as OpenAPI describes it.
    parameters: tuple[Mapping[str, Any], ...] = ()


def _query(name: str, text: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


_LIST: Final = (
    _query("state", "Only jobs in this state.", enum=["queued", "running", "completed", "failed", "cancelled"]),
    _query("operation", "Only jobs of this operation.", enum=sorted(OPERATIONS)),
    _query("hive_id", "Only jobs that this hive does.", type="string"),
    _query("since", "Only jobs that were made at this time or later.", type="string", format="date-time"),
    _query("limit", "At most so many.", type="integer", minimum=1, maximum=1000, default=50),
    _query("cursor", "What the page before told.", type="string", pattern="^[0-9]{1,18}$"),
)
_RESUME: Final = {
    "name": "Last-Event-ID", "in": "header", "description": "Go on behind this event.",
    "schema": {"type": "string", "examples": ["7"]},
}  # fmt: skip
_KEY: Final = {
    "name": KEY_HEADER, "in": "header", "description": "Asked again under the same key, it is the same job.",
    "schema": {"type": "string", "pattern": KEY_PATTERN, "examples": ["nightly-2026-01-31"]},
}  # fmt: skip
_QUEEN_URL: Final = _query(
    "queen_url", "Where to send heartbeats from now on.", type="string",
    pattern="^http://[A-Za-z0-9][A-Za-z0-9.-]*:[1-9][0-9]{0,3}/?$",
)  # fmt: skip
_LARGE: Final = _query("large", "`false`: leave out an event with a large result; the job has it.", type="boolean")
_LAST: Final = _query("limit", "Only the last so many.", type="integer", minimum=0, maximum=999_999_999)
_FOLLOW: Final = _query("follow", "`false`: what is there by now, and no more.", type="boolean")
_TEXT, _STREAM = "text/plain", "text/event-stream"
#: By method and path, of both daemons.
ENDPOINTS: Final[Mapping[tuple[str, str], Endpoint]] = {
    ("POST", "/v1/jobs"): Endpoint(
        "Start an operation as a job.", JobAccepted, status=202, errors=(409, 501, 503), parameters=(_KEY,)
    ),
    ("GET", "/v1/jobs"): Endpoint("Jobs, newest first.", JobPage, parameters=_LIST),
    ("GET", "/v1/jobs/{job_id}"): Endpoint("One job, with its result or error.", Job, errors=(404,)),
    ("DELETE", "/v1/jobs/{job_id}"): Endpoint("Cancel a job; 409 when it has ended.", Job, errors=(404, 409)),
    ("GET", "/v1/jobs/{job_id}/stream"): Endpoint(
        "Its events from the first, then as they come.",
        media=_STREAM,
        errors=(404,),
        parameters=(_RESUME, _LARGE, _FOLLOW),
    ),
    ("GET", "/v1/models"): Endpoint("Models and aliases, as OpenAI lists them."),
    ("GET", "/v1/models/{name}"): Endpoint("One model.", errors=(404,)),
    ("POST", "/v1/worker-heartbeat"): Endpoint("A worker tells how it is.", body=WorkerHeartbeat),
    ("POST", "/v1/hive-heartbeat"): Endpoint(
        "A hive tells how it is and what changed.", body=HiveHeartbeat, errors=(404,)
    ),
    ("GET", "/v1/queen"): Endpoint("The queen herself: fleet, settings' digest, hives."),
    ("GET", "/v1/decisions"): Endpoint(
        "Recent routing decisions, the oldest first, one a line.",
        media="application/x-ndjson",
        errors=(400,),
        parameters=(_LAST,),
    ),
    ("POST", "/v1/queen/reload"): Endpoint("Read the settings again."),
    ("GET", "/capabilities"): Endpoint(
        "What a hive has; with `queen_url` it begins its heartbeats.", Capabilities, parameters=(_QUEEN_URL,)
    ),
    ("GET", "/metrics"): Endpoint("Prometheus' text.", media=_TEXT),
    ("GET", "/health"): Endpoint("Whether the process lives.", media=_TEXT),
    ("GET", "/readyz"): Endpoint("Whether it serves.", errors=(503,)),
    ("GET", "/openapi.json"): Endpoint("This document."),
}
#: OpenAI's paths (and one of Anthropic's): bodies go to an engine as they are.
_INFERENCE: Final = Endpoint("Answered by a worker of the model, streamed or whole.")
_INFERENCE_BODY: Final = {
    "type": "object",
    "properties": {"model": {"type": "string", "minLength": 1}, "stream": {"type": "boolean"}},
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
        said = {"operationId": _name(method, plain), **_said(endpoint, made, _PARAMETER.findall(path), token)}
        if (method, plain) == ("POST", "/v1/jobs"):
            said["requestBody"] = _body(operations, examples=_examples(operations["x-operations"]))
            said["responses"]["202"]["links"] = _LINKS
        elif endpoint is _INFERENCE:
            said["requestBody"] = _body(_INFERENCE_BODY)
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


def _said(endpoint: Endpoint, made: Schemas, parameters: list[str], token: bool) -> dict[str, Any]:
    answer = made.of(endpoint.answer) if endpoint.answer is not None else {}
    said: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): {
                "description": HTTPStatus(endpoint.status).phrase,
                "content": {endpoint.media: {"schema": answer}},
            },
            **_errors(endpoint, token),
        },
    }
    text = {"type": "string"}
    asked = [{"name": n, "in": "path", "required": True, "schema": text} for n in parameters]
    if asked or endpoint.parameters:
        said["parameters"] = [*asked, *endpoint.parameters]
    if endpoint.body is not None:
        said["requestBody"] = _body(made.of(endpoint.body))
    return said


def _errors(endpoint: Endpoint, token: bool) -> dict[str, Any]:
    """Of a path whose bodies go to an engine any; else those that the daemon itself answers with."""
    told = _content({"$ref": "#/$defs/Error"})
    if endpoint is _INFERENCE:
        return {"default": {"description": "An error, as OpenAI's servers tell it.", **told}}
    access = (401, 403) if token else ()
    statuses = sorted({400, 413, *access, *endpoint.errors})
    return {str(n): {"description": HTTPStatus(n).phrase, **told} for n in statuses}


def _examples(served: Iterable[str]) -> dict[str, Any]:
    """A small body for each operation, by its name."""
    return {
        name: {"summary": OPERATIONS[name].summary, "value": {"operation": {name: example(OPERATIONS[name].request)}}}
        for name in sorted(served)
    }


def example(kind: type) -> dict[str, Any]:
    """What must be said in a request of this type, by its fields' own examples."""
    out: dict[str, Any] = {}
    for field, hint, doc in Schemas(closed=False).fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            known = doc is not None and doc.example is not None
            out[field.name] = doc.example if doc and known else [example(get_args(hint)[0])]
    return out


def _body(schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, **more}}}


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _name(method: str, path: str) -> str:
    """The operationId: `get_v1_jobs_job_id`."""
    return re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_")


#: From a job that was made to what can be asked of it.
_LINKS: Final = {
    name: {
        "operationId": _name(method, f"/v1/jobs/{{job_id}}{more}"),
        "parameters": {"job_id": "$response.body#/job_id"},
        "description": text,
    }
    for name, method, more, text in (
        ("job", "GET", "", "What became of it."),
        ("stream", "GET", "/stream", "Its events."),
        ("cancel", "DELETE", "", "End it."),
    )
}
