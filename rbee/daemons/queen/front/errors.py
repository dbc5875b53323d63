# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals of the front that carry more than a message."""

from __future__ import annotations

import math

from rbee.contracts import codec, openai
from rbee.core.errors import Unavailable
from rbee.daemons.queen.scaling.starter import Loading

#: How the reason begins of a worker that could not be reached at all, that lost its engine, or that sent nothing. One
#: that refused may serve a moment later.
UNREACHABLE, DIED, SILENT = "unreachable: ", "its engine died: ", "sent nothing for "
#: The request itself may have been the cause.
DEATHS = (UNREACHABLE, DIED, SILENT)


class NoWorker(Unavailable):
    """Every worker that has the model is unable to answer now, or there is none.

    `reasons` are of workers that are there, `not_started` of those that could be, both as `worker: reason`.
    """

    def __init__(
        self,
        models: tuple[str, ...],
        reasons: tuple[str, ...],
        loading: Loading | None,
        not_started: tuple[str, ...] = (),
    ) -> None:
        self.model = models[0] if models else ""
        eta = loading.eta_seconds if loading is not None else None
        super().__init__(
            _said(self.model, reasons, loading, not_started),
            code="no_worker_ready" if loading is None else "model_loading",
            retry_after=10.0 if loading is None else max(1.0, math.ceil(eta)) if eta is not None else 5.0,
        )
        self.loading = loading

    def body(self) -> bytes:
        """OpenAI's error body, and how far the model is."""
        said = openai.error_object(str(self), openai.error_type(503), self.code)
        if self.loading is not None:
            said["loading"] = codec.plain(self.loading)
        return codec.encode(said)


def _said(model: str, reasons: tuple[str, ...], loading: Loading | None, not_started: tuple[str, ...]) -> str:
    if loading is None:
        return f"No worker is ready for the model {model!r}: {told((*reasons, *not_started)) or 'no worker runs it'}."
    if loading.state == "queued":
        said = f"The model {model!r} waits until there is room for it, or its hive is there."
    else:
        far = [f"{loading.progress:.0%} of it are loaded"] if loading.progress is not None else []
        far += [f"about {max(1.0, loading.eta_seconds):.0f} s are left"] if loading.eta_seconds is not None else []
        said = f"The model {model!r} is being started: {', '.join(far) or 'come again in a moment'}."
    return f"{said} Until now: {why}." if (why := told(not_started)) else said


def told(reasons: tuple[str, ...]) -> str:
    """What is the same is said once, and of one worker what was said last: `a, b: why; c: why`."""
    last = {worker: why.rstrip(".") for worker, _, why in (reason.partition(": ") for reason in reasons)}
    whose: dict[str, list[str]] = {}
    for worker, why in last.items():
        whose.setdefault(why, []).append(worker)
    return "; ".join(f"{', '.join(workers)}: {why}" for why, workers in list(whose.items())[:5])
