# SPDX-License-Identifier: GPL-3.0-or-later
"""The GitHub source against a server that speaks the releases' API."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from rbee.adapters.sources import Source
from rbee.core.errors import RbeeError, Unavailable
from tests.support.github_server import TOKEN, GitHubServer, github_server
from tests.support.sources import give_token, source_at

SPLIT = {f"m-0000{i}-of-00002.gguf": b"x" * i for i in (1, 2)}
RELEASES: dict[str, dict[str, dict[str, bytes]]] = {
    "me/one": {"v1": {"notes.txt": b"", "model.gguf": b"gguf", "mmproj.gguf": b"mm"}, "v2": {"new.gguf": b"new"}},
    "me/many": {"v1": {"a-Q4_0.gguf": b"a", "a-Q8_0.gguf": b"b"}, "x/y": {"slash.gguf": b"s"}, "split": SPLIT},
    "me/cut": {"v1": {"m-00001-of-00002.gguf": b"1"}},
    "me/empty": {},
    "me/texts": {"v1": {"notes.txt": b""}},
    "me/private": {"v1": {"model.gguf": b"secret"}},
    "me/evil": {"v1": {"../../../etc/x.gguf": b"e"}},
}


@pytest.fixture
async def github() -> AsyncIterator[GitHubServer]:
    async with github_server(RELEASES) as made:
        yield made


@pytest.fixture
def source(github: GitHubServer, tmp_path: Path) -> Source:
    return source_at("github", github.url, tmp_path)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("GH:me/one@v1", ["model.gguf"]),
        ("gh:me/one@latest", ["new.gguf"]),
        ("GH:me/one@v1/mmproj.gguf", ["mmproj.gguf"]),
        ("GH:me/many@v1/a-Q8_0.gguf", ["a-Q8_0.gguf"]),
        ("GH:me/many@v1/*Q4*", ["a-Q4_0.gguf"]),
        ("GH:me/many@x%2Fy", ["slash.gguf"]),
        ("GH:me/many@split", list(SPLIT)),
        ("GH:me/many@split/m-00002-of-00002.gguf", list(SPLIT)),
    ],
)
async def test_the_assets_that_are_meant(source: Source, text: str, files: list[str]) -> None:
    assert [f.filename for f in (await source.locate(text, None)).files] == files


async def test_sizes_digests_and_the_public_link(github: GitHubServer, source: Source) -> None:
    (file,) = (await source.locate("GH:me/one@v1", None)).files
    assert (file.size, file.sha256) == (4, hashlib.sha256(b"gguf").hexdigest())
    assert (file.url, dict(file.headers)) == (f"{github.url}/me/one/releases/download/v1/model.gguf", {})
    github.digests = False
    assert (await source.locate("GH:me/one@v1", None)).files[0].sha256 is None


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("GH:me/one@v3", "not_found", r"me/one has no release 'v3'. Known: v1, v2"),
        ("GH:me/empty@latest", "not_found", "me/empty has no releases"),
        ("GH:me/nothing@v1", "model_private_or_missing", r"no repository me/nothing .*no token was given"),
        ("GH:me/private@v1", "model_private_or_missing", "GITHUB|token"),
        ("GH:me/many@v1", "invalid_request", r"several that could be meant: a-Q4_0.gguf, a-Q8_0.gguf"),
        ("GH:me/many@v1/b-Q8_0.gguf", "not_found", r"no asset 'b-Q8_0.gguf'. Did you mean 'a-Q8_0.gguf'"),
        ("GH:me/texts@v1", "not_found", r"has no GGUF file. It has: notes.txt"),
        ("GH:me/cut@v1", "not_found", "m-00002-of-00002.gguf is missing"),
        ("GH:me/one", "invalid_request", "names no release"),
    ],
)
async def test_refusals_are_told_apart(source: Source, text: str, code: str, said: str) -> None:
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate(text, None)
    assert refused.value.code == code


async def test_with_a_token_the_bytes_come_from_the_api(github: GitHubServer, source: Source, tmp_path: Path) -> None:
    give_token(tmp_path, "github-token", TOKEN)
    (file,) = (await source.locate("GH:me/private@v1", None)).files
    assert file.url == f"{github.url}/repos/me/private/releases/assets/1"
    assert file.headers["Authorization"] == f"Bearer {TOKEN}"
    assert file.headers["Accept"] == "application/octet-stream"
    assert TOKEN not in repr(file)
    with pytest.raises(RbeeError, match="the token given may not read it"):
        await source.locate("GH:me/nothing@v1", None)
    give_token(tmp_path, "github-token", "ghp_wrong")
    with pytest.raises(RbeeError, match="refuses the token") as refused:
        await source.locate("GH:me/one@v1", None)
    assert refused.value.code == "unauthorized"


async def test_asked_too_often_is_not_private(github: GitHubServer, source: Source) -> None:
    github.limited = True
    with pytest.raises(Unavailable, match="asked too often; it answers again in 1 min") as refused:
        await source.locate("GH:me/one@v1", None)
    assert (refused.value.code, refused.value.retry_after) == ("rate_limited", 1.0)
    github.limited = False
    github.instead += [web.Response(status=404), web.Response(status=429, headers={"Retry-After": "90"})]
    with pytest.raises(Unavailable) as refused:
        await source.locate("GH:me/one@v1", None)
    assert refused.value.retry_after == 90.0
    github.instead.append(web.Response(status=403, text="{}"))
    with pytest.raises(RbeeError, match="does not let this token read") as forbidden:
        await source.locate("GH:me/one@v1", None)
    assert forbidden.value.code == "unauthorized"


def release(**asset: object) -> Callable[[], web.Response]:
    return lambda: web.json_response({"tag_name": "v1", "assets": [{"id": 1, "name": "m.gguf", **asset}]})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: web.Response(text="<!doctype html>"), "answers a web page"),
        (lambda: web.Response(body=b'{"assets": 7}'), "never says"),
        (release(id="../../x"), "never says"),
        (release(browser_download_url="file:///etc/passwd"), "names no place"),
        (release(browser_download_url="https://h/x", size=-1), "-1 bytes"),
        (release(browser_download_url="https://h/x", digest="sha256:7"), "no SHA-256"),
        (lambda: web.Response(status=418), "answers 418"),
    ],
)
async def test_a_server_that_says_what_github_never_says(
    github: GitHubServer, source: Source, answer: Callable[[], web.Response], said: str
) -> None:
    github.instead.append(answer())
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate("GH:me/one@v1", None)
    assert refused.value.code == "bad_answer"


async def test_names_never_leave_the_folder(source: Source) -> None:
    assert [f.filename for f in (await source.locate("GH:me/evil@v1", None)).files] == ["x.gguf"]


async def test_an_unfinished_upload_is_no_asset(github: GitHubServer, source: Source) -> None:
    github.instead.append(release(state="starter")())
    with pytest.raises(RbeeError, match="no GGUF file"):
        await source.locate("GH:me/one@v1", None)
