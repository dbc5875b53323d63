# SPDX-License-Identifier: GPL-3.0-or-later
"""A routing decision as it is told and recorded: `rbee explain` shows one, `rbee policy test` plays them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.core.doc import Doc

Outcome = Literal["sent", "queued", "loading", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """What routing knew of a request; never its text. Policies see these fields as `request`."""

    model: Annotated[str, Doc("As the client asked for it.")]
    models: Annotated[tuple[str, ...], Doc("What that name stands for, first choice first.")] = ()
    path: str = ""
    stream: bool = False
    body_bytes: int = 0
    messages: Annotated[int, Doc("How many.")] = 0
    tools: bool = False
    images: bool = False
    max_tokens: Annotated[int | None, Doc("Most tokens of the answer; policies see 0 where the client says none.")] = (
        None
    )
    key: Annotated[str, Doc("Name of the client's key; empty without one.")] = ""
    priority: str = "interactive"
    require: Annotated[dict[str, str], Doc("Labels that the hive must have.")] = field(default_factory=dict)
    headers: Annotated[dict[str, str], Doc("The client's `x-` headers, names in lower case; none that is secret.")] = (
        field(default_factory=dict)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """A worker as routing saw it. Policies see these fields as `worker`; `excluded` and `terms` are the outcome."""

    id: str
    hive: str
    model: str
    engine: str = ""
    type: str = ""
    device: str = ""
    labels: Annotated[dict[str, str], Doc("Of its hive.")] = field(default_factory=dict)
    status: str = "ready"
    slots: int = 1
    busy: int = 0
    load: Annotated[float, Doc("Share of its slots that is taken, 0 to 1.")] = 0.0
    context_length: int = 0
    capabilities: tuple[str, ...] = ()
    tokens_per_sec: float = 0.0
    affine: Annotated[bool, Doc("It has answered for the same leading messages before.")] = False
    excluded: Annotated[str | None, Doc("Why it could not be chosen; none: it could.")] = None
    terms: Annotated[dict[str, float], Doc("What its score is made of; the greatest sum is chosen.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision. `others` counts candidates that are left out here because there were too many."""

    request_id: str
    at: Annotated[str, Doc("RFC 3339.")]
    request: RequestRecord
    outcome: Outcome
    reason: str
    code: Annotated[str, Doc("Of the error that a refused request was answered with.")] = ""
    worker_id: str | None = None
    attempts: Annotated[tuple[str, ...], Doc("`worker: why` of those that failed it before.")] = ()
    waited_ms: float = 0.0
    candidates: tuple[CandidateRecord, ...] = ()
    others: int = 0
    notes: Annotated[tuple[str, ...], Doc("What else played a part: a policy that failed, a cold start.")] = ()
