# SPDX-License-Identifier: GPL-3.0-or-later
"""The port of model sources: text in rbee.yaml to something that can be fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rbee.core.errors import RbeeError
from rbee.core.model_files import safe_filename

__all__ = ["Located", "Source", "SourceFile", "safe_filename", "said_sha256", "said_size"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a model: either a `url` to download or a `path` on this machine.

    `filename` is one harmless path component. `size`, `sha256` and `md5` are what the source itself says of the file,
    when it does. `headers` may hold a secret: they go to the URL's own host only.
    """

    filename: str
    url: str | None = None
    path: Path | None = None
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What a source points to: one file, all shards of a split GGUF in order, or the files of an MLC folder."""

    files: tuple[SourceFile, ...]
    format: Literal["gguf", "mlc"] = "gguf"
    commit: str | None = None

    @property
    def size(self) -> int | None:
        """Bytes of all files; None when the source does not say one of them."""
        sizes = [f.size for f in self.files]
        return None if None in sizes else sum(s for s in sizes if s is not None)


class Source(Protocol):
    """One kind of source."""

    @property
    def name(self) -> str:
        """For people: `Hugging Face`."""
        ...

    def supports(self, source: str) -> bool:
        """Whether the text is of this kind; decides by its beginning alone."""
        ...

    async def locate(self, source: str, revision: str | None) -> Located:
        """Find its files. Raises RbeeError whose code tells missing, gated, private and unreachable apart."""
        ...


def said_size(size: int | None, host: str) -> int | None:
    """A size that a server says of a file. Raises RbeeError `bad_answer` for one that no file has."""
    if size is not None and not 0 <= size < 2**50:
        raise RbeeError(f"{host} says that a file has {size} bytes.", code="bad_answer")
    return size


def said_sha256(digest: str | None, host: str) -> str | None:
    """Hex digits of a digest that a server says, with or without `sha256:`; None when it says none.

    Raises RbeeError `bad_answer` for a text that is no SHA-256: to go on without one would be to verify nothing.
    """
    if digest is None:
        return None
    digits = digest.lower().removeprefix("sha256:")
    if not _SHA256.fullmatch(digits):
        raise RbeeError(f"{host} says a digest that is no SHA-256: {digest[:80]!r}.", code="bad_answer")
    return digits
