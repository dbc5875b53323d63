# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee init`: a first rbee.yaml from what this machine has."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from pathlib import Path

import click

from rbee.adapters import gpu, ssh_config, system
from rbee.adapters.paths import write_atomic
from rbee.adapters.shipped import schemas_dir
from rbee.cli.init_template import Machine, render
from rbee.cli.loading import file_option
from rbee.cli.views import problems as view
from rbee.core.problems import Problem, Where
from rbee.core.spec_words import HOST

_HOST = re.compile(r"^\s*host(?:\s*=\s*|\s+)(.+)$", re.IGNORECASE)


@click.command("init", short_help="Write a first rbee.yaml from what this machine has.")
@file_option
@click.option("--force", is_flag=True, envvar="RBEE_FORCE", help="Write over a file that is there.")
def command(file: Path, force: bool) -> None:
    """Write a first rbee.yaml, with comments, from what this machine has."""
    if (file.exists() or file.is_symlink()) and not force:
        mend = "Write over it with --force, or name another with -f FILE."
        view.show([Problem(summary="There is a file already.", mend=mend, where=Where(file=str(file)))])
        sys.exit(1)
    try:
        write_atomic(file, render(machine(), str(schemas_dir() / "rbee.json")).encode())
    except OSError as e:
        detail = f"{e.strerror}."
        view.show([Problem(summary="The file cannot be written.", detail=detail, where=Where(file=str(file)))])
        sys.exit(1)
    click.echo(f"Wrote {file}. Edit it, then: rbee validate, rbee plan, rbee apply.")


def machine() -> Machine:
    """This machine, as far as it can be seen; blocks for as long as a GPU's driver takes to answer."""
    cores = system.cores()
    return Machine(
        hostname=socket.gethostname(),
        cores=cores,
        memory=system.memory()[0],
        devices=gpu.detect(cores).devices,
        ssh_hosts=_ssh_hosts(),
    )


def _ssh_hosts() -> list[str]:
    """Hosts of the user's SSH config; none when it cannot be read: they are only suggestions."""
    try:
        return host_names(ssh_config.flat_text(ssh_config.files()[0]))
    except ValueError:
        return []


def host_names(text: str) -> list[str]:
    """Names of the hosts in the text of an SSH config, each once, without patterns and what `ssh:` does not take."""
    names: list[str] = []
    for line in text.splitlines():
        found = _HOST.match(line)
        if found is None:
            continue
        try:
            words = shlex.split(found[1], comments=True)
        except ValueError:
            continue
        names += [w for w in words if re.fullmatch(HOST, w) and not re.search(r"[*?!]", w) and w not in names]
    return names
