# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hugging Face source against a server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import huggingface_hub
import pytest
from aiohttp import web

from rbee.adapters.sources import Located, Source
from rbee.adapters.sources.ask import MAX_BYTES
from rbee.core.errors import RbeeError
from tests.support.files_server import file_server
from tests.support.hub_server import COMMIT, TOKEN, Hub, hub_server
from tests.support.sources import give_token, source_at

FILES = {
    "README.md": b"# many",
    "m-Q2_K.gguf": b"q2",
    "m-Q4_K_M.gguf": b"q4km",
    "mmproj-m-F16.gguf": b"mm",
    "BF16/m-BF16-00001-of-00002.gguf": b"bf1",
    "BF16/m-BF16-00002-of-00002.gguf": b"bf22",
    "a b/c.gguf": b"spaces",
}
CUT = {"m-00001-of-00003.gguf": b"1", "m-00003-of-00003.gguf": b"3"}
MLC = {
    "mlc-chat-config.json": b"{}",
    "ndarray-cache.json": b"{}",
    "tensor-cache.json": b"{}",
    "params_shard_0.bin": b"p0",
    "params_shard_1.bin": b"p11",
    "tokenizer.json": b"{}",
    "README.md": b"",
    "logs.txt": b"",
}
EVIL = {"../../etc/x.gguf": b"x", "a/../../y.gguf": b"y", "/abs.gguf": b"z", "b\\..\\c.gguf": b"w", "d\n.gguf": b"n"}


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    mlc = {"sub-MLC/" + name: data for name, data in MLC.items()} | {"sub-MLC/x-Q8_0.gguf": b"g"}
    repos = {"many": FILES, "cut": CUT, "x-MLC": MLC, "x": MLC, "both": mlc, "evil": EVIL, "none": {"a.bin": b""}}
    async with hub_server(b"GGUF", **repos) as made:
        yield made


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> Source:
    return source_at("huggingface", hub.url, tmp_path)


def names(located: Located) -> list[str]:
    return [f.filename for f in located.files]


async def test_one_listing_pinned_to_its_commit(hub: Hub, source: Source) -> None:
    located = await source.locate("hf:org/many/m-Q2_K.gguf", None)
    (file,) = located.files
    assert (file.size, file.sha256) == (2, hashlib.sha256(b"q2").hexdigest())
    assert file.url == f"{hub.url}/org/many/resolve/{COMMIT}/m-Q2_K.gguf"
    assert (located.commit, located.format, located.size, dict(file.headers)) == (COMMIT, "gguf", 2, {})
    assert hub.seen == [("LIST", "many@main")]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("hf:org/many", ["m-Q4_K_M.gguf"]),
        ("org/many", ["m-Q4_K_M.gguf"]),
        ("HF:org/many:q2_k", ["m-Q2_K.gguf"]),
        ("hf:org/many:BF16", ["m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"]),
        ("hf:org/many/BF16", ["m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"]),
        ("hf:org/many/BF16/m-BF16-00002-of-00002.gguf", ["m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"]),
        ("hf:org/many/a b/c.gguf", ["c.gguf"]),
        ("hf:org/many/mmproj-m-F16.gguf", ["mmproj-m-F16.gguf"]),
        ("hf:org/renamed", ["model.gguf"]),
    ],
)
async def test_the_files_that_are_meant(source: Source, text: str, files: list[str]) -> None:
    assert names(await source.locate(text, None)) == files


async def test_spaces_and_slashes_are_quoted_in_urls(hub: Hub, source: Source) -> None:
    located = await source.locate("hf:org/many/a b/c.gguf", "v1")
    assert located.files[0].url == f"{hub.url}/org/many/resolve/{COMMIT}/a%20b/c.gguf"
    with pytest.raises(RbeeError, match="no revision 'a/b'"):
        await source.locate("hf:org/many", "a/b")
    assert hub.seen[-1] == ("LIST", "many@a/b")


