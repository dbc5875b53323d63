# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading headers of GGUF files: true ones, short ones, and ones that lie."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path

import gguf as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.adapters import gguf, gguf_reader, gguf_tables
from rbee.adapters.gguf import BadGguf, GgufHeader, check_whole, parse_header, read_header
from rbee.adapters.model_facts import count_text, described, template_of
from rbee.core.records import ModelFile, ModelRecord
from tests.support.gguf_bytes import field, fields, header, tensor, text, write_parts
from tests.support.tiny_gguf import CHATML, write_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def parsed(*parts: bytes, tensors: tuple[bytes, ...] = (), tail: bytes = b"") -> GgufHeader:
    return parse_header(io.BytesIO(header(parts, tensors) + tail), "x.gguf")


def test_a_header_says_what_the_model_is(tiny: Path) -> None:
    found = check_whole(tiny)
    assert (found.name, found.architecture, found.quantization) == ("tiny", "llama", "F32")
    assert (found.context_length, found.chat_template, found.tensors) == (4096, True, 21)
    assert (found.version, found.tokenizer) == (3, "gpt2/gpt-2")
    shape = found.shape
    assert (shape.layers, shape.embedding, shape.feed_forward, shape.vocabulary) == (2, 64, 128, 260)
    assert (shape.heads, shape.kv_heads, shape.key_length, shape.value_length) == (4, 2, 16, 16)
    assert found.file_bytes == tiny.stat().st_size
    assert shape.tensor_bytes < found.file_bytes


def test_counts_are_those_of_the_format_s_own_reader(tiny: Path) -> None:
    read = reference.GGUFReader(tiny)
    found = read_header(tiny)
    assert found.parameters == sum(int(t.n_elements) for t in read.tensors)
    assert found.fields == len([k for k in read.fields if not k.startswith("GGUF.")])
    assert found.tensors == len(read.tensors)


def test_the_tables_are_ggml_s_own() -> None:
    for kind, (block, size) in reference.constants.GGML_QUANT_SIZES.items():
        name, ours, ours_size = gguf_tables.TENSOR_TYPES[int(kind)]
        assert (name, ours) == (kind.name, block)
        # The reference counts two 32-bit floats there; ggml has two of 16 bits, and no file holds one.
        assert ours_size == size or name == "Q8_1"
    for file_type in reference.LlamaFileType:
        if file_type is not reference.LlamaFileType.GUESSED:
            said = file_type.name.replace("ALL_", "").replace("MOSTLY_", "").replace("_MOE", "")
            assert gguf_tables.FILE_TYPES[int(file_type)] == said


def test_the_template_is_read_afresh(tiny: Path, tmp_path: Path) -> None:
    assert gguf.chat_template(tiny) == CHATML
    assert parsed().chat_template is False
    long = tmp_path / "long.gguf"
    long.write_bytes(header(fields({"tokenizer.chat_template": "x" * (gguf_reader.KEPT_TEXT + 1)})))
    assert read_header(long).chat_template
    assert gguf.chat_template(long) is None


def test_the_first_bytes_of_a_big_file_are_enough() -> None:
    big = tensor("w", (2**20, 2**15), 12, 0)
    found = parsed(*fields({"general.architecture": "llama"}), tensors=(big,))
    assert found.parameters == 2**35
    assert found.file_bytes > 2**34
    assert found.quantization == "Q4_K"


@pytest.mark.parametrize(
    ("said", "quantization"),
    [
        ({"general.file_type": 15}, "Q4_K_M"),
        ({"general.file_type": 1024 + 7}, "Q8_0"),
        ({"general.file_type": 999}, "Q6_K"),
        ({"general.file_type": "Q4"}, "Q6_K"),
        ({}, "Q6_K"),
    ],
)
def test_quantization_is_the_file_s_word_or_the_type_of_most_bytes(said: dict[str, int], quantization: str) -> None:
    held = (tensor("a", (256, 8), 0, 0), tensor("b", (256, 64), 14, 8192), tensor("c", (256, 8), 12, 30_000))
    assert parsed(*fields(said), tensors=held).quantization == quantization


def test_a_newer_type_of_tensor_makes_no_file_too_short() -> None:
    found = parsed(tensors=(tensor("a", (256, 2), 77, 0),))
    assert (found.parameters, found.shape.tensor_bytes, found.quantization) == (512, 2, None)


