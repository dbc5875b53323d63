# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies: rules of the fleet's own for routing, compiled elsewhere, applied here. Pure; the clock is an argument.

A policy that fails, or takes too long, is out for the rest of the request, as though it were not in the file: for all
workers, so that none is favoured by an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from rbee.core.spec import PolicySpec

#: Seconds of the processor that a policy may take for one decision; a look at one worker takes some microseconds.
BUDGET = 0.005
#: Seconds of a look at one worker beyond which it is no more what a policy usually takes.
_QUICK = 0.0002
#: Names of routing's own terms, which no policy may take for its score.
OWN_TERMS = ("load", "warm", "affinity")
#: Facts that are lists and maps, or of which each request has others: what was said of them is not remembered.
UNCOUNTED = frozenset(
    (
        *(f"request.{f}" for f in ("body_bytes", "headers", "models", "require")),
        *(f"worker.{f}" for f in ("capabilities", "labels")),
    )
)
#: The expressions of a policy.
FIELDS = ("filter", "score", "reject")


class PolicyFailed(Exception):
    """An expression that gave no value, or not one of its kind; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an expression before it runs. `offset`: characters before the place in it."""

    field: str
    summary: str
    offset: int = 0
    detail: str = ""
    mend: str = ""


class Expression(Protocol):
    """A compiled expression. `names` are the facts it looks at (`worker.busy`), all of which it must be given."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def value(self, facts: Mapping[str, Any]) -> Any:
        """Raises PolicyFailed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A compiled policy; `models` empty: it is for all."""

    name: str
    models: tuple[str, ...] = ()
    filter: Expression | None = None
    score: Expression | None = None
    reject: Expression | None = None
    reason: str = ""

    @property
    def names(self) -> frozenset[str]:
        """All facts that its expressions look at."""
        return frozenset(n for e in (self.filter, self.score, self.reject) if e is not None for n in e.names)

    def asked(self, name: str, models: Sequence[str]) -> bool:
        """Whether it is for a request for `name`, which stands for `models`."""
        return not self.models or name in self.models or any(m in self.models for m in models)

    def rejects(self, name: str, models: Sequence[str]) -> bool:
        """Whether its `reject` is for such a request: of an alias' models, the first choice counts."""
        return not self.models or name in self.models or any(m in self.models for m in models[:1])


class Compiler(Protocol):
    def __call__(self, name: str, spec: PolicySpec) -> tuple[Policy | None, Sequence[Fault]]:
        """The policy, or everything that is wrong with it."""
        ...


#: A worker's fact by its name in expressions, without `worker.`; the last argument: whether it is affine.
Look = Callable[[Any, str, bool], Any]


@dataclass(slots=True, kw_only=True)
class Ruling:
    """The policies of one request. `request` has its facts (`request.model`); `failed` hears of every policy that is
    left out, and why; `clock` counts the seconds of the processor; `watch`, which may be any clock and is asked always,
    tells when that one, which is a call of the system, has to be asked."""

    policies: Sequence[Policy]
    name: str
    request: Mapping[str, Any]
    look: Look
    clock: Callable[[], float]
    watch: Callable[[], float]
    failed: Callable[[str, str], None] = lambda name, why: None
    budget: float = BUDGET
    notes: list[str] = field(default_factory=list)
    out: set[str] = field(default_factory=set)

    @property
    def of_workers(self) -> bool:
        """Whether one of them has a say about workers, and not about the request alone."""
        return any(p.filter is not None or p.score is not None for p in self.policies)

    def rejected(self, models: Sequence[str]) -> tuple[str, str] | None:
        """Name and reason of the first policy that refuses the request."""
        for policy in self.policies:
            if policy.reject is None or not policy.rejects(self.name, models):
                continue
            refused = self._run(policy, "reject", [(None, "", False)], _truth)
            if refused and refused[0]:
                return policy.name, policy.reason or f"The policy {policy.name!r} refuses this request."
        return None

    def excluded(self, workers: Sequence[tuple[Any, str, bool]]) -> dict[int, str]:
        """Which of these (worker, its model, whether it is affine) are left out, by their index, and by whom."""
        found: dict[int, str] = {}
        for policy in self.policies:
            if policy.filter is None:
                continue
            kept = self._run(policy, "filter", workers, _truth)
            for index, keep in enumerate(kept or ()):
                if keep is False:
                    found.setdefault(index, policy.name)
        return found

    def terms(self, workers: Sequence[tuple[Any, str, bool]]) -> list[dict[str, float]]:
        """What is added to the score of each, by the policies' names."""
        found: list[dict[str, float]] = [{} for _ in workers]
        for policy in self.policies:
            if policy.score is None:
                continue
            scores = self._run(policy, "score", workers, _number)
            for terms, score in zip(found, scores or (), strict=False):
                if score is not None:
                    terms[policy.name] = score
        return found

    def _run(
        self,
        policy: Policy,
        what: str,
        workers: Sequence[tuple[Any, str, bool]],
        kind: Callable[[Any], Any],
    ) -> list[Any] | None:
        """The value for each worker (None: it is not for its model); None at all when the policy is out."""
        if policy.name in self.out:
            return None
        expression: Expression = getattr(policy, what)
        of_request, looked = _split(expression.names)
        facts = {n: self.request[n] for n in of_request}
        every = not policy.models or self.name in policy.models or what == "reject"
        values: list[Any] = []
        once: list[Any] = []  # what it says of a request alone is the same for every worker
        began, ends = self.watch(), math.inf
        try:
            for worker, model, affine in workers:
                if not every and model not in policy.models:
                    values.append(None)
                    continue
                if once:
                    values += once
                    continue
                for fact, short in looked:
                    facts[fact] = self.look(worker, short, affine)
                values.append(kind(expression.value(facts)))
                once = values[-1:] if not looked else []
                if ends == math.inf:
                    if (took := self.watch() - began) > _QUICK * len(values):
                        # Slow, or interrupted: from now on by what the processor spends on it.
                        ends = self.clock() + self.budget - min(took, self.budget / 2)
                elif self.clock() > ends:
                    raise PolicyFailed(f"took longer than {self.budget * 1e3:g} ms")
        except PolicyFailed as e:
            self.out.add(policy.name)
            self.notes.append(f"The policy {policy.name!r} was left out: its {what}: {e}.")
            self.failed(policy.name, f"{what}: {e}")
            return None
        return values


@lru_cache(maxsize=1024)
def _split(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Those of the request; those of a worker, with what `Look` calls them."""
    of_worker = tuple((n, n.partition(".")[2]) for n in names if n.startswith("worker."))
    return tuple(n for n in names if not n.startswith("worker.")), of_worker


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise PolicyFailed(f"gave {str(value)[:80]!r} instead of true or false")


def _number(value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise PolicyFailed(f"gave {str(value)[:80]!r} instead of a number")
