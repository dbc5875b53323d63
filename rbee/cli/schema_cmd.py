# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee schema`: the JSON Schemas, and the reference pages, made from the types."""

from __future__ import annotations

from pathlib import Path

import click

from rbee.adapters.paths import write_atomic
from rbee.cli import docs
from rbee.contracts.schemas import SCHEMAS, render


@click.command("schema", short_help="Print the JSON Schema of rbee.yaml, for editors.")
@click.argument("name", type=click.Choice(sorted(SCHEMAS)), default="rbee")
@click.option(
    "--write", is_flag=True, envvar="RBEE_WRITE", help="Write all schemas into ./schemas instead of printing one."
)
@click.option(
    "--docs",
    "pages",
    is_flag=True,
    envvar="RBEE_DOCS",
    help="Write the reference pages made from the types into ./docs.",
)
@click.option(
    "--into",
    envvar="RBEE_INTO",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Directory to write under instead of this one.",
)
def command(name: str, write: bool, pages: bool, into: Path) -> None:
    """Print the JSON Schema of rbee.yaml (or of NAME), for editors and other programs."""
    files: dict[Path, bytes] = {}
    if write:
        files |= {Path("schemas") / f"{each}.json": render(each) for each in SCHEMAS}
    if pages:
        files |= {Path("docs") / each: make().encode() for each, make in docs.PAGES.items()}
    for path, data in files.items():
        write_atomic(into / path, data)
        click.echo(f"Wrote {into / path}")
    if not files:
        click.echo(render(name).decode(), nl=False)
