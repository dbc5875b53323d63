# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that are assets of a GitHub release: `GH:OWNER/REPO@TAG[/FILE.gguf]`, `@latest` for the newest release."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote, urlsplit

from rbee.adapters.sources.account import Account
from rbee.adapters.sources.ask import Answer, ask
from rbee.adapters.sources.base import Located, SourceFile, safe_filename, said_sha256, said_size
from rbee.core import model_files
from rbee.core.errors import InvalidRequest, NotFound, RbeeError, Unauthorized, Unavailable
from rbee.core.problems import did_you_mean
from rbee.core.sources import ReleaseName, SourceProvider, parse_release, rest_of, supports

DEFAULT_ENDPOINT = "https://api.github.com"
VERSION = "2022-11-28"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    """`digest` (`sha256:...`) is there for assets of 2025 and later."""

    id: int
    name: str
    size: int | None = None
    digest: str | None = None
    state: str = "uploaded"
    browser_download_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    tag_name: str = ""
    assets: tuple[_Asset, ...] = ()


class GitHub:
    """GitHub, or an Enterprise server of it, by its provider file."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title
        self._account = Account(provider, config_dir, DEFAULT_ENDPOINT)

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """Asks for the release; for one that is not there, why. Codes: not_found, model_private_or_missing,
        unauthorized, rate_limited, unreachable, bad_answer, invalid_request."""
        name = parse_release(rest_of(self.provider, source))
        token = await self._account.token()
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": VERSION, "User-Agent": "rbee"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        repo = f"{self._account.endpoint}/repos/{name.repo}"
        which = "latest" if name.tag == "latest" else f"tags/{quote(name.tag, safe='')}"
        answer = await ask(f"{repo}/releases/{which}", headers)
        if answer.status != 200:
            await self._refused(answer, name, repo, headers)
        release = answer.decode(_Release)
        assets = {a.name: a for a in release.assets if a.state == "uploaded"}
        chosen = choose(tuple(assets), name.asset, f"The release {name.repo}@{release.tag_name or name.tag}")
        return Located(files=tuple(_file(assets[n], repo, token, answer.host) for n in chosen))

    async def _refused(self, answer: Answer, name: ReleaseName, repo: str, headers: Mapping[str, str]) -> None:
        """Raises for what is not there, telling a repository from a tag."""
        if answer.status != 404:
            self._denied(answer, name)
        there = await ask(repo, headers)
        if there.status == 200:
            listed = await ask(f"{repo}/releases?per_page=30", headers)
            tags = [r.tag_name for r in listed.decode(tuple[_Release, ...])] if listed.status == 200 else []
            if not tags:
                raise NotFound(f"The repository {name.repo} has no releases.", mend="A tag alone has no files.")
            raise NotFound(
                f"The repository {name.repo} has no release {name.tag!r}.", mend=did_you_mean(name.tag, tags)
            )
        if there.status != 404:
            self._denied(there, name)
        who = "the token given may not read it" if "Authorization" in headers else "no token was given"
        raise RbeeError(
            f"There is no repository {name.repo} at {answer.host}, or it is private and {who}.",
            code="model_private_or_missing",
            mend=f"Check the name; for a private one {self._account.token_advice}.",
        )

    def _denied(self, answer: Answer, name: ReleaseName) -> NoReturn:
        limited = answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers
        if answer.status == 429 or (answer.status == 403 and limited):
            wait = _wait(answer.headers, time.time())
            raise Unavailable(
                f"{answer.host} was asked too often; it answers again in {max(1, round(wait / 60))} min.",
                code="rate_limited",
                mend=f"Wait, or {self._account.token_advice}: then it allows more.",
                retry_after=wait,
            )
        if answer.status == 401:
            raise Unauthorized(f"{answer.host} refuses the token.", mend="Make a new one and put it in place.")
        if answer.status == 403:
            raise Unauthorized(
                f"{answer.host} does not let this token read {name.repo}.",
                mend="It may need a single sign-on, or the permission to read contents.",
            )
        raise RbeeError(f"{answer.host} answers {answer.status} for {name.repo}.", code="bad_answer")


def _wait(headers: Mapping[str, str], now: float) -> float:
    """Seconds until the server answers again, as far as it says; a minute otherwise, never more than an hour."""
    after, reset = headers.get("retry-after", ""), headers.get("x-ratelimit-reset", "")
    if after.isdigit() and len(after) < 6:
        return min(float(after), 3600.0)
    if reset.isdigit() and len(reset) < 12:
        return min(max(float(reset) - now, 1.0), 3600.0)
    return 60.0


def choose(names: Sequence[str], asked: str | None, where: str) -> tuple[str, ...]:
    """The assets that are meant: one by its name or a pattern, or the only model there; all parts of a split one.

    Raises NotFound, InvalidRequest.
    """
    if asked is None:
        able = [n for n in names if model_files.is_weights(n)]
    elif asked in names:
        able = [asked]
    else:
        able = [n for n in names if fnmatchcase(n, asked)]
    heads = list(dict.fromkeys(model_files.head(n) for n in able))
    ggufs = sorted(n for n in names if model_files.is_gguf(n))
    if not heads:
        what = "no GGUF file" if asked is None else f"no asset {asked!r}"
        mend = did_you_mean(asked, ggufs) if asked else f"It has: {', '.join(sorted(names)[:12])}." if names else ""
        raise NotFound(f"{where} has {what}.", mend=mend)
    if len(heads) > 1:
        raise InvalidRequest(
            f"{where} has several that could be meant: {', '.join(sorted(heads)[:12])}.",
            mend="Add the one you want: GH:OWNER/REPO@TAG/FILE.gguf.",
        )
    return model_files.whole(heads[0], names, where)


def _file(asset: _Asset, repo: str, token: str | None, host: str) -> SourceFile:
    """With a token the API serves the bytes, so that those of a private repository come too; else the public link."""
    headers: dict[str, str] = {}
    if token:
        url = f"{repo}/releases/assets/{asset.id}"
        headers = {"Accept": "application/octet-stream", "Authorization": f"Bearer {token}", "User-Agent": "rbee"}
    else:
        url = asset.browser_download_url
        if urlsplit(url).scheme not in ("http", "https"):
            raise RbeeError(f"{host} names no place to get {asset.name!r} from.", code="bad_answer")
    return SourceFile(
        filename=safe_filename(asset.name),
        url=url,
        size=said_size(asset.size, host),
        sha256=said_sha256(asset.digest, host),
        headers=headers,
    )
