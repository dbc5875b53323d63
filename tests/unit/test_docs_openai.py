# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/openai.md shows what the tests run: each piece of code stands there word for word."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "openai.md").read_text()
#: What begins and ends a piece in either language.
_PIECE = re.compile(r"^[ \t]*(?:#|//) docs: ([\w-]+)\n(.*?)^[ \t]*(?:#|//) docs: end$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("file", "pieces"),
    [
        ("tests/integration/test_openai_clients.py", {"python": 1}),
        ("tests/clients/openai.test.mjs", {"node": 3}),
        ("tests/clients/ai-sdk.test.mjs", {"ai-sdk": 2}),
    ],
)
def test_the_guide_shows_the_code_of_the_tests(file: str, pieces: dict[str, int]) -> None:
    found = _PIECE.findall((ROOT / file).read_text())
    assert {name: sum(n == name for n, _ in found) for name, _ in found} == pieces
    for _, code in found:
        assert textwrap.dedent(code).strip("\n") in GUIDE


def test_every_path_and_header_that_the_guide_names_is_there() -> None:
    sources = "\n".join(p.read_text() for p in sorted((ROOT / "rbee").rglob("*.py")))
    names = set(re.findall(r"`(X-[A-Za-z-]+)`", GUIDE))
    assert {"X-Request-Id", "X-Deadline", "X-Request-Timeout", "X-Priority"} <= names
    for name in names | set(re.findall(r"`(?:POST|GET) (/v1/[a-z/_]+)`", GUIDE)):
        assert name in sources, name
    for code in re.findall(r"^\| \d{3} \| `(\w+)`", GUIDE, re.MULTILINE):
        assert f'"{code}"' in sources, code
