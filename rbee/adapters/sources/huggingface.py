# SPDX-License-Identifier: GPL-3.0-or-later
"""Models from Hugging Face, or a mirror of it: `hf:ORG/REPO[/FILE.gguf][:QUANTIZATION]`.

One listing tells the commit and the name, size and SHA-256 of every file at it; the bytes come through `fetch` like
any URL's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from rbee.adapters.sources.account import Account
from rbee.adapters.sources.ask import Answer, ask
from rbee.adapters.sources.base import Located, SourceFile, safe_filename, said_sha256, said_size
from rbee.core import model_files
from rbee.core.errors import NotFound, RbeeError, Unauthorized, Unavailable
from rbee.core.problems import did_you_mean
from rbee.core.sources import HubName, SourceProvider, parse_hub, rest_of, supports

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lfs:
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sibling:
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Info:
    """`GET /api/models/REPO/revision/REV?blobs=true`, as much of it as is used."""

    sha: str | None = None
    #: False, `auto` or `manual`.
    gated: bool | str | None = None
    siblings: tuple[_Sibling, ...] = ()


class HuggingFace:
    """A hub, by its provider file."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title
        self._account = Account(provider, config_dir, DEFAULT_ENDPOINT)

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """Asks the hub once, and once more whether a gated repository may be read. Codes: not_found, model_gated,
        model_private_or_missing, unauthorized, unavailable, unreachable, bad_answer."""
        name = parse_hub(rest_of(self.provider, source))
        endpoint, token = self._account.endpoint, await self._account.token()
        asked = _Asked(self._account, endpoint, name.repo, revision or "main", token)
        info = await asked.listing()
        there = {s.rfilename: s for s in info.siblings if _harmless(s.rfilename)}
        paths, form = _select(name, tuple(there), f"{name.repo} at {revision or 'main'}")
        commit = info.sha if info.sha and re.fullmatch(r"[0-9a-f]{40,64}", info.sha) else None
        asked = replace(asked, revision=commit or asked.revision)
        if info.gated:
            await asked.may_read(paths[0])
        files = tuple(asked.file(there[p]) for p in paths)
        return Located(files=files, format="mlc" if form == "mlc" else "gguf", commit=commit)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question to a hub."""

    account: Account
    endpoint: str
    repo: str
    revision: str
    token: str | None

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def listing(self) -> _Info:
        url = f"{self.endpoint}/api/models/{self.repo}/revision/{quote(self.revision, safe='')}?blobs=true"
        answer = await ask(url, self.headers)
        if answer.status != 200:
            self.refused(answer)
        return answer.decode(_Info)

    async def may_read(self, path: str) -> None:
        """A gated repository is listed for everybody, and read by those who accepted its terms."""
        answer = await ask(self.url(path), self.headers, method="HEAD", follow=False)
        if answer.status >= 400:
            self.refused(answer)

    def url(self, path: str) -> str:
        return f"{self.endpoint}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(path)}"

    def file(self, said: _Sibling) -> SourceFile:
        """For a small file the hub knows no SHA-256."""
        lfs = said.lfs or _Lfs()
        return SourceFile(
            filename=safe_filename(said.rfilename),
            url=self.url(said.rfilename),
            size=said_size(lfs.size if lfs.size is not None else said.size, self.endpoint),
            sha256=said_sha256(lfs.sha256, self.endpoint),
            headers=self.headers,
        )

    def refused(self, answer: Answer) -> NoReturn:
        """The hub says why in headers; a mirror may not."""
        code, message = answer.headers.get("x-error-code"), answer.headers.get("x-error-message", "")
        repo, where, status = self.repo, f"{self.endpoint}/{self.repo}", answer.status
        if code == "GatedRepo":
            who = "The token given has no access to it." if self.token else "No token was given."
            mend = f"Accept its terms at {where} and {self.account.token_advice}."
            raise RbeeError(f"The repository {repo} is gated. {who}", code="model_gated", mend=mend)
        if code == "RevisionNotFound":
            raise NotFound(f"The repository {repo} has no revision {self.revision!r}.", mend=f"See {where}.")
        if code == "EntryNotFound":
            raise NotFound(f"The repository {repo} has no such file at {self.revision}.", mend=f"See {where}.")
        if status == 429:
            raise _too_often(answer, self.account)
        if self.token and (status == 403 or "Invalid credentials" in message or b"Invalid credentials" in answer.body):
            raise Unauthorized(f"{self.endpoint} refuses the token.", mend="Make a new one and put it in place.")
        if code == "RepoNotFound" or status in (401, 403, 404):
            who = "the token given may not read it" if self.token else "it is private, and no token was given"
            raise RbeeError(
                f"There is no repository {repo} at {self.endpoint}, or {who}.",
                code="model_private_or_missing",
                mend=f"Check the name; for a private one {self.account.token_advice}.",
            )
        raise RbeeError(f"{self.endpoint} answers {status} for {repo}.", code="bad_answer")


def _too_often(answer: Answer, account: Account) -> Unavailable:
    wait = answer.headers.get("retry-after", "")
    return Unavailable(
        f"{answer.host} was asked too often.",
        code="rate_limited",
        mend=f"Wait a few minutes; with a token it allows more: {account.token_advice}.",
        retry_after=min(float(wait), 3600.0) if wait.isdigit() and len(wait) < 6 else 60.0,
    )


def _harmless(path: str) -> bool:
    """Whether a listed name is of a file in the repository at all."""
    return path.isprintable() and "\\" not in path and not any(p in ("", ".", "..") for p in path.split("/"))


def _select(name: HubName, paths: Sequence[str], where: str) -> tuple[tuple[str, ...], str]:
    """The files that are meant, and their format. A named file is taken as it is; in a folder one is chosen."""
    parts = model_files.shards(name.path)
    if name.path in paths or any(p in paths for p in parts):
        return model_files.whole(name.path, paths, where), "gguf"
    folder = f"{name.path}/" if name.path else ""
    inside = [p for p in paths if p.startswith(folder)]
    if name.path and not inside:
        files = [p for p in paths if model_files.is_gguf(p)]
        raise NotFound(f"{where} has no file {name.path!r}.", mend=did_you_mean(name.path, files))
    flat = [p.removeprefix(folder) for p in inside if "/" not in p.removeprefix(folder)]
    # The same that plan guesses the format by.
    said_mlc = (name.path or name.repo).upper().endswith("-MLC") or not any(model_files.is_weights(p) for p in inside)
    if model_files.is_mlc(flat) and said_mlc and name.quantization is None:
        return tuple(folder + f for f in model_files.mlc_files(flat, where)), "mlc"
    return model_files.choose(inside, name.quantization, where), "gguf"
