# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a source answers, and the token that it may see."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

from rbee.core.errors import InvalidRequest, Unauthorized
from rbee.core.sources import SourceProvider


class Account:
    """One provider, on this machine. The environment and the files are read anew at each question."""

    def __init__(self, provider: SourceProvider, config_dir: Path, default_endpoint: str) -> None:
        self.provider = provider
        self._folder = config_dir
        self._default = default_endpoint

    @property
    def endpoint(self) -> str:
        """Without a `/` at its end. Raises InvalidRequest when the environment names none that can be."""
        provider = self.provider
        said = os.environ.get(provider.endpoint_env, "").strip() if provider.endpoint_env else ""
        url = (said or provider.endpoint or self._default).rstrip("/")
        if not _is_web(url):
            raise InvalidRequest(
                f"The endpoint of {provider.title} is no address of a web server.",
                mend=f"Set {provider.endpoint_env} to https://HOST." if said else "Mend `endpoint` in its file.",
            )
        return url

    @property
    def token_advice(self) -> str:
        """How a token is given, for messages."""
        ways = [f"the variable {self.provider.token_env[0]}"] if self.provider.token_env else []
        if self.provider.token_file:
            ways.append(f"a file {self._token_path()} of mode 0600")
        return f"give the hive a token ({', or '.join(ways)})" if ways else "name a token_file in its provider file"

    async def token(self) -> str | None:
        """Its file's, else the environment's, else the one that `hf auth login` keeps. Raises Unauthorized when the
        file is open to others or holds no token."""
        return await asyncio.to_thread(self._token)

    def _token_path(self) -> Path:
        return self._folder / Path(self.provider.token_file or "").expanduser()

    def _token(self) -> str | None:
        if self.provider.token_file:
            found = _private(self._token_path())
            if found:
                return found
        for name in self.provider.token_env:
            said = os.environ.get(name, "").strip()
            if said:
                return _usable(said, f"The variable {name}")
        return _kept_login() if self.provider.hub_login else None


def _is_web(url: str) -> bool:
    """An address of a web server, with no login in it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _private(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise Unauthorized(f"The token file {path} can be read by others.", mend=f"chmod 600 {path}")
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise Unauthorized(f"The token file {path} cannot be read.", mend="Put the token there, mode 0600.") from None
    return _usable(text, f"The token file {path}") if text else None


def _usable(text: str, where: str) -> str:
    """Nothing that could end a header and begin another."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Unauthorized(f"{where} holds no token (one line, no spaces).", mend="Put only the token there.")
    return text


def _kept_login() -> str | None:
    """As the hub's own tools find it."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return _usable(text, f"The file {path}") if text else None
