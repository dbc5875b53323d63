# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab decides without a machine: where its packages come from, and what a trait means."""

from __future__ import annotations

import pytest

from .base import Mirror, mirror_of_deb822, mirror_of_list
from .shell import LabError
from .traits import Traits

DEB822 = """\
# A comment between fields is no end of a stanza.
Types: deb deb-src
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb
# moved last year
URIs: file:/srv/mirror
 https://mirror.example/debian
Suites: trixie
 trixie-updates
Components: main contrib
Trusted: yes
"""

LIST = """\
# deb http://old.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm-updates main
deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm contrib main
"""


def test_the_mirror_is_the_one_apt_uses_for_the_release_itself() -> None:
    found = mirror_of_deb822(DEB822, "trixie")
    assert found == Mirror(suite="trixie", url="https://mirror.example/debian", trusted=True)
    found = mirror_of_list(LIST, "bookworm")
    assert found == Mirror(suite="bookworm", url="http://mirror.example/debian", trusted=True)


def test_no_mirror_for_another_release() -> None:
    assert mirror_of_deb822(DEB822, "bookworm") is None
    assert mirror_of_list(LIST, "trixie") is None
    assert mirror_of_list("deb http://mirror.example/debian bookworm contrib\ndeb-src main", "bookworm") is None


def test_traits_read_and_write_the_same_text() -> None:
    text = "nopython,noforward,home=64,mem=512,via=h1"
    assert str(Traits.parse(text)) == text
    assert Traits.parse("via:h1") == Traits(via="h1")
    assert Traits.parse("") == Traits()


@pytest.mark.parametrize("text", ["rsync", "home", "home=", "home=64MB", "nopython=yes", "via"])
def test_a_trait_that_means_nothing_is_an_error(text: str) -> None:
    with pytest.raises(LabError, match=text.partition("=")[0]):
        Traits.parse(text)
