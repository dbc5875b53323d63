# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models come from: one port, a module for each protocol, a file for each provider."""

from rbee.adapters.sources.base import Located, Source, SourceFile, safe_filename
from rbee.adapters.sources.build import build_sources, shipped_sources, source_for
from rbee.adapters.sources.local import place, unchanged
from rbee.core.sources import default_id

__all__ = [
    "Located",
    "Source",
    "SourceFile",
    "build_sources",
    "default_id",
    "place",
    "safe_filename",
    "shipped_sources",
    "source_for",
    "unchanged",
]
