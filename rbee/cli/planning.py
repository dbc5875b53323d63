# SPDX-License-Identifier: GPL-3.0-or-later
"""What plan, apply and destroy share: from a file's path to a plan with all that is needed to do it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rbee.adapters.bundles import PipBundler
from rbee.adapters.digests import Digests
from rbee.adapters.installer import RealInstaller
from rbee.adapters.local_shell import LocalShell
from rbee.adapters.lockfile import read_pins
from rbee.adapters.paths import Paths
from rbee.cli.loading import load_file
from rbee.cli.wiring import RealHome, RealMachines, SystemClock, own_addresses, predict_memory
from rbee.core.errors import RbeeError
from rbee.core.model_files import safe_filename, together
from rbee.core.plan import Plan, check_targets, only
from rbee.core.providers import EngineProvider
from rbee.core.spec import Spec
from rbee.fleet import session
from rbee.fleet.local_models import parts
from rbee.fleet.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan (already narrowed to its targets), and the world to do it in."""

    plan: Plan
    world: World
    source: Path


def controller_python() -> None:
    """The controller needs a newer Python than a hive. Exits with 1 and words when it is too old."""
    if sys.version_info < (3, 11):  # hives run this package on 3.10; the controller must not
        sys.exit("rbee: this command needs Python 3.11 or newer (a hive does with 3.10).")


def prepare(
    source: Path,
    machines: RealMachines,
    home: RealHome,
    providers: Mapping[str, EngineProvider],
    request: session.Request,
    targets: tuple[str, ...],
) -> Prepared:
    """Observe and plan. Raises RbeeError, ProblemsError."""
    check_targets(request.spec, targets)
    bundler = PipBundler(home.paths)
    planned = session.make(request, machines, bundler)
    world = World(
        spec=planned.spec,
        providers=tuple(providers.values()),
        survey=planned.survey,
        machines=machines,
        local=LocalShell(),
        python=sys.executable,
        bundler=bundler,
        installer=RealInstaller(home.paths),
        home=home,
        clock=SystemClock(),
        queen_config=planned.queen_config,
        hive_configs=planned.hive_configs,
    )
    return Prepared(plan=only(planned.plan, targets), world=world, source=source)


def request_for(
    source: Path, paths: Paths, *, destroy: bool = False, keep_models: bool = False, parallelism: int = 10
) -> tuple[session.Request, RealHome, Mapping[str, EngineProvider]]:
    """Load the file and gather what planning needs from this machine. Raises ProblemsError, RbeeError."""
    controller_python()
    loaded = load_file(source, deploying=not destroy)
    home = RealHome(paths, loaded.spec.queen.token_file)
    request = session.Request(
        spec=loaded.spec,
        providers=tuple(loaded.providers.values()),
        sources=loaded.sources,
        token_file=home.token_file,
        token_digest=home.token_digest(),
        predict=predict_memory,
        addresses=own_addresses(),
        pinned=read_pins(lock_path(source), loaded.spec.models),
        files=file_digests(loaded.spec, Digests(paths.cache)),
        warnings=loaded.warnings,
        destroy=destroy,
        keep_models=keep_models,
        parallelism=parallelism,
    )
    return request, home, loaded.providers


def file_digests(spec: Spec, digests: Digests) -> dict[str, str]:
    """Digests of the local files that models come from: a file that was changed is another model.

    Reads each file once and again only when its size or time changed. Raises RbeeError `unreadable_model`.
    """
    out = {}
    for name, model in spec.models.items():
        if model.source.startswith("file:"):
            path = Path(model.source.removeprefix("file:"))
            try:
                out[name] = together([(safe_filename(f.name), digests.of(f)) for f in parts(path)])
            except OSError as e:
                raise RbeeError(
                    f"Model {name!r}: {path} cannot be read: {e.strerror}.", code="unreadable_model"
                ) from None
    return out


def lock_path(source: Path) -> Path:
    """rbee.lock stands beside rbee.yaml (NAME.lock beside NAME.yaml)."""
    return source.with_suffix(".lock")
