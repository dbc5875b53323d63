# SPDX-License-Identifier: GPL-3.0-or-later
"""Request bodies on their way to the engine: checked, a few top-level fields set, everything else byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from rbee.contracts import openai
from rbee.core import sampling

Kind = Literal["chat", "completion"]

#: The paths whose answers we know how to fold.
KINDS: Mapping[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the client wants, as far as it changes what we do. `choices`: how many answers come interleaved."""

    kind: Kind
    model: str
    stream: bool
    usage: bool
    choices: int


def read(kind: Kind, body: bytes) -> Asked:
    """Checks a body as OpenAI's servers would. Raises openai.BadBody."""
    fields = openai.fields(body)
    try:
        (sampling.check_chat if kind == "chat" else sampling.check_completion)(fields)
    except sampling.Refused as e:
        raise openai.BadBody(e.message, e.code, e.param) from None
    prompt = fields.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return Asked(
        kind=kind,
        model=fields["model"],
        stream=fields.get("stream") is True,
        usage=(fields.get("stream_options") or {}).get("include_usage") is True,
        choices=(fields.get("n") or 1) * prompts,
    )


def with_fields(body: bytes, fields: Mapping[str, bytes]) -> bytes:
    """`body` with these top-level fields set to these JSON texts; the others keep their bytes."""
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    raw.update((name, msgspec.Raw(value)) for name, value in fields.items())
    return msgspec.json.encode(raw)
