# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from rbee.core.slug import slug


@given(st.text())
def test_slug_is_one_harmless_component(name: str) -> None:
    made = slug(name)
    assert made
    assert len(made) <= 109
    assert len(PurePosixPath(made).parts) == 1
    assert made not in {".", ".."}
    assert not made.startswith(".")
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in made)


@given(st.text(), st.text())
def test_two_ids_never_share_a_folder(one: str, other: str) -> None:
    assert (slug(one) == slug(other)) == (one == other) or slug(one) == other or slug(other) == one


def test_safe_names_stay_and_others_get_a_digest() -> None:
    assert slug("llama-3.2-1b") == "llama-3.2-1b"
    assert slug("meta-llama/Llama-2-7b").startswith("meta-llama-Llama-2-7b-")
    assert slug("a/b") != slug("a-b") != slug("a:b")
    assert slug("../../etc/passwd").startswith("etc-passwd-")
    assert slug("").startswith("id-")
