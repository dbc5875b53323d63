# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether hives can find their way to the queen, told before anything is done. Pure."""

from __future__ import annotations

from dataclasses import replace

from rbee.contracts.configs import QueenConfig
from rbee.core.actual import Actual, HiveActual, Unknown
from rbee.core.problems import Problem
from rbee.core.spec import Spec
from rbee.fleet.observe import Survey
from rbee.fleet.settings import is_loopback, split_address


def without_cut_off(spec: Spec, survey: Survey, addresses: frozenset[str]) -> Survey:
    """The survey, with a problem for each hive that sees this machine under an address that is not its own: the
    queen cannot listen there for it, and must not fail the other hives by trying."""
    if spec.queen.advertise or not is_loopback(split_address(spec.queen.listen)[0]):
        return survey
    hives: dict[str, HiveActual | Unknown] = dict(survey.actual.hives)
    for name, seen in survey.actual.hives.items():
        host = seen.controller_address if isinstance(seen, HiveActual) else None
        if isinstance(seen, HiveActual) and host and host not in addresses and not is_loopback(host):
            hives[name] = replace(seen, problems=(*seen.problems, _cut_off(name, host)))
    return replace(survey, actual=Actual(queen=survey.actual.queen, hives=hives))


def _cut_off(name: str, host: str) -> Problem:
    return Problem(
        summary=f"Hive {name!r} knows no way to the queen",
        detail=f"It sees this machine as {host}, not one of its addresses: NAT or a jump host is between.",
        mend=(
            "Set `queen.listen: 0.0.0.0:PORT` and `queen.advertise:` to an address of this machine that all hives can "
            "reach; and the queen must reach the hive (its `listen:`)."
        ),
        subject=f"hives.{name}",
    )


def bindable(spec: Spec, queen: QueenConfig, addresses: frozenset[str]) -> tuple[QueenConfig, list[Problem]]:
    """The queen's settings without addresses that are not this machine's, and a problem if `advertise` is one."""
    kept = tuple(a for a in queen.fleet_listen if _is_ours(split_address(a)[0], addresses))
    gone = sorted({split_address(a)[0] for a in queen.fleet_listen} - {split_address(a)[0] for a in kept})
    problems = [
        Problem(
            summary=f"The queen cannot listen on {host}, which is not an address of this machine",
            detail="`queen.advertise` names it.",
            mend="Set `queen.listen: 0.0.0.0:PORT`, when hives do reach this machine under that address.",
            subject="queen",
        )
        for host in gone
        if host == spec.queen.advertise
    ]
    return replace(queen, fleet_listen=kept), problems


def _is_ours(host: str, addresses: frozenset[str]) -> bool:
    return host in addresses or is_loopback(host)