@pytest.mark.parametrize(
    ("text", "folder"), [("hf:org/x-MLC", ""), ("hf:org/x", ""), ("hf:org/both/sub-MLC", "sub-MLC/")]
)
async def test_an_mlc_repository_with_all_its_files(hub: Hub, source: Source, text: str, folder: str) -> None:
    located = await source.locate(text, None)
    assert located.format == "mlc"
    assert names(located) == [
        *("mlc-chat-config.json", "ndarray-cache.json", "params_shard_0.bin", "params_shard_1.bin"),
        *("tensor-cache.json", "tokenizer.json"),
    ]
    by_name = {f.filename: f for f in located.files}
    assert by_name["params_shard_1.bin"].sha256 == hashlib.sha256(b"p11").hexdigest()
    assert by_name["tokenizer.json"].sha256 is None
    assert str(by_name["tokenizer.json"].url).endswith(f"/{COMMIT}/{folder}tokenizer.json")
    assert located.size == 5 + 4 * 2


async def test_a_gguf_beside_an_mlc_model_is_asked_for_by_its_quantization(source: Source) -> None:
    assert names(await source.locate("hf:org/both/sub-MLC:Q8_0", None)) == ["x-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("text", "revision", "code", "said"),
    [
        ("hf:org/many:Q8_0", None, "not_found", r"many at main has no Q8_0; it has BF16, Q2_K, Q4_K_M"),
        ("hf:org/many:Q4_K_N", None, "not_found", r"Did you mean 'Q4_K_M'\?"),
        ("hf:org/many/m-Q4_K_S.gguf", None, "not_found", r"no file 'm-Q4_K_S.gguf'. Did you mean 'm-Q4_K_M.gguf'\?"),
        ("hf:org/cut/m-00002-of-00003.gguf", None, "not_found", r"2 of the 3 parts of 'm': m-00002-of-00003.gguf is"),
        ("hf:org/cut", None, "not_found", r"m-00002-of-00003.gguf is missing"),
        ("hf:org/none", None, "not_found", "has no GGUF file"),
        ("hf:org/evil", None, "not_found", "has no GGUF file"),
        ("hf:org/gated", None, "model_gated", r"No token was given. Accept its terms at http://.*/org/gated and give"),
        ("hf:org/private", None, "model_private_or_missing", "it is private, and no token was given"),
        ("hf:org/nothing", None, "model_private_or_missing", "There is no repository org/nothing"),
        ("hf:org/open", "v9", "not_found", "no revision 'v9'"),
        ("hf:org", None, "invalid_request", "names no repository"),
    ],
)
async def test_refusals_are_told_apart(source: Source, text: str, revision: str | None, code: str, said: str) -> None:
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate(text, revision)
    assert refused.value.code == code


async def test_a_token_opens_what_is_gated_and_private(hub: Hub, source: Source, tmp_path: Path) -> None:
    give_token(tmp_path, "hf-token", TOKEN)
    for repo in ("gated", "private"):
        located = await source.locate(f"hf:org/{repo}", None)
        assert located.files[0].headers == {"Authorization": f"Bearer {TOKEN}"}
        assert TOKEN not in repr(located)
    assert ("HEAD", f"gated@{COMMIT}") in hub.seen
    with pytest.raises(RbeeError, match="the token given may not read it"):
        await source.locate("hf:org/nothing", None)
    give_token(tmp_path, "hf-token", "hf_wrong")
    with pytest.raises(RbeeError, match="refuses the token") as refused:
        await source.locate("hf:org/open", None)
    assert refused.value.code == "unauthorized"
    assert "hf_wrong" not in str(refused.value)


