# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee.yaml as every command reads it: this machine's files, environment and engines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rbee.adapters.paths import Paths
from rbee.adapters.shipped import providers_dir

if TYPE_CHECKING:
    from rbee.fleet.load import Loaded

DEFAULT_FILE = Path("rbee.yaml")

#: `-f FILE`, the same for every command that reads it (RBEE_FILE in the environment).
file_option = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    envvar="RBEE_FILE",
    help="The fleet's file.",
)

#: `-o human|json`.
output_option = click.option(
    "-o",
    "--output",
    "output",
    type=click.Choice(["human", "json"]),
    default="human",
    show_default=True,
    envvar="RBEE_OUTPUT",
    help="For people, or JSON lines for programs.",
)


def engine_dirs(paths: Paths) -> list[Path]:
    """Where engine providers are read from: the shipped ones, then the user's own."""
    return [providers_dir() / "engines", paths.config / "providers" / "engines"]


def source_dirs(paths: Paths) -> list[Path]:
    """Where model sources are read from: the shipped ones, then the user's own."""
    return [providers_dir() / "sources", paths.config / "providers" / "sources"]


def load_file(file: Path, environment: Mapping[str, str] | None = None, *, deploying: bool = False) -> Loaded:
    """The checked fleet in `file`. Raises ProblemsError with everything that is wrong; `deploying`: with what the queen
    would lack on this machine."""
    # Here, not above: what reads no file (`rbee status`) need not wait for the schema's library.
    from rbee.adapters import cel
    from rbee.adapters.yaml_source import YamlFiles
    from rbee.fleet.load import load

    return load(
        file,
        os.environ if environment is None else environment,
        files=YamlFiles(),
        home=Path.home(),
        provider_dirs=engine_dirs(Paths.of_environment()),
        source_dirs=source_dirs(Paths.of_environment()),
        compile=cel.compiler(),
        deploying=deploying,
    )
