# SPDX-License-Identifier: GPL-3.0-or-later
"""A declaration is all that an operation needs: schema, body, command, help, reference and OpenAPI have it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import click
import jsonschema
import pytest
from click.testing import CliRunner

from rbee.cli import docs
from rbee.cli.hive_cmds import family as hive_family
from rbee.cli.main import main
from rbee.contracts import openapi
from rbee.contracts.operations import OPERATIONS, operation, parse_operation
from rbee.contracts.schemas import SCHEMAS
from rbee.core.doc import Doc
from rbee.core.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class WaggleDanceResponse:
    steps: int


@pytest.fixture
def declared() -> Iterator[str]:
    @operation(family="model", command="waggle", response=WaggleDanceResponse, served_by=("hive",))
    @dataclass(frozen=True, slots=True, kw_only=True)
    class WaggleDance:
        """Show the others where the flowers are."""

        hive_id: Annotated[str, Doc("Hive to act on.")] = ""
        direction: Annotated[int, Doc("Degrees from the sun.", minimum=0, maximum=359, example=40)]

    yield "WaggleDance"
    del OPERATIONS["WaggleDance"]


def test_its_body_is_read_and_held_against_its_bounds(declared: str) -> None:
    kind, request = parse_operation(b'{"operation": {"WaggleDance": {"direction": 40}}}')
    assert (kind.name, request.direction, kind.lane) == (declared, 40, "model")
    with pytest.raises(InvalidRequest, match="direction"):
        parse_operation(b'{"operation": {"WaggleDance": {"direction": 360}}}')


def test_its_schema_is_published(declared: str) -> None:
    made = SCHEMAS["operations"]()
    body = {"operation": {declared: {"direction": 40}}}
    jsonschema.validate(body, made, cls=jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"operation": {declared: {}}}, made, cls=jsonschema.Draft202012Validator)
    assert made["x-operations"][declared]["served_by"] == ["hive"]


def test_its_command_and_help_are_there_for_both_tools(declared: str) -> None:
    told = CliRunner().invoke(main, ["model", "waggle", "--help"])
    assert told.exit_code == 0, told.output
    assert "Show the others where the flowers are." in told.output
    assert "--direction" in told.output
    assert "Degrees from the sun." in told.output
    assert "waggle" in CliRunner().invoke(main, ["model", "--help"]).output
    assert "waggle" in hive_family("model").list_commands(click.Context(main))


def test_the_reference_and_openapi_have_it(declared: str) -> None:
    assert "WaggleDance" in docs.operations()
    for daemon in ("hive", "queen"):
        made = openapi.document(daemon, "1.0", [("POST", "/v1/jobs", True)])
        content = made["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
        assert content["examples"][declared]["value"] == {"operation": {declared: {"direction": 40}}}