def test_numbers_for_each_layer_are_their_largest() -> None:
    said = {"general.architecture": "x", "x.attention.head_count": 8, "x.attention.head_count_kv": [0, 4, 0, 2]}
    assert parsed(*fields({**said, "tokenizer.ggml.tokens": ["a", "bc", ""]})).shape.kv_heads == 4
    negative = field("x.attention.head_count_kv", 9, struct.pack("<IQi", 5, 1, -3))
    assert parsed(*fields({"general.architecture": "x"}), negative).shape.kv_heads == 0


def test_long_texts_and_arrays_across_buffers_are_read_past() -> None:
    """A second tokenizer as JSON, a vocabulary of long words, numbers of it: more than one buffer each."""
    words = ["w" * (n % 700) for n in range(9000)]
    said = [
        *fields({"tokenizer.huggingface.json": "{" * (3 * 2**20), "tokenizer.ggml.tokens": words}),
        field("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 700_000) + b"\0" * 2_800_000),
        field("flag", 7, b"\1"),
        *fields({"general.name": "past it all"}),
    ]
    found = parsed(*said)
    assert (found.name, found.shape.vocabulary, found.fields) == ("past it all", 9000, 5)


def test_a_short_file_is_told_by_its_size(tiny: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(tiny.read_bytes()[:-1])
    assert read_header(short) == read_header(tiny)
    with pytest.raises(BadGguf, match="cut short") as told:
        check_whole(short)
    assert "Download it again" in told.value.mend


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", tmp_path):
        with pytest.raises(BadGguf, match="is not a file"):
            read_header(path)
        with pytest.raises(BadGguf, match="is not a file"):
            gguf.chat_template(path)


def test_another_byte_order_is_told_as_that() -> None:
    for data in (header([], order=">"), b"FUGG" + bytes(20)):
        with pytest.raises(BadGguf, match="big-endian"):
            parse_header(io.BytesIO(data), "be.gguf")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html>", "no GGUF"),
        (b"", "cut short"),
        (header([], version=99), "version 99"),
        (header([], version=1), "version 1;"),
        (header([], version=0), "version 0;"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "fields"),
        (header([field("x", 8, struct.pack("<Q", 2**62))]), "characters"),
        (header([field("x", 8, struct.pack("<Q", 2**26))]), "longer than"),
        (header([struct.pack("<Q", 2**20)]), "characters in a name"),
        (header([field("x", 9, struct.pack("<IQ", 4, 2**62))]), "items"),
        (header([field("x", 9, struct.pack("<IQ", 9, 1))]), "array of type 9"),
        (header([field("x", 9, struct.pack("<IQQ", 8, 2, 2**63))]), "longer than"),
        (header([field("x", 77, b"")]), "type 77"),
        (header([field("general.alignment", 4, struct.pack("<I", 33))]), "alignment"),
        (header([], [text("t") + struct.pack("<I", 100)]), "dimensions"),
        (header([], [tensor("t", (2**63,), 0, 0)]), "cannot be"),
        (header([], [tensor("t", (2**52,), 77, 0)]), "cannot be"),
    ],
)
def test_lies_are_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(BadGguf, match=said):
        parse_header(io.BytesIO(data), "hostile.gguf")


#: A small header with a field of every kind.
SMALL = header(
    [
        *fields({"general.architecture": "llama", "llama.block_count": 2, "tokenizer.chat_template": "{{x}}"}),
        *fields({"tokenizer.ggml.tokens": ["a", "bb"], "llama.attention.head_count_kv": [1, 2], "split.count": 1}),
        *(field(f"k{kind}", kind, bytes(struct.calcsize("<" + code))) for kind, code in gguf_tables.SCALARS.items()),
    ],
    [tensor("a", (32, 2), 8, 0), tensor("b", (), 0, 96)],
)


