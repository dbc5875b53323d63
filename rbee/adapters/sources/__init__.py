# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models come from: one port, a module for each kind of source, one way to fetch bytes."""

from rbee.adapters.sources.base import Located, Source, SourceFile, default_id, safe_filename
from rbee.adapters.sources.fetch import Fetched, fetch
from rbee.adapters.sources.huggingface import HuggingFace
from rbee.adapters.sources.local import Builtin, LocalFile, place
from rbee.adapters.sources.url import Url

__all__ = [
    "Builtin",
    "Fetched",
    "HuggingFace",
    "LocalFile",
    "Located",
    "Source",
    "SourceFile",
    "Url",
    "default_id",
    "fetch",
    "place",
    "safe_filename",
]
