# SPDX-License-Identifier: GPL-3.0-or-later
"""Models from any web server: `https://host/path/model.gguf`."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from rbee.adapters.sources.base import Located, SourceFile, safe_filename
from rbee.core.errors import InvalidRequest


class Url:
    """Plain HTTP and HTTPS. Size and digest are not known before the download."""

    name = "URL"

    def supports(self, source: str) -> bool:
        return source.startswith(("http://", "https://"))

    async def locate(self, source: str, revision: str | None) -> Located:
        parts = urlsplit(source)
        if not parts.hostname:
            raise InvalidRequest(f"The URL {source!r} names no host.")
        return Located(files=(SourceFile(filename=safe_filename(unquote(parts.path)), url=source),))