def test_a_header_cut_at_any_byte_is_told(tmp_path: Path) -> None:
    whole = parse_header(io.BytesIO(SMALL), "small.gguf")
    assert whole.parameters == 65
    for size in range(len(SMALL)):
        with pytest.raises(BadGguf, match="cut short"):
            parse_header(io.BytesIO(SMALL[:size]), "small.gguf")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_hurt_header_does_more_than_raise(tiny: Path, data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([SMALL, tiny.read_bytes()[:6000]])))
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.integers(1, 8))
        at = data.draw(st.integers(0, len(whole) - size))
        whole[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
    hurt = io.BytesIO(whole[: data.draw(st.integers(0, len(whole)))])
    tracemalloc.start()
    try:
        assert isinstance(parse_header(hurt, "hurt.gguf"), GgufHeader)
    except BadGguf:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 8 * 2**20


# Models in several files.


def record(path: Path, **more: object) -> ModelRecord:
    return ModelRecord(id="m", name="m", path=str(path), size_bytes=0, status="available", **more)  # type: ignore[arg-type]


def test_parts_are_one_model(tmp_path: Path) -> None:
    made = write_parts(tmp_path)
    known = tuple(ModelFile(name=p.name, size_bytes=0, sha256="ab" if p == made[1] else None) for p in made)
    assert [f.name for f in described(record(made[0])).files] == [p.name for p in made]
    found = described(record(made[0], files=known))
    assert (found.architecture, found.layers, found.tensor_count, found.parameters) == ("llama", 7, 2, 256)
    assert found.quantization == "F16"
    assert found.size_bytes == sum(p.stat().st_size for p in made)
    assert [(f.name, f.size_bytes, f.sha256) for f in found.files] == [
        (p.name, p.stat().st_size, "ab" if p == made[1] else None) for p in made
    ]
    whole = check_whole(made[0])
    assert (found.size_bytes - whole.file_bytes < 32, whole.shape.tensor_bytes) == (True, 512)


def test_a_part_that_is_missing_short_or_foreign_is_named(tmp_path: Path) -> None:
    first, second, third = write_parts(tmp_path)
    good = third.read_bytes()
    third.write_bytes(good[:-1])
    with pytest.raises(BadGguf, match=r"00003-of-00003.* is cut short"):
        described(record(first))
    third.unlink()
    with pytest.raises(BadGguf, match=r"missing: .*big-00003-of-00003"):
        described(record(first))
    third.write_bytes(second.read_bytes())
    with pytest.raises(BadGguf, match="is not part 3 of 3: it says that it is part 2 of 3"):
        described(record(first))
    third.write_bytes(good)
    with pytest.raises(BadGguf, match="Name its first part") as told:
        described(record(second))
    assert told.value.code == "invalid_model"
    alone = tmp_path / "other.gguf"
    alone.write_bytes(first.read_bytes())
    with pytest.raises(BadGguf, match="its name does not say so"):
        described(record(alone))
    for old in (first, second, third):
        old.rename(old.with_name(old.name.replace("of-00003", "of-00004")))
    with pytest.raises(BadGguf, match="its name says 4"):
        described(record(first.with_name(first.name.replace("of-00003", "of-00004"))))


def test_parts_that_do_not_make_the_whole_are_told(tmp_path: Path) -> None:
    made = write_parts(tmp_path, tensors=5)
    with pytest.raises(BadGguf, match="2 tensors together, its first part says 5"):
        described(record(made[0]))


def test_names_like_parts_of_a_whole_file(tiny: Path, tmp_path: Path) -> None:
    loud = tmp_path / "x-00001-of-00002.GGUF"
    assert [p.name for p in gguf.parts(loud)] == ["x-00001-of-00002.GGUF", "x-00002-of-00002.GGUF"]
    odd = tmp_path / "x-00001-of-00000.gguf"
    odd.write_bytes(tiny.read_bytes())
    assert described(record(odd)).files == ()
    assert gguf.parts(odd) == [odd]


def test_a_record_has_all_that_the_header_says(tiny: Path) -> None:
    found = described(record(tiny))
    assert (found.heads, found.kv_heads, found.embedding_length, found.gguf_version) == (4, 2, 64, 3)
    assert (found.tokenizer, found.chat_template, found.size_bytes) == ("gpt2/gpt-2", True, tiny.stat().st_size)
    assert found.parameter_count == count_text(found.parameters or 0)
    assert template_of(found) == CHATML
    assert template_of(record(tiny.parent / "gone.gguf")) is None


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (999, "999"), (1_500, "1.5K"), (134_515_008, "135M"), (999_949_999, "1B"), (1_235_814_400, "1.2B"),
     (7_241_732_096, "7.2B"), (13_015_864_320, "13B"), (70_553_706_496, "70.6B"), (671_026_419_200, "671B"),
     (1_026_000_000_000, "1T")],
)  # fmt: skip
def test_counts_for_a_person(number: int, said: str) -> None:
    assert count_text(number) == said


def test_the_longest_array_is_read_past() -> None:
    longest = field("x", 9, struct.pack("<IQ", 0, gguf_reader.MAX_ARRAY) + bytes(gguf_reader.MAX_ARRAY))
    assert parsed(longest, *fields({"general.name": "after"})).name == "after"
