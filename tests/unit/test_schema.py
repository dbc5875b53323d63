# SPDX-License-Identifier: GPL-3.0-or-later
"""Schemas are made from the types; what is in schemas/ and docs/ is what the types say today."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from rbee.cli import docs, schema_cmd
from rbee.contracts import codec
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.schema import Schemas, schema_of
from rbee.contracts.schemas import SCHEMAS, render
from rbee.core.doc import Doc

ROOT = Path(__file__).parents[2]
PROVIDERS = sorted((ROOT / "providers" / "engines").glob("*.yaml"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """An inner thing.

    Further words are for programmers.
    """

    size: Annotated[int | None, Doc("Its size.", minimum=1, maximum=9)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: Annotated[str, Doc("Filled in.", written=False)] = ""
    kind: Literal["a", "b"]
    pair: tuple[int, str] = (1, "x")
    items: tuple[Inner, ...] = ()
    rates: Annotated[dict[str, float], Doc("Rates.", key_pattern="^[a-z]+$")] = field(default_factory=dict)
    either: int | list[bool] = 3
    anything: Any = None
    inner: Annotated[Inner, Doc("The inner.")] = field(default_factory=Inner)
    filled: Inner = field(default_factory=lambda: Inner(size=4))
    named: dict[str, Inner] = field(default_factory=dict)
    span: Annotated[float | None, Doc("A span.", written_as={"type": ["string", "number"]})] = None
    spans: Annotated[dict[str, float], Doc("Spans.", written_as={"type": "string"})] = field(default_factory=dict)
    choice: Annotated[str, Doc("One.", enum=("x", "y"), example="x")] = "x"
    nested: Annotated[Annotated[str, Doc("inner")], Doc("outer", min_length=2, max_length=3)] = "ab"
    few: Annotated[tuple[str, ...], Doc("Few.", max_items=2)] = ("q",)


class Told(TypedDict, total=False):
    text: str


def test_a_closed_schema_is_what_a_person_may_write() -> None:
    schema = schema_of(Outer, title="T", closed=True)
    made = schema["properties"]
    assert schema["title"] == "T"
    assert schema["required"] == ["kind"]
    assert schema["additionalProperties"] is False
    assert "description" not in schema
    assert "name" not in made
    assert made["kind"] == {"enum": ["a", "b"]}
    pair = [{"type": "integer"}, {"type": "string"}]
    assert made["pair"] == {
        "type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2, "default": (1, "x"),
    }  # fmt: skip
    assert made["items"] == {"type": "array", "items": {"$ref": "#/$defs/Inner"}}
    assert made["rates"]["propertyNames"] == {"pattern": "^[a-z]+$"}
    assert made["rates"]["type"] == ["object", "null"]
    assert made["either"]["anyOf"] == [{"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}]
    assert made["anything"] == {}
    assert made["inner"] == {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}], "description": "The inner."}
    assert made["filled"]["default"] == {"size": 4}
    assert made["named"]["additionalProperties"] == {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]}
    assert made["span"] == {"type": ["string", "number"], "description": "A span."}
    assert made["spans"]["additionalProperties"] == {"type": "string"}
    assert made["choice"] == {
        "type": "string",
        "description": "One.",
        "enum": ["x", "y"],
        "examples": ["x"],
        "default": "x",
    }
    assert made["nested"]["description"] == "outer"
    assert (made["nested"]["minLength"], made["nested"]["maxLength"]) == (2, 3)
    assert made["few"]["maxItems"] == 2
    assert schema["$defs"]["Inner"]["description"] == "An inner thing."
    assert schema["$defs"]["Inner"]["properties"]["size"] == {
        "type": ["integer", "null"], "description": "Its size.", "minimum": 1, "maximum": 9,
    }  # fmt: skip


def test_an_open_schema_is_what_programs_send() -> None:
    schema = schema_of(Outer, title="T", closed=False)
    assert "additionalProperties" not in schema
    assert schema["properties"]["name"]["default"] == ""
    assert schema["properties"]["span"]["type"] == ["number", "null"]
    assert schema["properties"]["inner"] == {"$ref": "#/$defs/Inner", "description": "The inner."}


def test_a_typed_dict_has_a_schema_too() -> None:
    assert schema_of(Told, title="T", closed=False)["properties"] == {"text": {"type": "string"}}


def test_two_types_of_one_name_are_refused() -> None:
    made = Schemas(closed=False)
    made.of(Inner)
    with pytest.raises(TypeError, match="two types are called Inner"):
        made.of(dataclass(type("Inner", (), {})))


def test_what_has_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="has no JSON Schema"):
        Schemas(closed=False).of(bytes)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_schemas_in_the_repository_are_what_the_types_say(name: str) -> None:
    assert (ROOT / "schemas" / f"{name}.json").read_bytes() == render(name), "run: rbee schema --write"


def test_there_is_no_other_schema_in_the_repository() -> None:
    assert {p.stem for p in (ROOT / "schemas").iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", sorted(docs.PAGES))
def test_the_pages_in_the_repository_are_what_the_types_say(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == docs.PAGES[name](), "run: rbee schema --docs"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_follow_the_metaschema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(render(name)))


@pytest.mark.parametrize("path", ["rbee.yaml.example", "examples/demo/rbee.yaml"])
def test_the_examples_follow_the_schema(path: str) -> None:
    text = (ROOT / path).read_text()
    jsonschema.validate(yaml.safe_load(text), json.loads(render("rbee")), cls=jsonschema.Draft202012Validator)
    first = text.splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (ROOT / path).parent.joinpath(first.partition("$schema=")[2]).resolve() == ROOT / "schemas" / "rbee.json"


@pytest.mark.parametrize("path", PROVIDERS, ids=lambda p: p.stem)
def test_the_providers_follow_the_schema(path: Path) -> None:
    schema = json.loads(render("engine-provider"))
    jsonschema.validate(yaml.safe_load(path.read_text()), schema, cls=jsonschema.Draft202012Validator)


def test_the_example_shows_every_key() -> None:
    shown = yaml.safe_load((ROOT / "rbee.yaml.example").read_text())
    schema = SCHEMAS["rbee"]()

    def keys(value: Any) -> set[str]:
        below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {*(value if isinstance(value, dict) else ()), *(k for v in below for k in keys(v))}

    wanted = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    assert wanted <= keys(shown)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_the_smallest_request_of_every_operation_follows_the_schema(name: str) -> None:
    schema = SCHEMAS["operations"]()
    part = schema["$defs"][name]
    fields = _least_of(schema, part)
    codec.convert(OPERATIONS[name].request, fields)
    jsonschema.validate({"operation": {name: fields}}, schema, cls=jsonschema.Draft202012Validator)


def _least_of(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return {key: _least(schema, part["properties"][key]) for key in part.get("required", ())}


def _least(schema: dict[str, Any], about: dict[str, Any]) -> Any:
    if "$ref" in about:
        return _least_of(schema, schema["$defs"][about["$ref"].rsplit("/", 1)[1]])
    if about.get("type") == "array":
        return [_least(schema, about["items"]) for _ in range(about.get("minItems", 0))]
    kind = about.get("type")
    least = {"string": "x", "integer": about.get("minimum", 1), "number": 1.0, "boolean": False}
    return about["enum"][0] if "enum" in about else least.get(str(kind), {})


def test_the_command_prints_one_and_writes_all(tmp_path: Path) -> None:
    printed = CliRunner().invoke(schema_cmd.command, ["hive"])
    assert printed.output.encode() == render("hive")
    written = CliRunner().invoke(schema_cmd.command, ["--write", "--docs", "--into", str(tmp_path)])
    assert written.exit_code == 0
    assert (tmp_path / "schemas" / "rbee.json").read_bytes() == render("rbee")
    assert {p.name for p in (tmp_path / "docs").iterdir()} == set(docs.PAGES)
