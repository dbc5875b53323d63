# SPDX-License-Identifier: GPL-3.0-or-later
"""Models from any web server: `https://host/path/model.gguf`, or any part of a split one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from posixpath import basename
from urllib.parse import quote, urlsplit, urlunsplit

from rbee.adapters.sources.ask import ask
from rbee.adapters.sources.base import Located, SourceFile, safe_filename, said_size
from rbee.core import model_files
from rbee.core.errors import RbeeError
from rbee.core.sources import SourceProvider, parse_url, supports

#: Parts of one model that are asked for at once.
_AT_ONCE = 8


class Url:
    """Plain HTTP and HTTPS. Of one file nothing is asked before the download, which learns the size: a HEAD would be
    one more question that some servers answer wrongly. Of a split model it tells what is missing before the first of
    a hundred gigabytes comes."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """The files by their names; of several also which are there, where the server says so. Raises InvalidRequest,
        NotFound."""
        name = basename(parse_url(source))
        names = model_files.shards(name)
        if len(names) == 1:
            return Located(files=(SourceFile(filename=safe_filename(name), url=source),))
        parts = urlsplit(source)
        folder = parts.path[: parts.path.rindex("/") + 1]
        urls = {n: urlunsplit(parts._replace(path=folder + quote(n))) for n in names}
        sizes = await _sizes(urls)
        model_files.whole(name, [n for n in names if n in sizes], parts.hostname or "The server")
        return Located(
            files=tuple(SourceFile(filename=safe_filename(n), url=u, size=sizes[n]) for n, u in urls.items())
        )


async def _sizes(urls: Mapping[str, str]) -> dict[str, int | None]:
    """Of those that are there, by name; None for what the server does not tell. One that answers no such questions, or
    has none of them, is believed nothing: the download will see."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(url: str) -> tuple[bool, int | None]:
        async with free:
            answer = await ask(url, {"Accept-Encoding": "identity"}, method="HEAD")
        said = answer.headers.get("content-length", "")
        plain = answer.status == 200 and answer.headers.get("content-encoding", "identity") == "identity"
        size = said_size(int(said), answer.host) if plain and said.isdecimal() and len(said) < 19 else None
        return answer.status not in (404, 410), size or None

    unknown: dict[str, int | None] = dict.fromkeys(urls)
    try:
        # A server that does not know the question is not asked it a hundred times.
        first, *others = urls
        found = {first: await one(urls[first])}
        if found[first] != (True, None):
            found.update(zip(others, await asyncio.gather(*(one(urls[n]) for n in others)), strict=True))
    except RbeeError:
        return unknown
    here = {n: size for n, (there, size) in found.items() if there}
    return here if here and len(found) == len(urls) else unknown
