# SPDX-License-Identifier: GPL-3.0-or-later
"""How commands reach the queen: flag, then RBEE_QUEEN_URL, then the settings of this machine, then the default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from rbee.adapters.local_shell import LocalShell
from rbee.adapters.paths import Paths
from rbee.adapters.queen_api import HttpQueenApi
from rbee.adapters.secrets import load_token
from rbee.cli.wiring import RealHome
from rbee.contracts import defaults
from rbee.core.errors import InvalidRequest

F = TypeVar("F", bound=Callable[..., Any])

queen_option = click.option(
    "--queen-url", envvar="RBEE_QUEEN_URL", default=None, help="The queen's address. Default: this machine's."
)
token_option = click.option(
    "--token-file", envvar="RBEE_TOKEN_FILE", type=click.Path(path_type=Path), default=None,
    help="File (mode 0600) with the token, for a queen on another machine.",
)  # fmt: skip


def checked(queen_url: str) -> str:
    """An address that can be asked; `HOST:PORT` alone will do. Raises InvalidRequest."""
    url = queen_url if "://" in queen_url else f"http://{queen_url}"
    try:
        place = urlsplit(url)
        good = place.scheme == "http" and bool(place.hostname) and place.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise InvalidRequest(f"{queen_url!r} is no address of a queen.", mend="Write http://HOST:PORT.")
    return url


def connect(queen_url: str | None, token_file: Path | None) -> HttpQueenApi:
    """The queen's API. Raises RbeeError when a named token file is not usable; reaches nothing yet."""
    paths = Paths.of_environment()
    home = RealHome(paths, None)
    config = home.queen_config()
    if queen_url is None:
        queen_url = f"http://{config.listen if config else defaults.QUEEN_LISTEN}"
    queen_url = checked(queen_url)
    if token_file is None and config is not None and config.token_file:
        token_file = Path(config.token_file)
    if token_file is None:
        return HttpQueenApi(LocalShell(), queen_url, home.token_if_any)
    token = load_token(token_file)
    return HttpQueenApi(LocalShell(), queen_url, token.reveal)
