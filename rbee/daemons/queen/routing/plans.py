# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies for one name that clients ask for, and what they said of facts that come again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rbee.core.opinions import Opinion, Recall
from rbee.core.policy import Policy
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Worker
from rbee.daemons.queen.routing.facts import Facts, request_key, worker_key

#: What is remembered of one name's policies: sets of facts of workers, and of requests.
MOST_OPINIONS, MOST_PASSED = 4000, 1000


class Plan:
    """`name` stands for `models`. Policies say the same of the same facts (an expression sees nothing else); what they
    said is forgotten with the settings."""

    __slots__ = ("_asks", "_looks", "_opinions", "_passed", "_rejects", "names", "of_workers", "policies")

    def __init__(self, policies: tuple[Policy, ...], name: str, models: Sequence[str]) -> None:
        self.policies = policies
        #: All facts that they look at.
        self.names = frozenset(n for p in policies for n in p.names)
        #: Whether one of them has a say about workers, and not about the request alone.
        self.of_workers = any(p.filter is not None or p.score is not None for p in policies)
        rejects = [p.reject for p in policies if p.reject is not None and p.rejects(name, models)]
        judging = [e for p in policies for e in (p.filter, p.score) if e is not None]
        looked = {n for e in judging for n in e.names}
        self._rejects: Facts[Asked] | None = request_key(n for e in rejects for n in e.names)
        self._asks: Facts[Asked] | None = request_key(n for n in looked if not n.startswith("worker."))
        self._looks = worker_key(n for n in looked if n.startswith("worker."))
        self._passed: set[Any] = set()
        self._opinions: dict[Any, Opinion] = {}

    def passed(self, asked: Asked) -> bool:
        """Whether it is known that none of them refuses such a request."""
        return self._rejects is not None and self._rejects(asked) in self._passed

    def let_pass(self, asked: Asked) -> None:
        """None of them has refused it, and none has failed."""
        if self._rejects is not None:
            if len(self._passed) >= MOST_PASSED:
                self._passed.clear()
            self._passed.add(self._rejects(asked))

    def recall(self, asked: Asked) -> Recall[Worker] | None:
        """What was said of workers to such a request; None: its facts are too many to remember."""
        looks, asks, opinions = self._looks, self._asks, self._opinions
        if looks is None or asks is None:
            return None
        of_request = asks(asked)

        def recall(worker: Worker, model: str, affine: bool) -> Opinion | None:
            return opinions.get((of_request, model, looks(worker, affine)))

        return recall

    def learn(self, asked: Asked, heard: Iterable[tuple[Worker, str, bool, Opinion]]) -> None:
        """What was said, now, of these workers. Nothing of it may come from a policy that failed."""
        looks, asks, opinions = self._looks, self._asks, self._opinions
        if looks is None or asks is None:
            return
        of_request = asks(asked)
        for worker, model, affine, opinion in heard:
            key = of_request, model, looks(worker, affine)
            if key in opinions and opinion.terms is None:
                continue  # more is known
            if len(opinions) >= MOST_OPINIONS:
                opinions.clear()
            opinions[key] = opinion
