# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ollama source against a server that speaks the registry's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from rbee.adapters.sources import Source
from rbee.core.errors import RbeeError
from tests.support.ollama_server import MODEL, Registry, ollama_server
from tests.support.sources import give_token, source_at

WEIGHTS = b"GGUF of llama"
LAYERS = [
    (MODEL, WEIGHTS),
    ("application/vnd.ollama.image.template", b"{{ .Prompt }}"),
    ("application/vnd.ollama.image.license", b"free"),
]


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    models = {
        "library/llama3.2:latest": LAYERS,
        "library/llama3.2:1b": [*LAYERS, ("application/vnd.ollama.image.projector", b"mm")],
        "me/mine:7b": LAYERS,
        "library/tuned:latest": [*LAYERS, ("application/vnd.ollama.image.adapter", b"lora")],
        "library/tensors:latest": [("application/vnd.ollama.image.tensor", b"t")],
        "library/two:latest": [(MODEL, b"a"), (MODEL, b"b")],
    }
    async with ollama_server(models) as made:
        yield made


@pytest.fixture
def source(registry: Registry, tmp_path: Path) -> Source:
    return source_at("ollama", registry.url, tmp_path)


@pytest.mark.parametrize(
    ("text", "asked", "name"),
    [
        ("ollama:llama3.2", "library/llama3.2:latest", "llama3.2-latest.gguf"),
        ("ollama:llama3.2:1b", "library/llama3.2:1b", "llama3.2-1b.gguf"),
        ("OLLAMA:me/mine:7b", "me/mine:7b", "mine-7b.gguf"),
    ],
)
async def test_the_layer_that_is_the_model(
    registry: Registry, source: Source, text: str, asked: str, name: str
) -> None:
    located = await source.locate(text, None)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (file,) = located.files
    assert (file.filename, file.size, file.sha256) == (name, len(WEIGHTS), digest)
    assert file.url == f"{registry.url}/v2/{asked.partition(':')[0]}/blobs/sha256:{digest}"
    assert registry.seen == [("manifest", asked)]
    assert registry.accepts == ["application/vnd.docker.distribution.manifest.v2+json"]


@pytest.mark.parametrize("lists", [True, False])
async def test_a_missing_tag_is_told_from_a_missing_name(registry: Registry, source: Source, lists: bool) -> None:
    registry.lists_tags = lists
    with pytest.raises(RbeeError, match=r"The model llama3\.2 has no tag '1c'") as refused:
        await source.locate("ollama:llama3.2:1c", None)
    assert refused.value.code == "not_found"
    assert refused.value.mend == ("Known: 1b, latest." if lists else "Its page lists the tags it has.")
    with pytest.raises(RbeeError, match="has no model 'me/lama'") as refused:
        await source.locate("ollama:me/lama:7b", None)
    assert refused.value.code == "not_found"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ollama:tuned", "an adapter beside it"),
        ("ollama:tensors", "no GGUF files"),
        ("ollama:two", "2 GGUF files"),
    ],
)
async def test_models_that_are_no_one_gguf(source: Source, text: str, said: str) -> None:
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate(text, None)
    assert refused.value.code == "model_not_supported"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (lambda: web.Response(text="<html>"), "bad_answer", "answers a web page"),
        (lambda: web.Response(body=b'{"layers": [7]}'), "bad_answer", "never says"),
        (lambda: web.Response(body=b'{"layers": [{"mediaType": "%s"}]}' % MODEL.encode()), "bad_answer", "its digest"),
        (lambda: web.Response(status=401), "model_private_or_missing", "only to those who may"),
        (lambda: web.Response(status=429), "rate_limited", "too often"),
        (lambda: web.Response(status=410), "bad_answer", "answers 410"),
    ],
)
async def test_a_server_that_says_something_else(
    registry: Registry, source: Source, answer: Callable[[], web.Response], code: str, said: str
) -> None:
    registry.instead.append(answer())
    with pytest.raises(RbeeError, match=said) as refused:
        await source.locate("ollama:llama3.2", None)
    assert refused.value.code == code


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "md5:00", "sha256:" + "g" * 64])
async def test_a_digest_that_is_none(registry: Registry, source: Source, digest: str) -> None:
    registry.digest = digest
    with pytest.raises(RbeeError, match="no SHA-256") as refused:
        await source.locate("ollama:llama3.2", None)
    assert refused.value.code == "bad_answer"


async def test_a_refused_token(registry: Registry, source: Source, tmp_path: Path) -> None:
    give_token(tmp_path, "ollama-token", "secret-token")
    registry.instead.append(web.Response(status=401))
    with pytest.raises(RbeeError, match="refuses the token") as refused:
        await source.locate("ollama:llama3.2", None)
    assert refused.value.code == "unauthorized"
