# SPDX-License-Identifier: GPL-3.0-or-later
"""From a checked rbee.yaml to a plan: observe, work out what is wanted, compare. Changes nothing anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbee.contracts import defaults
from rbee.contracts.configs import HiveConfig, QueenConfig
from rbee.core.actual import HiveActual
from rbee.core.desired import Desired, Pin
from rbee.core.digest import digest
from rbee.core.plan import Plan, make_plan
from rbee.core.problems import Problem
from rbee.core.providers import EngineProvider
from rbee.core.sources import SourceProvider
from rbee.core.spec import Spec
from rbee.fleet import reach
from rbee.fleet.desired import Inputs, Predict, make_desired
from rbee.fleet.observe import Machines, Survey, survey
from rbee.fleet.ports import Bundler
from rbee.fleet.settings import hive_config, queen_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan and all that apply needs to do it."""

    plan: Plan
    spec: Spec
    survey: Survey
    queen_config: QueenConfig
    hive_configs: Mapping[str, HiveConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plan for. `token_digest` is empty while no token has been made. `pinned` is of rbee.lock."""

    spec: Spec
    providers: Sequence[EngineProvider]
    token_file: str
    token_digest: str
    predict: Predict
    #: Addresses of this machine, to tell a queen's address that cannot be bound.
    addresses: frozenset[str]
    pinned: Mapping[str, Pin]
    #: SHA-256 of the local files that models come from, by model name.
    files: Mapping[str, str] = field(default_factory=dict)
    #: The fleet's own model sources: every hive is told of them.
    sources: tuple[SourceProvider, ...] = ()
    #: Of the file itself; they are told with the plan and stop nothing.
    warnings: tuple[Problem, ...] = ()
    destroy: bool = False
    keep_models: bool = False
    parallelism: int = defaults.PARALLELISM


def make(
    request: Request, machines: Machines, bundler: Bundler, told: Callable[[str], None] = lambda _: None
) -> Planned:
    """Observe the fleet and plan. Blocks as long as the slowest machine takes to answer.

    Raises nothing for what is wrong with a machine: that is a problem of the plan.
    """
    spec = request.spec
    libraries = {name for p in request.providers for name in p.needs.libraries}
    seen = survey(spec, machines, libraries=libraries, parallelism=request.parallelism, told=told)
    seen = reach.without_cut_off(spec, seen, request.addresses)
    hives = {n: a for n, a in seen.actual.hives.items() if isinstance(a, HiveActual)}
    configs = {
        name: hive_config(
            spec,
            hive,
            hives[name],
            token_file=request.token_file if hive.local else seen.facts[name].roots.token,
            release=bundler.release_id,
            sources=request.sources,
        )
        for name, hive in spec.hives.items()
        if name in hives and not hives[name].problems
    }
    queen = queen_config(
        spec,
        seen.actual.hives,
        seen.queen_config,
        token_file=request.token_file,
        release=bundler.release_id,
        sources=request.sources,
    )
    queen, unheard = reach.bindable(spec, queen, request.addresses)
    if request.destroy:
        desired = Desired(fleet=spec.fleet, queen=None, keep_models=request.keep_models)
    else:
        desired, queen = make_desired(
            Inputs(
                spec=spec,
                providers=request.providers,
                actual=seen.actual,
                release=bundler.release_id,
                token_digest=request.token_digest,
                queen_config=queen,
                hive_configs=configs,
                predict=request.predict,
                pinned=request.pinned,
                files=request.files,
                before=seen.queen_config,
            )
        )
        desired = replace(desired, problems=(*desired.problems, *unheard))
    local = spec.local_hive
    plan = make_plan(desired, seen.actual, local.name if local else None)
    plan = replace(
        plan,
        made_from=digest([plan.made_from, request.token_digest], 64),
        problems=(*plan.problems, *(() if request.destroy else request.warnings)),
    )
    return Planned(plan=plan, spec=spec, survey=seen, queen_config=queen, hive_configs=configs)
