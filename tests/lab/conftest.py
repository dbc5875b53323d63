# SPDX-License-Identifier: GPL-3.0-or-later
"""Every test in this directory gets real hosts and the marker that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fixtures import lab, make_lab

__all__ = ["lab", "make_lab"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.lab)
