# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of Ollama's registry: `ollama:NAME[:TAG]`, `ollama:USER/NAME:TAG`.

The registry speaks the protocol of container registries: a manifest lists layers, and one of them is the GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee.adapters.sources.account import Account
from rbee.adapters.sources.ask import Answer, ask
from rbee.adapters.sources.base import Located, SourceFile, safe_filename, said_sha256, said_size
from rbee.core.errors import NotFound, RbeeError, Unauthorized, Unavailable
from rbee.core.problems import did_you_mean
from rbee.core.sources import OllamaName, SourceProvider, parse_ollama, rest_of, supports

DEFAULT_ENDPOINT = "https://registry.ollama.ai"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MODEL_LAYER = "application/vnd.ollama.image.model"
ADAPTER_LAYER = "application/vnd.ollama.image.adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    mediaType: str = ""
    digest: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    layers: tuple[_Layer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tags:
    tags: tuple[str, ...] | None = None


class Ollama:
    """A registry, by its provider file."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title
        self._account = Account(provider, config_dir, DEFAULT_ENDPOINT)

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """Asks for the manifest; for one that is not there, why. Codes: not_found, model_private_or_missing,
        unauthorized, unavailable, unreachable, bad_answer."""
        name = parse_ollama(rest_of(self.provider, source))
        token = await self._account.token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        base = f"{self._account.endpoint}/v2/{name.user}/{name.name}"
        answer = await ask(f"{base}/manifests/{name.tag}", {**headers, "Accept": MANIFEST})
        if answer.status != 200:
            await self._refused(answer, name, base, headers)
        layer = _model_layer(answer.decode(_Manifest).layers, f"{name.name}:{name.tag}")
        digest = said_sha256(layer.digest, answer.host)
        if digest is None:
            raise RbeeError(f"{answer.host} lists the model without its digest.", code="bad_answer")
        found = SourceFile(
            filename=safe_filename(f"{name.name}-{name.tag}.gguf"),
            url=f"{base}/blobs/sha256:{digest}",
            size=said_size(layer.size, answer.host),
            sha256=digest,
            headers=headers,
        )
        return Located(files=(found,))

    async def _refused(self, answer: Answer, name: OllamaName, base: str, headers: Mapping[str, str]) -> None:
        """Raises for what is not there, telling a name from a tag."""
        shown = name.name if name.user == "library" else f"{name.user}/{name.name}"
        if answer.status == 429:
            raise Unavailable(f"{answer.host} was asked too often.", code="rate_limited", mend="Wait a few minutes.")
        if answer.status in (401, 403):
            if headers:
                raise Unauthorized(f"{answer.host} refuses the token.", mend="Put a valid one in place.")
            raise RbeeError(
                f"{answer.host} shows {shown} only to those who may see it.",
                code="model_private_or_missing",
                mend=f"Check the name; for a private one {self._account.token_advice}.",
            )
        if answer.status != 404:
            raise RbeeError(f"{answer.host} answers {answer.status} for {shown}:{name.tag}.", code="bad_answer")
        tags = await _tags(base, headers)
        if tags is None:
            raise NotFound(f"{answer.host} has no model {shown!r}.", mend="Check its name on the registry's page.")
        raise NotFound(
            f"The model {shown} has no tag {name.tag!r}.",
            mend=did_you_mean(name.tag, tags) or "Its page lists the tags it has.",
        )


async def _tags(base: str, headers: Mapping[str, str]) -> list[str] | None:
    """The tags of a model; empty when it is there and the registry lists none; None when it is not there.

    Ollama's own registry does not list tags: there, a model that has `latest` is known to exist.
    """
    listed = await ask(f"{base}/tags/list", headers)
    if listed.status == 200:
        try:
            return list(listed.decode(_Tags).tags or ())
        except RbeeError:
            pass
    latest = await ask(f"{base}/manifests/latest", {**headers, "Accept": MANIFEST})
    return [] if latest.status == 200 else None


def _model_layer(layers: tuple[_Layer, ...], shown: str) -> _Layer:
    if any(layer.mediaType == ADAPTER_LAYER for layer in layers):
        raise RbeeError(
            f"{shown} is a model with an adapter beside it, which rbee does not run.",
            code="model_not_supported",
            mend="Choose one whose weights are one file.",
        )
    found = [layer for layer in layers if layer.mediaType == MODEL_LAYER]
    if len(found) != 1:
        raise RbeeError(
            f"{shown} has {len(found) or 'no'} GGUF files in the registry, not one.",
            code="model_not_supported",
            mend="Some names are of models that run in Ollama's cloud, or of another format: choose another tag.",
        )
    return found[0]
