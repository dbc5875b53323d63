# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong, small or missing on a lab host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from .shell import LabError


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How a host differs from a plain one; the text form is `nopython,home=64,via:h1`."""

    nopython: bool = False
    """No Python at all."""
    nogomp: bool = False
    """No libgomp.so.1, which CPU engines link to."""
    nosftp: bool = False
    """sshd offers no SFTP subsystem that works."""
    noforward: bool = False
    """sshd refuses TCP forwarding."""
    home: int | None = None
    """/home is a disk of its own, this many MiB."""
    mem: int | None = None
    """All processes together may use this many MiB of memory."""
    via: str | None = None
    """Reachable only through this host (ProxyJump); no path to or from the controller."""

    @classmethod
    def parse(cls, text: str) -> Traits:
        """Read the text form; raises LabError on a trait or a value that means nothing."""
        known = {field.name: str(field.type) for field in fields(cls)}
        values: dict[str, bool | int | str] = {}
        for word in filter(None, text.replace(" ", "").split(",")):
            name, _, value = word.replace(":", "=", 1).partition("=")
            kind = known.get(name)
            if kind is None:
                raise LabError(f"unknown trait {name!r}; there are: {', '.join(known)}")
            if kind.startswith("bool") == bool(value) or (kind.startswith("int") and not value.isdigit()):
                raise LabError(f"trait {word!r}: write it as {_form(name, kind)}")
            values[name] = int(value) if kind.startswith("int") else value or True
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        shown = ((field.name, getattr(self, field.name)) for field in fields(self))
        words = (name if value is True else f"{name}={value}" for name, value in shown if value)
        return ",".join(words)


def _form(name: str, kind: str) -> str:
    if kind.startswith("bool"):
        return name
    return f"{name}=MiB" if kind.startswith("int") else f"{name}:HOST"


def host_traits(count: int, given: Mapping[str, str]) -> dict[str, Traits]:
    """The traits of hosts h1 to h`count`; raises LabError for a host that is not one of them, as `via` too."""
    names = [f"h{number}" for number in range(1, count + 1)]
    if strange := sorted(set(given) - set(names)):
        raise LabError(f"no such host: {', '.join(strange)} (there are {count})")
    traits = {name: Traits.parse(given.get(name, "")) for name in names}
    for name, its in traits.items():
        if its.via is not None and (its.via not in traits or its.via == name or traits[its.via].via):
            raise LabError(f"{name}: via:{its.via} must name another host that is itself on the open network")
    return traits
