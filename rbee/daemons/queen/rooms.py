# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's rooms put together: which part is given which, in the order in which they need each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp

from rbee.adapters import cel
from rbee.adapters.access_log import LineFile
from rbee.adapters.paths import Paths
from rbee.adapters.secrets import Token
from rbee.adapters.splice import Splice
from rbee.adapters.store.sqlite import SqliteJobStore
from rbee.adapters.traces import Traces
from rbee.contracts.configs import QueenConfig
from rbee.contracts.operations import OPERATIONS
from rbee.contracts.operations.workers import WorkerRestart
from rbee.core.errors import RbeeError
from rbee.daemons.access import Listener
from rbee.daemons.app import Server, build
from rbee.daemons.described import described
from rbee.daemons.job_routes import JobRoutes
from rbee.daemons.jobs import Handler, JobRunner
from rbee.daemons.queen.admission.clients import Clients
from rbee.daemons.queen.admission.gate import Gate
from rbee.daemons.queen.admission.shared_rates import SharedRates
from rbee.daemons.queen.ending import Ending
from rbee.daemons.queen.front.dispatch import Dispatcher
from rbee.daemons.queen.front.front import Front
from rbee.daemons.queen.front.models import Models
from rbee.daemons.queen.front.routes import Endpoints
from rbee.daemons.queen.known.catalog import Catalog
from rbee.daemons.queen.known.hives import Hives
from rbee.daemons.queen.known.probe import Prober
from rbee.daemons.queen.known.quarantine import Quarantine
from rbee.daemons.queen.known.registry import Registry
from rbee.daemons.queen.known.sharing import KnownTogether
from rbee.daemons.queen.known.since import Since
from rbee.daemons.queen.routing.ops import ExplainOps
from rbee.daemons.queen.routing.router import Router
from rbee.daemons.queen.scaling.scaler import Pace, Scaler
from rbee.daemons.queen.scaling.starter import Starter
from rbee.daemons.queen.seen.gauges import Gauges
from rbee.daemons.queen.seen.metrics import Metrics
from rbee.daemons.queen.seen.seen import Seen
from rbee.daemons.queen.work.forward import Forwarder
from rbee.daemons.queen.work.hive_lifecycle import HiveLifecycle, Home
from rbee.daemons.queen.work.infer import InferHandler
from rbee.daemons.queen.work.ops import FleetOps, all_handlers, resumed
from rbee.daemons.queen.work.stop_ops import StopOps
from rbee.daemons.queen.work.worker_stop import WorkerStopper

if TYPE_CHECKING:  # its driver is loaded where it is used
    from rbee.adapters.store.postgres import PostgresStore


