# SPDX-License-Identifier: GPL-3.0-or-later
"""What a word of YAML means (YAML 1.2, core schema) and how `${env.NAME}` is filled in.

YAML 1.1, which most libraries still read, takes `on` for true, `22:30` for 1350 and `0644` for 420; here
they are the text, the text and the number that they look like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rbee.core.document import Scalar
from rbee.core.problems import did_you_mean

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
#: At most 18 digits: a longer one is no number that any key means.
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_OCTAL = re.compile(r"0o[0-7]{1,18}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")


def resolve(text: str) -> Scalar:
    """Value of an unquoted scalar. `.inf` and `.nan` stay text: no key of rbee means them."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        return float(text)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class BadReference:
    """A `${...}` that cannot be filled in; `offset` is its place in the text."""

    offset: int
    summary: str
    mend: str


def interpolate(text: str, environment: Mapping[str, str]) -> tuple[str, list[BadReference]]:
    """`text` with every `${env.NAME}` replaced and `$${` made `${`, and what could not be replaced.

    What is put in is not looked at again: a variable's value cannot name another.
    """
    bad: list[BadReference] = []

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        variable = _VARIABLE.fullmatch(found[1])
        if not found[2]:
            bad.append(_bad(found, "is not closed.", "Write ${env.NAME}; for a plain `${`, write `$${`."))
        elif variable is None:
            word = re.sub(r"[^A-Za-z0-9_]", "", found[1].removeprefix("env"))
            name = word if re.match(r"[A-Za-z_]", word) else "NAME"
            bad.append(_bad(found, "is not known.", f"Write ${{env.{name}}}; for a plain `${{`, write `$${{`."))
        elif variable[1] not in environment:
            near = did_you_mean(variable[1], list(environment))
            mend = f"Set it: export {variable[1]}=..." + (f" {near}" if near.startswith("Did") else "")
            bad.append(_bad(found, "is not set in the environment.", mend))
        else:
            return environment[variable[1]]
        return found[0]

    return _REFERENCE.sub(fill, text), bad


def _bad(found: re.Match[str], what: str, mend: str) -> BadReference:
    return BadReference(offset=found.start(), summary=f"{found[0][:60]} {what}", mend=mend)
