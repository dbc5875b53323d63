# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference pages that are made from the types: docs/rbee-yaml.md and docs/operations-reference.md. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rbee.contracts import defaults
from rbee.contracts.schemas import SCHEMAS

_MADE = "<!-- Made from the types by `rbee schema --docs`; a test compares them. Do not edit. -->"
_KINDS = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "boolean": "true or false"}
#: How the parts of the file are called there.
_TITLES = {
    "QueenSpec": "queen",
    "HiveSpec": "hives.NAME",
    "Ssh": "hives.NAME.ssh",
    "ModelSpec": "models.NAME",
    "WorkerSpec": "workers.NAME",
    "Where": "workers.NAME.where",
    "WorkerOptions": "workers.NAME.options, defaults.options",
    "PolicySpec": "policies.NAME",
    "Defaults": "defaults",
}


def rbee_yaml() -> str:
    """docs/rbee-yaml.md."""
    schema = SCHEMAS["rbee"]()
    lines = [
        "# rbee.yaml",
        "",
        _MADE,
        "",
        "Every key, from the same types that check the file. `rbee init` writes a first file, `rbee validate` tells",
        "all that is wrong with one, and `rbee.yaml.example` shows every key in use. Begin yours with",
        "`# yaml-language-server: $schema=./schemas/rbee.json`, and an editor that knows YAML completes and checks it.",
        "",
        "- `${env.NAME}` in a value is the environment's NAME; unset is an error. `$${` is a plain `${`.",
        "- Secrets are never in the file: `token_file` names a file of mode 0600.",
        "- Paths are relative to the file's own folder; `~` is your home.",
        "- The file is YAML 1.2: `yes`, `no`, `on` and `off` are texts, `22:30` is no number.",
        "",
        "## Top level",
        "",
        *_table(schema, _TITLES),
    ]
    for name, title in _TITLES.items():
        part = schema["$defs"][name]
        lines += ["", f"## {title}", "", part["description"], "", *_table(part, {})]
    return "\n".join(lines) + "\n"


def operations() -> str:
    """docs/operations-reference.md."""
    schema = SCHEMAS["operations"]()
    summaries = {next(iter(b["properties"])): b["description"] for b in schema["properties"]["operation"]["oneOf"]}
    lines = [
        "# Operations",
        "",
        _MADE,
        "",
        'What `POST /v1/jobs` takes: `{"operation": {"NAME": {...}}}`. The answer is `202` with `job_id` and',
        "`sse_url`; the stream tells what happens, and `GET /v1/jobs/{job_id}` keeps the result. The queen takes",
        "every operation and hands what belongs to a hive to that hive. What a hive serves is a command of `rbee-hive`",
        "too. Jobs of one lane share a limit: beyond it they wait.",
        "",
        "| operation | command | served by | lane, jobs at once | what it does |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, about in schema["x-operations"].items():
        served = ", ".join(about["served_by"])
        lane = f"{about['lane']}, {defaults.LANES.get(about['lane'], defaults.LANE)}"
        link = f"[{name}](#{name.lower()})"
        lines.append(f"| {link} | `rbee {about['command']}` | {served} | {lane} | {summaries[name]} |")
    for name, about in schema["x-operations"].items():
        lines += ["", f"## {name}", "", summaries[name], ""]
        for role in ("request", "response"):
            part = schema["$defs"][about[role]["$ref"].rsplit("/", 1)[1]]
            rows = list(_table(part, {})) if part["properties"] else ["(nothing)"]
            lines += [f"{role.capitalize()}:", "", *rows, ""]
        lines.pop()
    lines += ["", "## Types", "", "What requests and responses are made of."]
    ends = {about[role]["$ref"] for about in schema["x-operations"].values() for role in ("request", "response")}
    for name, part in schema["$defs"].items():
        if f"#/$defs/{name}" not in ends:
            text = part.get("description")
            lines += ["", f"### {name}", *(["", text] if text else []), "", *_table(part, {})]
    return "\n".join(lines) + "\n"


#: By file name under docs/.
PAGES: dict[str, Callable[[], str]] = {"rbee-yaml.md": rbee_yaml, "operations-reference.md": operations}


def _table(part: dict[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    yield "| key | value | default | what it says |"
    yield "| --- | --- | --- | --- |"
    for key, about in part["properties"].items():
        default = "required" if key in part.get("required", ()) else _default(about)
        example = f" Example: `{about['examples'][0]}`." if about.get("examples") else ""
        text = f"{about.get('description', '')}{example}".strip()
        yield " | ".join((f"| `{key}`", _kind(about, titles), default, f"{_cell(text)} |"))


def _default(about: dict[str, Any]) -> str:
    if "default" not in about:
        return ""
    value = about["default"]
    if isinstance(value, dict):
        return ""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _kind(about: dict[str, Any], titles: Mapping[str, str]) -> str:
    """`text`, `whole number, 1 to 65535`, `list of text`, `mapping of hives.NAME`."""
    forms = [*about.get("anyOf", ()), *about.get("oneOf", ())]
    if forms:
        return " or ".join(dict.fromkeys(_kind(form, titles) for form in forms if form != {"type": "null"}))
    if "$ref" in about:
        name = about["$ref"].rsplit("/", 1)[1]
        return f"mapping ({titles[name]})" if name in titles else name
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    said = about.get("type", "anything")
    kinds = [k for k in ([said] if isinstance(said, str) else said) if k != "null"]
    kind = " or ".join(_KINDS.get(k, k) for k in kinds)
    if isinstance(about.get("additionalProperties"), dict):
        return f"{kind} of {_kind(about['additionalProperties'], titles)}"
    if "items" in about:
        return f"{kind} of {_kind(about['items'], titles)}"
    return kind + _bounds(about)


def _bounds(about: dict[str, Any]) -> str:
    low, high = about.get("minimum"), about.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}" if low != high else f", {low}"
    return f", {low} or more" if low is not None else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
