# SPDX-License-Identifier: GPL-3.0-or-later
"""One function for each kind of action. Each may be run again after a failure: it does what is still missing."""

from collections.abc import Mapping

from rbee.core.actions import Kind
from rbee.fleet.apply import Handler
from rbee.fleet.handlers import hives, models, queen, workers

HANDLERS: Mapping[Kind, Handler] = {
    "queen.start": queen.start,
    "queen.configure": queen.configure,
    "queen.restart": queen.restart,
    "queen.stop": queen.stop,
    "hive.install": hives.install,
    "hive.start": hives.start,
    "hive.restart": hives.restart,
    "hive.stop": hives.stop,
    "hive.uninstall": hives.uninstall,
    "hive.register": queen.register,
    "hive.unregister": queen.unregister,
    "engine.install": models.install_engine,
    "engine.remove": models.remove_engine,
    "model.fetch": models.fetch,
    "model.push": models.push,
    "model.remove": models.remove,
    "worker.spawn": workers.spawn,
    "worker.configure": workers.spawn,  # one that runs as asked takes what needs no new process
    "worker.replace": workers.replace,
    "worker.stop": workers.stop,
}
