# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a listing are a model."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.core import model_files
from rbee.core.errors import InvalidRequest, NotFound
from rbee.core.model_files import choose, mlc_files, quantization_of, shards, stem, whole


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("tinyllama.q8_0.gguf", "Q8_0"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model.i1-IQ2_XXS.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("x-fp16.gguf", "F16"),
        ("x-BF16-00001-of-00002.gguf", "BF16"),
        ("x-Q6_K-imat.gguf", "Q6_K"),
        ("Q5_K_M/model-00001-of-00003.gguf", "Q5_K_M"),
        ("bitnet-TQ1_0.gguf", "TQ1_0"),
        ("Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("seq2seq.gguf", None),
        ("Q44.gguf", None),
        ("model.gguf", None),
    ],
)
def test_the_quantization_is_in_the_name(name: str, label: str | None) -> None:
    assert quantization_of(name) == label


def test_names_without_what_is_not_the_model() -> None:
    assert stem("a/b-00001-of-00003.gguf") == "b"
    assert stem("b.GGUF") == "b"
    assert model_files.is_quantization("q4_k_m")
    assert not model_files.is_quantization("1b")


@given(st.integers(1, 40), st.data())
def test_any_part_names_all_in_order(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(1, count))
    names = shards(f"dir/m-{index:05d}-of-{count:05d}.gguf")
    assert len(names) == count
    assert names == tuple(sorted(names))
    assert names[index - 1] == f"dir/m-{index:05d}-of-{count:05d}.gguf"
    assert shards(names[0]) == names
    assert model_files.head(names[index - 1]) == names[0]


def test_what_is_not_split_stands_for_itself() -> None:
    for name in ("m.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-00003.bin"):
        assert shards(name) == (name,)
        assert model_files.head(name) == name


def test_more_parts_than_any_model_has() -> None:
    with pytest.raises(InvalidRequest, match="claims 99999 parts"):
        shards("m-00001-of-99999.gguf")


def test_missing_parts_are_named() -> None:
    there = ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]
    with pytest.raises(NotFound, match=r"R has 2 of the 3 parts of 'm': m-00002-of-00003.gguf is missing"):
        whole(there[1], there, "R")
    with pytest.raises(NotFound, match=r"m-00004-of-00009.gguf, \.\.\. are missing"):
        choose(["m-00001-of-00009.gguf"], None, "R")


MANY = [
    "README.md",
    "mmproj-F16.gguf",
    "imatrix.gguf",
    "m-Q2_K.gguf",
    "m-Q8_0.gguf",
    "m-Q4_K_S.gguf",
    "m-UD-Q4_K_XL.gguf",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("paths", "wanted", "chosen"),
    [
        (MANY, None, ["m-Q4_K_S.gguf"]),
        ([*MANY, "m-Q4_K_M.gguf"], None, ["m-Q4_K_M.gguf"]),
        (MANY, "latest", ["m-Q4_K_S.gguf"]),
        (MANY, "q8_0", ["m-Q8_0.gguf"]),
        (MANY, "bf16", MANY[-2:]),
        (MANY[:4] + MANY[-2:], None, ["m-Q2_K.gguf"]),
        (["a-F16.gguf", "a-Q1_Z.gguf"], None, ["a-Q1_Z.gguf"]),
        (["a-F16.gguf", "a.gguf"], None, ["a-F16.gguf"]),
        (["only.gguf", "mmproj-only.gguf"], None, ["only.gguf"]),
        (["a-fp16.gguf"], "F16", ["a-fp16.gguf"]),
    ],
)
def test_a_quantization_is_chosen(paths: list[str], wanted: str | None, chosen: list[str]) -> None:
    assert list(choose(paths, wanted, "R")) == chosen


def test_what_cannot_be_chosen_says_what_there_is() -> None:
    with pytest.raises(NotFound, match=r"R has no Q4_K_N; it has BF16, Q2_K, Q4_K_S, .*Did you mean 'Q4_K_S'"):
        choose(MANY, "Q4_K_N", "R")
    with pytest.raises(NotFound, match=r"no quantization in its names\. Name a file: a.gguf, b.gguf"):
        choose(["a.gguf", "b.gguf"], "Q8_0", "R")
    with pytest.raises(InvalidRequest, match=r"several that could be meant: a-Q8_0.gguf, b-Q8_0.gguf"):
        choose(["a-Q8_0.gguf", "b-Q8_0.gguf"], None, "R")
    with pytest.raises(InvalidRequest, match=r"b-1\.gguf, b-10\.gguf, .*b-2\.gguf, \.\.\."):
        choose([f"b-{i}.gguf" for i in range(1, 30)], None, "R")
    with pytest.raises(NotFound, match="no GGUF file"):
        choose(["README.md", "mmproj.gguf", "model.safetensors"], None, "R")


def test_the_files_of_an_mlc_model() -> None:
    names = [
        *("params_shard_1.bin", "params_shard_0.bin", "logs.txt", "README.md", "mlc-chat-config.json", "lib.so"),
        *("tokenizer.json", "tokenizer_config.json", "tensor-cache.json", "merges.txt", "vocab.json", ".gitattributes"),
    ]
    assert model_files.is_mlc(names)
    assert mlc_files(names, "R") == (
        *("mlc-chat-config.json", "merges.txt", "params_shard_0.bin", "params_shard_1.bin", "tensor-cache.json"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.json"),
    )
    with pytest.raises(NotFound, match="is no MLC model"):
        mlc_files(["x.gguf"], "R")
    for gone in ("tensor-cache.json", "params_shard_"):
        with pytest.raises(NotFound, match="not the weights"):
            mlc_files([n for n in names if not n.startswith(gone)], "R")


def test_the_digest_of_a_model() -> None:
    assert model_files.together([("a", "1" * 64)]) == "1" * 64
    lines = f"a {'1' * 64}\nb {'2' * 64}\n"
    assert model_files.together([("a", "1" * 64), ("b", "2" * 64)]) == hashlib.sha256(lines.encode()).hexdigest()
