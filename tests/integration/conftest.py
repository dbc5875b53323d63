# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL for the tests that ask for one: started once, at the first of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import postgres as server


@pytest.fixture(scope="session")
def postgres() -> Iterator[server.Cluster]:
    if server.binaries() is None:
        if os.environ.get("RBEE_LAB") == "require":
            pytest.fail("PostgreSQL is not installed (Debian: postgresql).")
        pytest.skip("PostgreSQL is not installed (Debian: postgresql).")
    with server.cluster() as running:
        yield running
