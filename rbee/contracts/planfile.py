# SPDX-License-Identifier: GPL-3.0-or-later
"""A saved plan (`rbee plan --out FILE`): what will be done, and what it was made from. Holds no secret."""

from __future__ import annotations

from dataclasses import dataclass

from rbee.contracts import codec
from rbee.core.errors import RbeeError
from rbee.core.plan import Plan

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """`source` is the rbee.yaml it was made from; `made_at` RFC 3339; `targets` what `--target` said."""

    format: int
    rbee: str
    made_at: str
    source: str
    plan: Plan
    targets: tuple[str, ...] = ()
    destroy: bool = False
    keep_models: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """Read first: a plan of another format may differ in all the rest."""

    format: int


def dump(saved: PlanFile) -> bytes:
    return codec.encode_pretty(saved)


def load(data: bytes, name: str) -> PlanFile:
    """The plan in a file's bytes. Raises RbeeError `bad_plan` (not a plan, or of another version of rbee)."""
    try:
        found = codec.decode(_Header, data).format
        saved = codec.decode(PlanFile, data) if found == FORMAT else None
    except codec.CodecError as e:
        raise RbeeError(
            f"{name} is not a plan: {e}.", code="bad_plan", mend="Make one with `rbee plan --out FILE`."
        ) from None
    if saved is None:
        raise RbeeError(
            f"{name} has plan format {found}; this rbee reads {FORMAT}.",
            code="bad_plan",
            mend="Make the plan again.",
        )
    return saved
