# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals of the front that carry more than a message."""

from __future__ import annotations

import math

from rbee.contracts import codec, openai
from rbee.core.errors import Unavailable
from rbee.daemons.queen.scaling.starter import Loading

#: How the reason begins of a worker that could not be reached at all; one that refused may serve a moment later.
UNREACHABLE = "unreachable: "


class NoWorker(Unavailable):
    """Every worker that has the model is unable to answer now, or there is none."""

    def __init__(self, models: tuple[str, ...], reasons: tuple[str, ...], loading: Loading | None) -> None:
        self.model = models[0] if models else ""
        why = "; ".join(reason.rstrip(".") for reason in reasons[:5]) or "no worker runs it"
        eta = loading.eta_seconds if loading is not None else None
        super().__init__(
            f"No worker is ready for the model {self.model!r}: {why}.",
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
