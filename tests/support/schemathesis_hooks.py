# SPDX-License-Identifier: GPL-3.0-or-later
"""Loaded by schemathesis (tests/integration/test_schemathesis.py): what it makes up, and is not sent."""

from __future__ import annotations

from typing import Any

import schemathesis


def _stops_her(case: Any) -> bool:
    """A queen who is told to stop does so, and answers nothing that could be looked at."""
    return "QueenStop" in repr(case.body)


@schemathesis.hook
def before_add_examples(context: Any, examples: list[Any]) -> None:
    examples[:] = [case for case in examples if not _stops_her(case)]


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    return not _stops_her(case)
