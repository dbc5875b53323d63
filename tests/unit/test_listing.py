# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON of a long list, of which only what changed is made again."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rbee.adapters.catalog import ModelCatalog
from rbee.adapters.catalog.listing import Listing
from rbee.contracts import codec
from rbee.core.records import DownloadProgress, ModelRecord

NOW = "2026-01-01T00:00:00Z"


def record(name: str, error: str | None = None) -> ModelRecord:
    return ModelRecord(id=name, name=name, path=f"/m/{name}", size_bytes=1, status="failed", error=error)


POOL = [record(f"m{i}", error) for i in range(8) for error in (None, 'Größe "7"\n', "x" * 300)]


@given(st.lists(st.lists(st.sampled_from(POOL), max_size=20), min_size=1, max_size=8))
def test_whatever_came_went_moved_or_came_twice_the_text_is_that_of_the_list(lists: list[list[ModelRecord]]) -> None:
    listing = Listing()
    for values in lists:
        assert listing.text(values) == codec.encode(values)


def test_what_is_the_same_is_made_once() -> None:
    listing, values = Listing(), [record("a"), record("b")]
    first = listing.text(values)
    assert listing.text(list(values)) is first
    # An equal one is another: who lists gives the same object while nothing changed.
    assert listing.text([record("a"), values[1]]) == first
    assert listing.text([]) == b"[]"


def test_a_catalogs_list_and_its_text_agree_while_models_come_change_and_go(tmp_path: Path) -> None:
    catalog = ModelCatalog(tmp_path)
    progress = DownloadProgress(
        bytes_downloaded=7, total_bytes=9, speed_bytes_per_sec=1, eta_seconds=2.0, started_at=NOW, source_url="x"
    )

    def agreed(downloads: dict[str, DownloadProgress]) -> list[str]:
        records, text = catalog.listed(downloads)
        assert text == codec.encode({"models": records})
        assert [r.download_progress for r in records] == [downloads.get(r.id) for r in records]
        return [r.id for r in records]

    assert agreed({}) == []
    for name in ("b", "d", "c"):
        catalog.put(record(name), NOW)
    assert agreed({}) == ["b", "c", "d"]
    assert agreed({"c": progress, "gone": progress}) == ["b", "c", "d"]
    catalog.put(record("a"), NOW)
    catalog.put(record("c", "changed"), NOW)
    assert agreed({}) == ["a", "b", "c", "d"]
    assert b'"changed"' in catalog.listed({})[1]
    assert catalog.remove("b")
    assert agreed({"d": progress}) == ["a", "c", "d"]
    assert agreed({}) == ["a", "c", "d"]