class Rooms(ABC):
    """The parts of a queen, as attributes. Her daemon starts, stops and configures them.

    What stands here without a value is made by the daemon before `_build`.
    """

    config: QueenConfig
    clients: Clients
    registry: Registry
    metrics: Metrics
    ending: Ending
    store: SqliteJobStore | PostgresStore
    _paths: Paths
    _token: Token | None
    _clock: Callable[[], float]
    _hive_interval: float
    _scaling: Pace
    _listeners: Sequence[Listener]
    _http: aiohttp.ClientSession
    _splice: Splice

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Answer of `GET /v1/queen`."""

    @abstractmethod
    def reload(self) -> str:
        """Reads the settings again."""

    @abstractmethod
    def _queen_url_for(self, hive_url: str) -> str | None: ...

    def _build(self) -> None:
        traces = Traces(self.config.traces, self.config.fleet) if self.config.traces else None
        self.seen = Seen(self.metrics, LineFile(self._paths.state / "access.log"), self.config, traces)
        self.prober = Prober(self.registry, self._http)
        self.hives = Hives(
            self.registry,
            self.prober,
            self._http,
            token=self._token,
            queen_url_for=self._queen_url_for,
            clock=self._clock,
            interval=self._hive_interval,
        )
        self.catalog = Catalog(self.registry, self.config)
        self.router = Router(self.registry, self.config, self._clock, compile=cel.compiler())
        self.starter = Starter(
            self.registry, self.config, hives=self.hives, clock=self._clock, min_stay=self._scaling.min_stay
        )
        self.gate = Gate(self.registry, self.router, self.starter, self.config, self._clock)
        self.quarantine = Quarantine(self.registry, self._http, self._token, self._restart_worker, self.config)
        self.dispatcher = dispatcher = Dispatcher(
            registry=self.registry,
            catalog=self.catalog,
            clients=self.clients,
            gate=self.gate,
            prober=self.prober,
            splice=self._splice,
            seen=self.seen,
            token=self._token,
            clock=self._clock,
            ending=self.ending,
            quarantine=self.quarantine,
            limits=self.config.limits,
            router=self.router,
        )
        fleet = FleetOps(
            fleet=self.config.fleet,
            registry=self.registry,
            hives=self.hives,
            catalog=self.catalog,
            metrics=self.metrics,
            starter=self.starter,
            clock=self._clock,
        )
        self._forwarder = forwarder = Forwarder(self.hives, self._http, self._token)
        handlers = all_handlers(
            fleet, InferHandler(dispatcher, self._clock), forwarder, self._lifecycle_handlers(forwarder)
        )
        handlers["WorkerSpawn"] = self.starter.watched(handlers["WorkerSpawn"])
        explain = ExplainOps(self.router.decisions)
        handlers |= explain.handlers()
        secrets = [self._token.reveal()] if self._token is not None else []
        self.jobs = JobRunner(self.store, handlers, "queen", secrets, resumes=resumed(forwarder))
        self.together = KnownTogether(self.store, self.registry, self.hives)
        self.rates = SharedRates(self.store, self._clock)
        if self.store.shared:
            self.gate.limits.rates = self.rates
        self.starter.connect(self.jobs.run, self.gate.waiting, self.store.lease)
        self.scaler = Scaler(
            self.registry,
            self.starter,
            self.config,
            clock=self._clock,
            waiting=self.gate.waiting,
            oldest=self.gate.oldest,
            lease=self.store.lease,
            pace=self._scaling,
        )
        self.models = Models(
            registry=self.registry,
            catalog=self.catalog,
            starter=self.starter,
            clients=self.clients,
            since=Since(self.registry, self.hives, self.config),
            config=self.config,
            clock=self._clock,
        )
        self.metrics.gauges.append(
            Gauges(
                self.metrics,
                registry=self.registry,
                hives=self.hives,
                gate=self.gate,
                router=self.router,
                starter=self.starter,
                scaler=self.scaler,
                quarantine=self.quarantine,
                log=self.seen.file,
            )
        )
        endpoints = Endpoints(
            registry=self.registry,
            hives=self.hives,
            models=self.models,
            dispatcher=dispatcher,
            metrics=self.metrics,
            token=self._token,
            info=self.info,
            reload=self.reload,
            together=self.together,
        )
        app = build(described("queen", [*endpoints.routes(), *explain.routes(), *JobRoutes(self.jobs).routes()]))
        self._server = Server(app, self._listeners, Front(dispatcher, self._clock))

    def _lifecycle_handlers(self, forwarder: Forwarder) -> dict[str, Handler]:
        stopper = WorkerStopper(self.registry, self.prober, forwarder)
        home = Home(
            fleet=self.config.fleet,
            release=self.config.release,
            paths=self._paths,
            token=self._token,
            queen_url_for=self._queen_url_for,
        )
        lifecycle = HiveLifecycle(self.hives, stopper, home)
        stop = StopOps(
            self.registry,
            self.hives,
            stopper,
            lifecycle,
            refuse=self.ending.refuse,
            drained=self.ending.drained,
            end=self.ending.end,
        )
        return {**lifecycle.handlers(), **stop.handlers(), "WorkerStop": stopper.run}

    async def _restart_worker(self, request: WorkerRestart) -> None:
        """As a job, so that what was done about a hung worker can be read. Raises RbeeError."""
        job = await self.jobs.run(OPERATIONS["WorkerRestart"], request)
        if job.state != "completed":
            raise RbeeError(job.error.error if job.error else job.state, code=job.error.code if job.error else "failed")
