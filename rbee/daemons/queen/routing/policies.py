# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet's policies, compiled once for each settings. What does not compile is left out and told."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from rbee.core.policy import OWN_TERMS, Compiler, Policy, Ruling
from rbee.core.spec import PolicySpec
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.routing.facts import look, request_facts
from rbee.daemons.queen.routing.plans import Plan

log = logging.getLogger(__name__)

#: Seconds between two lines about the failures of one policy.
_QUIET = 60.0
#: Names that were asked for and whose policies are remembered.
_MOST_NAMES = 1000


class Policies:
    """`compile` None: nothing here can evaluate policies. `failures` counts them by the policy, for metrics;
    `broken` has why a policy of the settings is left out altogether."""

    def __init__(self, compile: Compiler | None, clock: Callable[[], float]) -> None:
        self._compile = compile
        self._clock = clock
        self._told: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        self._specs: Mapping[str, PolicySpec] | None = None
        self._all: tuple[Policy, ...] = ()
        #: By the name that was asked for and its models; None: there are no policies for it.
        self._of: dict[tuple[str, tuple[str, ...]], Plan | None] = {}

    def configure(self, specs: Mapping[str, PolicySpec]) -> None:
        """Takes these in place of those before. Raises nothing: an older file's policy may be one for another rbee."""
        if specs == self._specs:
            return
        self._specs, self.broken, found = specs, {}, []
        for name, spec in specs.items():
            policy, why = self._compiled(name, spec)
            if policy is not None:
                found.append(policy)
            else:
                self.broken[name] = why
                log.error("the policy %r is left out: %s", name, why)
        self._all = tuple(found)
        self._of.clear()

    def _compiled(self, name: str, spec: PolicySpec) -> tuple[Policy | None, str]:
        if self._compile is None:
            return None, "no library for CEL is installed here (`pip install cel-expr-python`, Python 3.11 or newer)"
        if spec.score is not None and name in OWN_TERMS:
            return None, "its name is that of a term of routing's own"
        policy, faults = self._compile(name, spec)
        return policy, "; ".join(f"{f.field}: {f.summary}" for f in faults)

    def __bool__(self) -> bool:
        return bool(self._all)

    def plan(self, asked: Asked) -> Plan | None:
        """Those for this request; None: there are none."""
        key = (asked.name, asked.models)
        try:
            return self._of[key]
        except KeyError:
            policies = tuple(p for p in self._all if p.asked(*key))
            if len(self._of) >= _MOST_NAMES:
                self._of.clear()
            plan = self._of[key] = Plan(policies, *key) if policies else None
            return plan

    def ruling(self, plan: Plan, asked: Asked, require: tuple[tuple[str, str], ...]) -> Ruling:
        """What they say of this request, once they are asked."""
        return Ruling(
            policies=plan.policies,
            name=asked.name,
            request=request_facts(asked, require, plan.names),
            look=look,
            clock=time.thread_time,
            watch=time.perf_counter,
            failed=self._failed,
        )

    def _failed(self, name: str, why: str) -> None:
        self.failures[name] += 1
        now = self._clock()
        if now - self._told.get(name, -_QUIET) >= _QUIET:
            self._told[name] = now
            log.warning("the policy %r was left out of a decision: %s (%d so far)", name, why, self.failures[name])
