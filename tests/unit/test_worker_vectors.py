# SPDX-License-Identifier: GPL-3.0-or-later
"""Embedding requests in pieces: nothing lost, nothing in another's place."""

from __future__ import annotations

import json

import pytest

from rbee.daemons.worker.vectors import ENOUGH, Piece, pieces, together


@pytest.mark.parametrize(
    "body",
    [
        b'{"input" : "one", "model":"m"}',
        b'{ "model":"m","input":["a","b"]}',
        b'{"input":[1,2,3,4,5,6,7,8,9]}',
        b'{"input":["mixed", 3, 4, 5]}',
        b'{"model":"m"}',
        b'{"input":{"a":1}}',
        b'{"input":' + json.dumps(["short"] * 100).encode() + b"}",
    ],
)
def test_what_is_one_piece_keeps_its_bytes(body: bytes) -> None:
    (piece,) = pieces(body, "input", 2)
    assert (piece.body, piece.first) == (body, 0)


def test_many_inputs_are_cut_and_all_else_goes_with_each() -> None:
    texts = [f"{i} " + "é" * 1000 for i in range(9)]
    body = json.dumps({"user": "ü", "input": texts, "x": 1.50}, ensure_ascii=False).encode()
    made = pieces(body, "input", 3)
    assert [p.first for p in made] == [0, 3, 6]
    assert all(len(p.body) >= ENOUGH for p in made)
    read = [json.loads(p.body) for p in made]
    assert [text for r in read for text in r["input"]] == texts
    assert all({k: v for k, v in r.items() if k != "input"} == {"user": "ü", "x": 1.5} for r in read)
    assert all(b"1.5" in p.body for p in made)


def answer(*vectors: str, tokens: int = 1) -> bytes:
    items = ",".join(f'{{"embedding":{v},"index":{i},"object":"embedding"}}' for i, v in enumerate(vectors))
    return f'{{"model":"m","usage":{{"prompt_tokens":{tokens},"kind":"x"}},"data":[{items}]}}'.encode()


def test_answers_are_put_together_number_for_number() -> None:
    one, two = Piece(body=b"", first=0), Piece(body=b"", first=2)
    made = together([(one, answer("[1e-5]", "[0.10]", tokens=4)), (two, answer("[-0.0]", tokens=3))], "data")
    assert made.count(b"1e-5") == made.count(b"0.10") == made.count(b"-0.0") == 1
    read = json.loads(made)
    assert [d["index"] for d in read["data"]] == [0, 1, 2]
    assert (list(read), read["usage"]) == (["model", "usage", "data"], {"prompt_tokens": 7})
    assert together([(one, b" {} ")], "data") == b" {} "


def test_scores_are_sorted_over_all_pieces() -> None:
    def scored(*scores: float) -> bytes:
        items = [{"index": i, "relevance_score": s} for i, s in enumerate(scores)]
        return json.dumps({"results": sorted(items, key=lambda i: -i["relevance_score"])}).encode()

    both = [(Piece(body=b"", first=0), scored(0.1, 0.9)), (Piece(body=b"", first=2), scored(0.5, -3e2))]
    read = json.loads(together(both, "results"))
    assert [r["index"] for r in read["results"]] == [1, 2, 0, 3]
    assert [r["index"] for r in json.loads(together(both, "results", 2))["results"]] == [1, 2]


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"data":3}', b'{"data":[{"embedding":[]}]}', b'{"data":[3]}'])
def test_what_is_no_answer_is_said(bad: bytes) -> None:
    one = (Piece(body=b"", first=0), answer("[1]"))
    with pytest.raises(ValueError, match="no answer with data"):
        together([one, (Piece(body=b"", first=1), bad)], "data")
