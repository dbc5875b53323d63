# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading headers of GGUF files: true ones, short ones, and ones that lie."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.adapters.gguf import BadGguf, check_whole, parse_header, read_header
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_header_says_what_the_model_is(tiny: Path) -> None:
    header = check_whole(tiny)
    assert (header.name, header.architecture, header.quantization) == ("tiny", "llama", "F32")
    assert (header.context_length, header.chat_template, header.tensors) == (4096, True, 21)
    shape = header.shape
    assert (shape.layers, shape.embedding, shape.feed_forward, shape.vocabulary) == (2, 64, 128, 260)
    assert (shape.heads, shape.kv_heads, shape.key_length, shape.value_length) == (4, 2, 16, 16)
    assert header.file_bytes == tiny.stat().st_size
    assert shape.tensor_bytes < header.file_bytes


def test_a_short_file_is_told_by_its_size(tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(tiny.read_bytes()[:-1])
    assert read_header(short) == read_header(tiny)
    with pytest.raises(BadGguf, match="cut short") as told:
        check_whole(short)
    assert "Download it again" in told.value.mend


def _field(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def _file(fields: list[bytes], *, version: int = 3, tensors: int = 0, tail: bytes = b"") -> io.BytesIO:
    return io.BytesIO(b"GGUF" + struct.pack("<IQQ", version, tensors, len(fields)) + b"".join(fields) + tail)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (io.BytesIO(b"<!DOCTYPE html>"), "no GGUF"),
        (io.BytesIO(b""), "cut short"),
        (_file([], version=99), "version 99"),
        (_file([], tensors=2**60), "tensors"),
        (_file([_field(b"x", 8, struct.pack("<Q", 2**62))]), "characters"),
        (_file([_field(b"x", 9, struct.pack("<IQ", 4, 2**62))]), "items"),
        (_file([_field(b"x", 9, struct.pack("<IQ", 9, 1))]), "array of type 9"),
        (_file([_field(b"x", 77, b"")]), "type 77"),
        (_file([_field(b"general.alignment", 4, struct.pack("<I", 33))]), "alignment"),
        (_file([], tensors=1, tail=struct.pack("<Q", 1) + b"t" + struct.pack("<I", 100)), "dimensions"),
        (_file([], tensors=1, tail=struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**63, 0, 0)), "cannot be"),
    ],
)
def test_lies_are_refused_by_name(file: io.BytesIO, said: str) -> None:
    with pytest.raises(BadGguf, match=said):
        parse_header(file, "hostile.gguf")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_hurt_header_does_more_than_raise(tiny: Path, data: st.DataObject) -> None:
    whole = bytearray(tiny.read_bytes()[:6000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 8))
        whole[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    try:
        parse_header(io.BytesIO(whole[: data.draw(st.integers(0, len(whole)))]), "hurt.gguf")
    except BadGguf:
        pass
