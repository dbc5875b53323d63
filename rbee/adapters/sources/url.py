# SPDX-License-Identifier: GPL-3.0-or-later
"""Models from any web server: `https://host/path/model.gguf`, or any part of a split one."""

from __future__ import annotations

from pathlib import Path
from posixpath import basename
from urllib.parse import quote, urlsplit, urlunsplit

from rbee.adapters.sources.base import Located, SourceFile, safe_filename
from rbee.core import model_files
from rbee.core.sources import SourceProvider, parse_url, supports


class Url:
    """Plain HTTP and HTTPS. Nothing is asked before the download, which learns the size: a HEAD would be one more
    question that some servers answer wrongly."""

    def __init__(self, provider: SourceProvider, config_dir: Path) -> None:
        self.provider = provider
        self.name = provider.title

    def supports(self, source: str) -> bool:
        return supports(self.provider, source)

    async def locate(self, source: str, revision: str | None) -> Located:
        """The files by their names alone. Raises InvalidRequest."""
        name = basename(parse_url(source))
        names = model_files.shards(name)
        if len(names) == 1:
            return Located(files=(SourceFile(filename=safe_filename(name), url=source),))
        parts = urlsplit(source)
        folder = parts.path[: parts.path.rindex("/") + 1]
        urls = {n: urlunsplit(parts._replace(path=folder + quote(n))) for n in names}
        return Located(files=tuple(SourceFile(filename=safe_filename(n), url=u) for n, u in urls.items()))