def listing(**said: object) -> Callable[[], web.Response]:
    return lambda: web.json_response({"sha": COMMIT, "siblings": [{"rfilename": "m.gguf", "size": 1}], **said})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: web.Response(text="<html>log in</html>", content_type="text/html"), "answers a web page"),
        (lambda: web.Response(body=b'{"siblings": '), "never says"),
        (lambda: web.Response(body=b"[" * 200_000), "never says"),
        (lambda: web.Response(body=b"\xff\xfe{}"), "never says"),
        (listing(siblings=[{"rfilename": 7}]), "never says"),
        (listing(siblings={"m.gguf": 1}), "never says"),
        (listing(siblings=[{"rfilename": "m.gguf", "size": -5}]), "-5 bytes"),
        (listing(siblings=[{"rfilename": "m.gguf", "lfs": {"sha256": "../../x"}}]), "no SHA-256"),
        (lambda: web.Response(body=b" " * (MAX_BYTES + 1)), "answers more than 16 MB"),
        (lambda: web.Response(status=302, headers={"Location": "/api/models/org/open/revision/main"}), None),
        (lambda: web.Response(status=302, headers={"Location": "ftp://x"}), "sends elsewhere"),
        (lambda: web.Response(status=418), "answers 418"),
    ],
)
async def test_a_server_that_says_what_no_hub_says(
    hub: Hub, source: Source, answer: Callable[[], web.Response], said: str | None
) -> None:
    hub.instead.append(answer())
    if said is None:
        assert names(await source.locate("hf:org/open", None)) == ["model.gguf"]
        return
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate("hf:org/open", None)
    assert refused.value.code == "bad_answer"
    assert len(str(refused.value)) < 1000


async def test_without_a_true_commit_the_revision_stands(hub: Hub, source: Source) -> None:
    hub.instead.append(listing(sha="../../evil")())
    located = await source.locate("hf:org/open", "v1")
    assert (located.commit, located.files[0].url) == (None, f"{hub.url}/org/open/resolve/v1/m.gguf")


async def test_hiccups_are_asked_again_and_limits_are_told(hub: Hub, source: Source) -> None:
    hub.instead += [web.Response(status=503), web.Response(status=502)]
    assert names(await source.locate("hf:org/open", None)) == ["model.gguf"]
    hub.instead.append(web.Response(status=429, headers={"Retry-After": "120"}))
    with pytest.raises(RbeeError, match="asked too often") as refused:
        await source.locate("hf:org/open", None)
    assert refused.value.code == "rate_limited"
    hub.instead += [web.Response(status=500) for _ in range(3)]
    with pytest.raises(RbeeError, match="answers 500") as refused:
        await source.locate("hf:org/open", None)
    assert refused.value.code == "unreachable"


async def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    async with file_server(b"") as gone:
        url = gone.url
    with pytest.raises(RbeeError, match="cannot be reached") as refused:
        await source_at("huggingface", url, tmp_path).locate("hf:org/open", None)
    assert refused.value.code == "unreachable"


async def test_a_token_stays_with_its_host(hub: Hub, source: Source, tmp_path: Path) -> None:
    give_token(tmp_path, "hf-token", TOKEN)
    elsewhere = hub.url.replace("127.0.0.1", "localhost")
    hub.instead.append(web.Response(status=307, headers={"Location": f"{elsewhere}/api/models/org/open/revision/main"}))
    await source.locate("hf:org/open", None)
    assert hub.tokens == [f"Bearer {TOKEN}", None]


async def test_the_server_here_speaks_as_the_hubs_own_client_hears(hub: Hub) -> None:
    """What the tests' server says is what `huggingface_hub` understands: the same commit, files and digests."""
    import asyncio

    api = huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN)
    info = await asyncio.to_thread(api.model_info, "org/many", revision="main", files_metadata=True)
    assert info.sha == COMMIT
    assert info.siblings is not None
    said = {s.rfilename: (s.size, s.lfs.sha256 if s.lfs else None) for s in info.siblings}
    assert said["m-Q2_K.gguf"] == (2, hashlib.sha256(b"q2").hexdigest())
    assert json.dumps(said)
    huggingface_hub.close_session()
