# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon reads before it starts: its settings and the fleet's token."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token, load_token
from rbee.contracts import codec
from rbee.contracts.configs import HiveConfig, QueenConfig
from rbee.core.errors import RbeeError

C = TypeVar("C", QueenConfig, HiveConfig)


def read_config(kind: type[C], path: Path) -> C:
    """The settings in `path`. Raises RbeeError (code `bad_config`)."""
    try:
        return codec.decode(kind, path.read_bytes())
    except OSError as e:
        raise RbeeError(
            f"The settings {path} cannot be read: {e.strerror}.", code="bad_config", mend="`rbee apply` writes them."
        ) from None
    except codec.CodecError as e:
        raise RbeeError(f"The settings {path} are wrong: {e}.", code="bad_config") from None


def read_token(said: str | None, paths: Paths) -> Token | None:
    """The token that the settings name, or the fleet's own when it is there; None when there is none."""
    if said is not None:
        return load_token(Path(said))
    return load_token(paths.token) if paths.token.exists() else None
