# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources from provider files: those that come with rbee, and the fleet's own ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from rbee.adapters import shipped
from rbee.adapters.sources.base import Source
from rbee.adapters.sources.github import GitHub
from rbee.adapters.sources.huggingface import HuggingFace
from rbee.adapters.sources.local import Builtin, LocalFile
from rbee.adapters.sources.ollama import Ollama
from rbee.adapters.sources.url import Url
from rbee.contracts import codec
from rbee.core.errors import InvalidRequest
from rbee.core.sources import SourceProvider, unknown

_KINDS: Mapping[str, Callable[[SourceProvider, Path], Source]] = {
    "huggingface": HuggingFace,
    "ollama": Ollama,
    "github": GitHub,
    "url": Url,
    "local": LocalFile,
    "builtin": Builtin,
}


@lru_cache(maxsize=1)
def shipped_sources() -> tuple[SourceProvider, ...]:
    """The sources that come with rbee, by name. Blocks the first time."""
    # Late: nothing else on a hive reads YAML.
    import yaml

    files = sorted((shipped.providers_dir() / "sources").glob("*.yaml"))
    return tuple(codec.convert(SourceProvider, yaml.safe_load(f.read_text(encoding="utf-8"))) for f in files)


def build_sources(providers: Iterable[SourceProvider], config_dir: Path) -> tuple[Source, ...]:
    """A source for each provider; `config_dir` is where their token files are."""
    return tuple(_KINDS[p.protocol](p, config_dir) for p in providers)


def source_for(source: str, sources: Sequence[Source]) -> Source:
    """The source that a text is of. Raises InvalidRequest, with a near miss, when none knows it."""
    found = next((s for s in sources if s.supports(source)), None)
    if found is None:
        said, mend = unknown(
            source, [p for s in sources if isinstance(p := getattr(s, "provider", None), SourceProvider)]
        )
        raise InvalidRequest(said, mend=mend)
    return found
