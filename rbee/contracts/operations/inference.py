# SPDX-License-Identifier: GPL-3.0-or-later
"""One answer from a model, as a job: for `rbee infer` and scripts. Programs use the OpenAI endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rbee.contracts.operations.base import operation
from rbee.core.doc import Doc


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """`tokens` counts the answer's; `seconds` from the request's start to its end."""

    text: str
    model: str
    worker_id: str
    hive_id: str
    tokens: int
    tokens_per_sec: float
    seconds: float
    finish_reason: str | None = None


@operation(family="", command="infer", response=InferResponse, served_by=("queen",))
@dataclass(frozen=True, slots=True, kw_only=True)
class Infer:
    """Ask a model once and narrate its answer as it comes (events `infer_token`, field `text`)."""

    model: Annotated[str, Doc("Model or alias.", min_length=1, example="bee-tiny")]
    prompt: Annotated[str, Doc("What to ask.", min_length=1, max_length=32768, example="Hello")]
    system: Annotated[str | None, Doc("System message.")] = None
    max_tokens: Annotated[int | None, Doc("Most tokens to answer with.", minimum=1)] = None
    temperature: Annotated[float, Doc("0 (same answer every time) to 2.", minimum=0, maximum=2)] = 0.7
    top_p: Annotated[float | None, Doc("Nucleus sampling.", minimum=0, maximum=1)] = None
    seed: Annotated[int | None, Doc("Seed of the sampler.")] = None
    stop: Annotated[tuple[str, ...], Doc("Texts that end the answer.", max_items=4)] = ()
    timeout: Annotated[
        float | None,
        Doc("Seconds it may take in all; a model that must be started first is waited for so long.", minimum=0.001),
    ] = None
