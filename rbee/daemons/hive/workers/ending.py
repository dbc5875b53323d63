# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a worker's process: brought about or found, and told in a sentence."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from rbee.adapters import exit_reasons, process
from rbee.adapters.exit_reasons import OomWitness
from rbee.core.lifecycle import Verdict
from rbee.daemons.hive.workers.managed import Managed

log = logging.getLogger(__name__)


async def reason_of_end(
    worker: Managed, identity: process.Identity, witness: OomWitness, verdict: Verdict | None, drain: float
) -> str:
    """A sentence. Ends the process where there is a verdict; nothing of its group is left either way."""
    if verdict is not None:
        log.warning("worker %s %s; ending it", worker.id, verdict.reason)
        worker.settled.clear()
        worker.state = replace(worker.state, status="stopping", reason=f"It {verdict.reason}.")
        await process.end(identity, 0 if verdict.kind == "hung" else drain)
        process.exit_status(identity)
        return f"It {verdict.reason}."
    code = process.exit_status(identity)
    process.kill_group(identity)
    killed = code in (None, -9) and await asyncio.to_thread(witness.saw)
    return exit_reasons.sentence(code, worker.folder.last_words(), out_of_memory=killed)
