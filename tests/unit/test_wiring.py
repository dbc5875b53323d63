# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine's own files, asked for by many threads of one apply at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from rbee.adapters.paths import Paths
from rbee.adapters.secrets import BadSecret
from rbee.cli.wiring import RealHome


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(config=tmp_path, cache=tmp_path, data=tmp_path, state=tmp_path)


def test_all_who_ask_at_once_get_the_same_token(paths: Paths) -> None:
    asking = 16
    for _ in range(20):
        home, together = RealHome(paths, None), Barrier(asking)

        def ask(_: int, home: RealHome = home, together: Barrier = together) -> str:
            together.wait()
            return home.token()

        with ThreadPoolExecutor(asking) as pool:
            told = set(pool.map(ask, range(asking)))
        assert told == {paths.token.read_text().strip()}
        paths.token.unlink()


def test_a_token_file_that_someone_named_is_never_made(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(BadSecret):
        RealHome(paths, str(tmp_path / "named")).token()
    assert not (tmp_path / "named").exists()
