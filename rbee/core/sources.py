# SPDX-License-Identifier: GPL-3.0-or-later
"""What the text of a model's source says, and what a source provider's file says (`providers/sources/*.yaml`). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from posixpath import basename
from typing import Annotated, Literal, get_args
from urllib.parse import unquote, urlsplit

from rbee.core.doc import Doc
from rbee.core.errors import InvalidRequest
from rbee.core.model_files import is_quantization, stem
from rbee.core.problems import did_you_mean
from rbee.core.spec_words import NAME

Protocol = Literal["huggingface", "ollama", "github", "url", "local", "builtin"]
PREFIX = r"^[a-z][a-z0-9+.-]*:$"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProvider:
    """A place that models come from: which texts are of it, which protocol it speaks, and where its token is.

    A mirror of your own is one such file with a protocol that rbee speaks.
    """

    kind: Literal["source"]
    name: Annotated[str, Doc("Its name, unique among sources.", pattern=NAME)]
    title: Annotated[str, Doc("Its name for people.", min_length=1)]
    summary: Annotated[str, Doc("One line for people.")]
    protocol: Annotated[Protocol, Doc("What it speaks.")]
    prefixes: Annotated[
        tuple[str, ...],
        Doc(
            "Beginnings of the texts that are of it, each in small letters with a colon; capitals are taken too.",
            min_items=1,
            example=["corp:"],
        ),
    ]
    bare: Annotated[bool, Doc("Whether ORG/REPO without any prefix is of it; one source may say so.")] = False
    forms: Annotated[tuple[str, ...], Doc("How its texts are written, for messages.")] = ()
    endpoint: Annotated[
        str | None,
        Doc("Where it answers; its protocol's own place when left out.", pattern=r"^https?://[^/?#@\s]+(/[^?#\s]*)?$"),
    ] = None
    endpoint_env: Annotated[
        str | None, Doc("Variable of the hive's environment that says another endpoint.", min_length=1)
    ] = None
    token_file: Annotated[
        str | None,
        Doc("File (mode 0600) with its token on the hive's machine; relative to ~/.config/rbee.", min_length=1),
    ] = None
    token_env: Annotated[
        tuple[str, ...], Doc("Variables of the hive's environment that may hold its token, when there is no file.")
    ] = ()
    hub_login: Annotated[
        bool, Doc("Also use the token that `hf auth login` keeps. Only for a place that may see it.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """`ORG/REPO[/PATH][:QUANTIZATION]`; the path is of a file or a folder."""

    repo: str
    path: str = ""
    quantization: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaName:
    """`[USER/]NAME[:TAG]`."""

    user: str = "library"
    name: str
    tag: str = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseName:
    """`OWNER/REPO@TAG[/ASSET]`; the asset may be a pattern (`*Q4_K_M*`)."""

    repo: str
    tag: str
    asset: str | None = None


_WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HUB = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?P<path>(?:/[^/:]+)*)/?(?::(?P<quantization>{_WORD}))?")
_OLLAMA = re.compile(rf"(?:(?P<user>{_WORD})/)?(?P<name>{_WORD})(?::(?P<tag>{_WORD}))?")
_RELEASE = re.compile(rf"(?P<repo>{_WORD}/{_WORD})@(?P<tag>[^/\s]+)(?:/(?P<asset>[^/\s]+))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def provider_of(source: str, providers: Iterable[SourceProvider]) -> SourceProvider | None:
    """Whose text it is, decided by its beginning alone: the longest prefix, else (`ORG/REPO...`) the bare one."""
    named = [p for p in providers for prefix in p.prefixes if source.lower().startswith(prefix)]
    if named:
        return max(named, key=lambda p: max(len(x) for x in p.prefixes if source.lower().startswith(x)))
    if not is_bare(source):
        return None
    return next((p for p in providers if p.bare), None)


def supports(provider: SourceProvider, source: str) -> bool:
    """Whether a text begins as those of a provider do."""
    return source.lower().startswith(provider.prefixes) or (provider.bare and is_bare(source))


def is_bare(source: str) -> bool:
    """Whether a text is `ORG/REPO...` with no prefix. A path (`./x`, `/x`, `~/x`, `models/x.gguf`) is none."""
    found = _HUB.fullmatch(source)
    return found is not None and not found["repo"].lower().endswith(".gguf")


def rest_of(provider: SourceProvider, source: str) -> str:
    """The text without its prefix."""
    found = [p for p in provider.prefixes if source.lower().startswith(p)]
    return source[len(max(found, key=len)) :] if found else source


def unknown(source: str, providers: Iterable[SourceProvider]) -> tuple[str, str]:
    """What is wrong with a text that no provider has, and how to mend it."""
    ways = sorted(providers, key=lambda p: get_args(Protocol).index(p.protocol))
    scheme = _SCHEME.match(source)
    forms = ", ".join(form for p in ways for form in p.forms[:1])
    near = did_you_mean(scheme[0].lower(), [x for p in ways for x in p.prefixes]) if scheme else ""
    if not near.startswith("Did"):
        near = ""
    if not scheme and (source.startswith((".", "/", "~")) or source.lower().endswith(".gguf")):
        near = f"Did you mean 'file:{source}'?"
    return f"{source!r} is no source of models.", " ".join(t for t in (near, f"Write {forms}." if forms else "") if t)


def parse_hub(rest: str) -> HubName:
    """Raises InvalidRequest when it names no repository, or both a file and a quantization."""
    found = _HUB.fullmatch(rest)
    path = found["path"].strip("/") if found else ""
    if found is None or _climbs(path) or set(found["repo"].split("/")) & {".", ".."}:
        raise InvalidRequest(
            f"{rest!r} names no repository and no file of one.",
            mend="Write ORG/REPO, ORG/REPO:Q4_K_M or ORG/REPO/FILE.gguf, as the repository's page has it.",
        )
    quantization = found["quantization"]
    if quantization and path.lower().endswith(".gguf"):
        raise InvalidRequest(f"{rest!r} names a file and a quantization.", mend="Remove one of them.")
    return HubName(repo=found["repo"], path=path, quantization=quantization)


def parse_ollama(rest: str) -> OllamaName:
    """Raises InvalidRequest when it is no name of Ollama's."""
    found = _OLLAMA.fullmatch(rest)
    if found is None:
        raise InvalidRequest(f"{rest!r} is no name of a model.", mend="Write NAME, NAME:TAG or USER/NAME:TAG.")
    return OllamaName(**{k: v for k, v in found.groupdict().items() if v})


