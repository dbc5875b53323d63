# SPDX-License-Identifier: GPL-3.0-or-later
"""Embedding and reranking requests, cut into pieces for the engine and put together again. Pure.

An engine goes on with all of a request whose client has left, so it gets no more at once than it is done with soon.
A request of one piece, and its answer, keep their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

#: Bytes of inputs that one piece has at least, where there are more: some thousand tokens.
ENOUGH: Final = 4096
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One request to the engine, and how many inputs stand before its first."""

    body: bytes
    first: int


def pieces(body: bytes, field: str, slots: int) -> list[Piece]:
    """`body` as requests with a part of the list in `field` each: at least as many items as the engine has slots.

    The whole when there is no such list, or when it is one input: a list of tokens.
    """
    raw = _decode(body)
    try:
        items = msgspec.json.decode(raw.get(field, b"null"), type=list[msgspec.Raw])
    except msgspec.ValidationError:
        items = []
    if len(items) <= slots or any(bytes(item)[:1] not in (b'"', b"[", b"{") for item in items):
        return [Piece(body=body, first=0)]
    cuts = _cuts([len(item) for item in items], slots)
    if len(cuts) == 1:
        return [Piece(body=body, first=0)]
    others = msgspec.json.encode({name: value for name, value in raw.items() if name != field})
    head = others[:-1] + (b"," if len(others) > 2 else b"") + msgspec.json.encode(field) + b":"
    made = []
    for first, end in zip(cuts, [*cuts[1:], len(items)], strict=True):
        made.append(Piece(body=head + msgspec.json.encode(items[first:end]) + b"}", first=first))
    return made


def _cuts(sizes: Sequence[int], slots: int) -> list[int]:
    """Where each piece begins."""
    cuts, count, size = [0], 0, 0
    for index, length in enumerate(sizes):
        if count >= slots and size >= ENOUGH:
            cuts.append(index)
            count = size = 0
        count += 1
        size += length
    return cuts


def together(answers: Sequence[tuple[Piece, bytes]], field: str, top: int | None = None) -> bytes:
    """The answer to the whole from those to its pieces: what `field` lists, with its places in the whole.

    Results that have a score stand best first, at most `top` of them; all else is as in the first answer. Raises
    ValueError when one is no such answer.
    """
    if len(answers) == 1:
        return answers[0][1]
    items: list[dict[str, msgspec.Raw]] = []
    usage: dict[str, int] = {}
    try:
        for piece, answer in answers:
            read = _decode(answer)
            for item in msgspec.json.decode(read[field], type=list[dict[str, msgspec.Raw]]):
                place = msgspec.json.decode(item["index"], type=int) + piece.first
                items.append({**item, "index": msgspec.Raw(b"%d" % place)})
            for name, count in msgspec.json.decode(read.get("usage", b"{}"), type=dict[str, Any]).items():
                if isinstance(count, int):
                    usage[name] = usage.get(name, 0) + count
    except (KeyError, msgspec.MsgspecError) as e:
        raise ValueError(f"no answer with {field}: {e}") from None
    if items and "relevance_score" in items[0]:
        items.sort(key=lambda item: -float(bytes(item["relevance_score"])))
        items = items[:top]
    first = _decode(answers[0][1])
    if "usage" in first:
        first["usage"] = msgspec.Raw(msgspec.json.encode(usage))
    first[field] = msgspec.Raw(msgspec.json.encode(items))
    return msgspec.json.encode(first)
