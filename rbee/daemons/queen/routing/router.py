# SPDX-License-Identifier: GPL-3.0-or-later
"""Routing on the queen's own registry: the pure decision fed with facts, kept so that it can be explained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rbee.contracts.configs import QueenConfig
from rbee.contracts.decisions import DecisionRecord, Outcome
from rbee.core.deciding import Decision, Judge, route
from rbee.core.errors import InvalidRequest, RbeeError
from rbee.core.opinions import Listening, recalled
from rbee.core.policy import Compiler, Ruling
from rbee.core.routing import Labels, Needs, able, can, pick, reasons, required
from rbee.daemons.queen.asked import Asked
from rbee.daemons.queen.known.registry import Registry, Worker
from rbee.daemons.queen.routing.decisions import Choice, Decisions
from rbee.daemons.queen.routing.policies import Policies

#: How often workers are asked for one request, at most.
MAX_TRIES = 4
#: Beginnings of conversations whose workers are remembered.
_MOST_PREFIXES = 20_000
REQUIRE_HEADER = "X-Rbee-Require"


class Router:
    """`configure` replaces the policies; `compile` makes them, None: there is nothing here that could."""

    def __init__(
        self,
        registry: Registry,
        config: QueenConfig,
        clock: Callable[[], float],
        *,
        compile: Compiler | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._picks = 0
        #: (model, prefix) to the id of the worker that had it last; the oldest first.
        self._affine: dict[tuple[str, int], str] = {}
        self.policies = Policies(compile, clock)
        self.decisions = Decisions(registry.stale_after, wall)
        self.configure(config)

    def configure(self, config: QueenConfig) -> None:
        self.policies.configure(config.policies)

    def admit(self, asked: Asked) -> None:
        """Reads what it asks of a worker, and applies the policies that reject.

        Raises RbeeError `policy_rejected` with the policy's reason, InvalidRequest for labels that are none.
        """
        choice = self._begin(asked)
        plan = choice.plan
        if plan is None:
            return
        if not plan.passed(asked):
            ruling = self._ruling(asked, choice)
            if (refused := ruling.rejected(asked.models)) is not None:
                name, why = refused
                asked.notes += (f"The policy {name!r} refused it.",)
                self.note(asked, "refused", why, None)
                raise RbeeError(why, code="policy_rejected")
            if not ruling.out:
                plan.let_pass(asked)
        if not plan.of_workers:  # they have had their say: the worker is chosen the quick way
            if choice.ruling is not None:
                asked.notes += tuple(choice.ruling.notes)
            choice.plan = choice.ruling = None

    def _begin(self, asked: Asked) -> Choice:
        """What is asked of a worker, read once for each request."""
        require: tuple[tuple[str, str], ...] = ()
        said = asked.headers.get(REQUIRE_HEADER)
        if asked.client.require:
            require = tuple(asked.client.require.items())
        if said is not None:
            try:
                require += required(said)
            except ValueError as e:
                asked.choice = Choice(Needs(asked.path), None)  # for the note that it was refused
                mend = f"Write {REQUIRE_HEADER}: region=eu-west,power=quiet."
                raise InvalidRequest(f"{REQUIRE_HEADER}: {e}.", code="invalid_header", mend=mend) from None
        peek = asked.peek
        needs = Needs(asked.path, size=asked.size, tools=peek.tools, images=peek.images, require=require)
        plan = self.policies.plan(asked) if self.policies else None
        choice = asked.choice = Choice(needs, plan)
        return choice

    def _ruling(self, asked: Asked, choice: Choice) -> Ruling:
        """The policies, to be asked: the same ones for the whole of a request."""
        assert choice.plan is not None
        ruling = choice.ruling
        if ruling is None:
            ruling = choice.ruling = self.policies.ruling(choice.plan, asked, choice.needs.require)
        return ruling

    def choose(self, asked: Asked) -> Worker | None:
        """The worker for it, of those that have a free slot; None: none has. Nothing is taken yet.

        The first model that somebody can serve is waited for: a later one is for when nobody can.
        """
        if asked.tried and tries(asked) >= MAX_TRIES:
            return None
        choice: Choice = asked.choice or self._begin(asked)
        now, groups, affine = self._clock(), self._groups(asked), self._affine_ids(asked)
        if choice.plan is None:
            worker = self._scan(asked, choice.needs, now, groups, affine)
        else:
            worker = self._ruled(asked, choice, now, groups, affine)
        if worker is None:
            return None
        self.decisions.see(choice, now, groups, worker, affine)
        self._picks += 1
        worker.picked = self._picks
        if asked.peek.prefix is not None:
            key = (worker.beat.model, asked.peek.prefix)
            self._affine.pop(key, None)
            self._affine[key] = worker.worker_id
            if len(self._affine) > _MOST_PREFIXES:
                del self._affine[next(iter(self._affine))]
        return worker

    def _scan(
        self, asked: Asked, needs: Needs, now: float, groups: Sequence[Mapping[str, Worker]], affine: tuple[str, ...]
    ) -> Worker | None:
        """Without policies. Contexts that are likely too short count only when there is no other."""
        tried, stale_after, tokens = asked.tried, self._registry.stale_after, needs.likely
        while True:
            for group in groups:
                if not group:
                    continue
                knows = None
                for known in affine:
                    knows = group.get(known) or knows
                found = pick(group.values(), needs, tokens, now, stale_after, tried, knows)
                if found is not None:
                    return found
                oldest = now - stale_after
                if any(able(w, needs, tokens, oldest, tried) for w in group.values()):
                    return None
            if tokens <= needs.least:
                return None
            tokens = needs.least

    def _ruled(
        self, asked: Asked, choice: Choice, now: float, groups: Sequence[Mapping[str, Worker]], affine: tuple[str, ...]
    ) -> Worker | None:
        """With policies: by what they said of the same facts before, else by asking them."""
        plan = choice.plan
        assert plan is not None
        choice.decision = choice.recalled = None
        if (choice.ruling is None or not choice.ruling.out) and (recall := plan.recall(asked)) is not None:
            named = [(model, group.values()) for model, group in zip(asked.models, groups, strict=True)]
            oldest = now - self._registry.stale_after
            found = recalled(named, choice.needs, oldest, asked.tried, affine, recall)
            if found is not None:
                worker, choice.recalled = found
                return worker
        ruling = self._ruling(asked, choice)
        listening = Listening(ruling)
        decision = choice.decision = self._decide(asked, now, choice.needs, listening)
        if not ruling.out:
            plan.learn(asked, listening.heard())
        return decision.chosen

    def _judge(self, asked: Asked, choice: Choice) -> Judge | None:
        return self._ruling(asked, choice) if choice.plan is not None else None

    def _decide(self, asked: Asked, now: float, needs: Needs, judge: Judge | None) -> Decision[Worker]:
        return route(
            {m: list(self._registry.of_model(m).values()) for m in asked.models},
            needs,
            now,
            self._registry.stale_after,
            tried=asked.tried,
            affine=self._affine_ids(asked),
            judge=judge,
        )

    def _groups(self, asked: Asked) -> list[Mapping[str, Worker]]:
        """The workers of each of its models, by their ids."""
        of_model = self._registry.of_model
        return [of_model(m) for m in asked.models]

    def _affine_ids(self, asked: Asked) -> tuple[str, ...]:
        prefix = asked.peek.prefix
        if prefix is None:
            return ()
        if len(asked.models) == 1:  # nearly always
            known = self._affine.get((asked.models[0], prefix))
            return () if known is None else (known,)
        found = (self._affine.get((m, prefix)) for m in asked.models)
        return tuple(w for w in found if w is not None)

    def waits_for(self, asked: Asked) -> str | None:
        """The model whose worker it would be given, as soon as one has a free slot; None: nobody can serve it."""
        choice: Choice = asked.choice or self._begin(asked)
        judge = self._judge(asked, choice)
        return self._decide(asked, self._clock(), choice.needs, judge and _Filters(judge)).model

    def able(self, asked: Asked) -> bool:
        """Whether a worker could serve it now if it had a free slot."""
        if tries(asked) >= MAX_TRIES:
            return False
        choice: Choice = asked.choice or self._begin(asked)
        now = self._clock()
        if (judge := self._judge(asked, choice)) is not None:
            return self._decide(asked, now, choice.needs, _Filters(judge)).able
        needs, oldest, tried = choice.needs, now - self._registry.stale_after, asked.tried
        return any(
            able(w, needs, needs.least, oldest, tried)
            for m in asked.models
            for w in self._registry.of_model(m).values()
        )

    def labels(self, asked: Asked) -> Labels:
        """Labels that a hive must have to serve it."""
        choice: Choice = asked.choice or self._begin(asked)
        return choice.needs.require

    def missed(self, asked: Asked) -> list[Worker]:
        """Those that could serve it if they were well again: none that has failed it for good."""
        if tries(asked) >= MAX_TRIES:
            return []
        choice: Choice = asked.choice or self._begin(asked)
        needs, judge = choice.needs, self._judge(asked, choice)
        found = [
            w
            for w in self._registry.of_models(asked.models)
            if can(w, needs, needs.least) and (w.worker_id not in asked.tried or may_again(asked, w.worker_id))
        ]
        if judge is None:
            return found
        excluded = judge.excluded([(w, w.beat.model, False) for w in found])
        return [w for n, w in enumerate(found) if n not in excluded]

    def reasons(self, asked: Asked) -> tuple[str, ...]:
        """Why nobody can, as `worker: reason`."""
        choice: Choice = asked.choice or self._begin(asked)
        now, stale_after = self._clock(), self._registry.stale_after
        judge = self._judge(asked, choice)
        if judge is None:
            workers = self._registry.of_models(asked.models)
            return reasons(workers, now, stale_after, asked.tried, choice.needs)
        verdicts = self._decide(asked, now, choice.needs, judge).verdicts
        return tuple(f"{v.worker.worker_id}: {v.excluded}" for v in verdicts if v.excluded is not None)

    def note(self, asked: Asked, outcome: Outcome, reason: str, worker: Worker | None, code: str = "") -> None:
        """Keeps a decision for `rbee explain`; a later one of the request replaces it. No `reason`: routing's own.
        `code`: what a refused one was answered with."""
        choice: Choice = asked.choice or self._begin(asked)
        if worker is None:
            now = self._clock()
            if (judge := self._judge(asked, choice)) is not None:
                choice.decision, choice.recalled = self._decide(asked, now, choice.needs, judge), None
            self.decisions.see(choice, now, self._groups(asked), None, self._affine_ids(asked))
        self.decisions.keep(asked, choice, outcome, reason, worker, code)

    def explain(self, request_id: str) -> DecisionRecord:
        """Raises NotFound."""
        return self.decisions.explain(request_id)

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each policy failed and was left out of a decision."""
        return self.policies.failures


def tries(asked: Asked) -> int:
    """How often workers have failed it."""
    return len(asked.tried) + len(asked.again)


def may_again(asked: Asked, worker_id: str) -> bool:
    """Whether one that died under it may have it once more, when it is well again. It has no third chance: perhaps
    the request itself was the cause, and would end one engine after the other."""
    return worker_id not in asked.again and tries(asked) < MAX_TRIES


class _Filters:
    """Policies as far as it counts whether anybody can: scores decide only among those who can now."""

    def __init__(self, judge: Judge) -> None:
        self.excluded = judge.excluded

    def terms(self, workers: Sequence[tuple[Any, str, bool]]) -> tuple[Mapping[str, float], ...]:
        return ()