def parse_release(rest: str) -> ReleaseName:
    """Raises InvalidRequest when it names no release. A `/` in a tag is written %2F."""
    found = _RELEASE.fullmatch(rest)
    if found is None:
        raise InvalidRequest(
            f"{rest!r} names no release.",
            mend="Write OWNER/REPO@TAG, OWNER/REPO@TAG/FILE.gguf, or @latest for the tag.",
        )
    return ReleaseName(repo=found["repo"], tag=unquote(found["tag"]), asset=found["asset"])


def check(provider: SourceProvider, source: str) -> None:
    """That a text says something in its provider's way. Raises InvalidRequest, in the words that a download uses."""
    rest = rest_of(provider, source)
    if provider.protocol == "huggingface":
        parse_hub(rest)
    elif provider.protocol == "ollama":
        parse_ollama(rest)
    elif provider.protocol == "github":
        parse_release(rest)
    elif provider.protocol == "url":
        parse_url(source)


def parse_url(source: str) -> str:
    """The path of a URL, unquoted. Raises InvalidRequest when it has no host or no file, or is a page about one."""
    try:
        parts = urlsplit(source)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise InvalidRequest("The URL names no host.", mend="Write https://HOST/PATH/FILE.gguf.")
    page = re.fullmatch(r"/([^/]+/[^/]+)/blob/[^/]+/(.+)", parts.path)
    if page and host in ("huggingface.co", "hf.co", "www.huggingface.co"):
        raise InvalidRequest(
            "The URL is of the page about a file, not of the file.", mend=f"Write hf:{page[1]}/{unquote(page[2])}."
        )
    if not parts.path.strip("/"):
        raise InvalidRequest("The URL names no file.", mend="Write https://HOST/PATH/FILE.gguf.")
    return unquote(parts.path)


def _climbs(path: str) -> bool:
    return any(part in (".", "..") or "\\" in part or not part.isprintable() for part in path.split("/"))


def default_id(source: str) -> str:
    """The id a model gets when none is given: the file's or the repository's name, with the quantization or tag.

    Always one harmless name of at most 120 characters. Raises InvalidRequest when nothing of a name is in the text.
    """
    made = re.sub(r"[^A-Za-z0-9._:+@-]+", "-", _name(source)).lstrip(".-:+@_")[:120].rstrip(".-:+@")
    if not made:
        raise InvalidRequest(f"No name can be made from source {source!r}.", mend="Give a model id.")
    return made


def _name(source: str) -> str:
    if "://" in source:
        # Not parsed as a URL, which may raise: what counts is between the host and the query.
        return stem(
            unquote(re.split(r"[?#]", source.partition("://")[2].partition("/")[2])[0]).replace("\\", "/").rstrip("/")
        )
    scheme = _SCHEME.match(source)
    rest = (source[scheme.end() :] if scheme and "/" not in scheme[0] else source).replace("\\", "/").rstrip("/")
    release = _RELEASE.fullmatch(rest)
    if release:
        asset = release["asset"] or ""
        return stem(asset) if asset and not re.search(r"[*?\[]", asset) else basename(release["repo"])
    last = basename(rest)
    name, colon, tag = last.rpartition(":")
    if colon and is_quantization(tag):
        return f"{_plain(name)}-{tag}"
    return last if colon and not last.lower().endswith(".gguf") else _plain(last)


def _plain(name: str) -> str:
    """Without what only says that it is a GGUF: `Repo-GGUF`, `file.gguf`."""
    return re.sub(r"[-_.]GGUF$", "", stem(name), flags=re.IGNORECASE)


def used_twice(providers: Mapping[str, SourceProvider], new: SourceProvider) -> tuple[str, str] | None:
    """What of a new provider another one has already, and that one's name; None when nothing is."""
    for other in providers.values():
        both = [p for p in new.prefixes if p in other.prefixes]
        if both:
            return f"The prefix {both[0]!r}", other.name
        if new.bare and other.bare:
            return "ORG/REPO without a prefix", other.name
    return None
