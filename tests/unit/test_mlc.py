# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the folders of MLC models: true ones, ones where something is missing, and ones that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.adapters.mlc import BadMlc, MlcModel, check_whole, read_folder
from rbee.adapters.model_facts import described, template_of
from rbee.core.memory import MLC_PREFILL_CHUNK, mlc_bytes
from rbee.core.records import ModelFile, ModelRecord
from tests.support.mlc_folder import PARAMETERS, write_mlc


def test_a_folder_says_what_the_model_is(tmp_path: Path) -> None:
    found = check_whole(write_mlc(tmp_path / "m"))
    assert (found.architecture, found.quantization, found.conversation) == ("qwen2", "q4f16_1", "chatml")
    assert (found.context_length, found.prefill_chunk, found.tensors) == (32768, 8192, 3)
    assert found.parameters == PARAMETERS
    shape = found.shape
    assert (shape.layers, shape.heads, shape.kv_heads, shape.key_length, shape.vocabulary) == (24, 14, 2, 64, 151936)
    assert shape.tensor_bytes == sum(s.size for s in found.shards) == 64 * 8 * 4 + 64 * 2 * 2 + 96 * 2
    assert [s.name for s in found.shards] == ["params_shard_0.bin", "params_shard_1.bin"]
    assert found.shards[0].md5 is not None


def test_a_record_has_all_of_it(tmp_path: Path) -> None:
    folder = write_mlc(tmp_path / "m")
    (folder / "README.md").write_text("hello")
    known = (
        ModelFile(name="README.md", size_bytes=5, sha256="aa"),
        ModelFile(name="params_shard_0.bin", size_bytes=1, sha256="bb"),
        ModelFile(name="gone.txt", size_bytes=1),
    )
    record = ModelRecord(
        id="m", name="m", path=str(folder), size_bytes=0, status="available", format="mlc", files=known
    )
    found = described(record)
    sizes = {f.name: f.size_bytes for f in found.files}
    assert set(sizes) == {p.name for p in folder.iterdir()}
    assert all(sizes[p.name] == p.stat().st_size for p in folder.iterdir())
    assert found.size_bytes == sum(sizes.values())
    assert {f.name: f.sha256 for f in found.files if f.sha256} == {"README.md": "aa", "params_shard_0.bin": "bb"}
    assert (found.architecture, found.quantization, found.layers, found.heads) == ("qwen2", "q4f16_1", 24, 14)
    assert (found.parameter_count, found.tokenizer, found.chat_template) == ("4.2K", "tokenizer.json", True)
    assert template_of(found) == "chatml"
    (folder / "mlc-chat-config.json").unlink()
    assert template_of(found) is None


def test_older_names_are_known(tmp_path: Path) -> None:
    folder = write_mlc(tmp_path, cache="ndarray-cache.json", conv_template="llama-3", context_window_size=-1,
                       sliding_window_size=4096, prefill_chunk_size=None)  # fmt: skip
    found = check_whole(folder)
    assert (found.conversation, found.context_length, found.prefill_chunk) == ("llama-3", 4096, MLC_PREFILL_CHUNK)
    assert "ndarray-cache.json" in found.files


def test_numbers_of_models_that_see(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    shape = read_folder(write_mlc(tmp_path, model_config={"text_config": text}, vocab_size=None)).shape
    assert (shape.layers, shape.kv_heads, shape.key_length, shape.feed_forward, shape.vocabulary) == (3, 4, 16, 256, 0)


@pytest.mark.parametrize(
    ("quantization", "tensors", "parameters"),
    [
        ("q4f16_1", [("a.q_weight", [10, 4], "uint32"), ("a.q_scale", [10, 1], "float16")], 320),
        ("q3f16_1", [("a.q_weight", [10, 4], "uint32")], 400),
        ("q4f16_ft", [("a.q_weight", [10, 4], "int8")], 80),
        ("q4f16_autoawq", [("a.qweight", [10, 4], "uint32"), ("a.qzeros", [9], "uint32"), ("a.scales", [9], "")], 320),
        ("q0f16", [("a.weight", [10, 4], "float16")], 40),
        ("e4m3_e4m3_f16", [("a.q_weight", [10, 4], "float8_e4m3fn")], 40),
        ("q4f16_1", [], 16),
    ],
)  # fmt: skip
def test_parameters_are_counted_unpacked(tmp_path: Path, quantization: str, tensors: Any, parameters: int) -> None:
    folder = write_mlc(tmp_path, quantization=quantization)
    said = [{"name": n, "shape": s, "dtype": d} for n, s, d in tensors]
    records = [{"dataPath": "params_shard_0.bin", "nbytes": 9, "records": said}]
    cache = {"metadata": {"ParamBytes": 9.0, "BitsPerParam": 4.5}, "records": records}
    (folder / "tensor-cache.json").write_text(json.dumps(cache))
    assert read_folder(folder).parameters == parameters


def test_what_is_missing_or_short_is_named(tmp_path: Path) -> None:
    folder = write_mlc(tmp_path / "m")
    shard = folder / "params_shard_1.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(BadMlc, match=r"params_shard_1\.bin has 191 bytes, not 192") as told:
        check_whole(folder)
    assert told.value.code == "invalid_model"
    shard.unlink()
    with pytest.raises(BadMlc, match=r"missing: .*params_shard_1\.bin"):
        check_whole(folder)
    shard.mkdir()
    with pytest.raises(BadMlc, match="is not a file"):
        check_whole(folder)
    shard.rmdir()
    shard.write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadMlc, match=r"missing: .*tokenizer\.json"):
        check_whole(folder)
    (folder / "tensor-cache.json").unlink()
    with pytest.raises(BadMlc, match=r"no tensor-cache\.json"):
        check_whole(folder)
    with pytest.raises(BadMlc, match=r"no mlc-chat-config\.json"):
        check_whole(tmp_path)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([{"dataPath": "../../etc/passwd", "nbytes": 1}], "outside of the model"),
        ([{"dataPath": "", "nbytes": 1}], "outside of the model"),
        ([{"dataPath": "a\0b", "nbytes": 1}], "outside of the model"),
        ([{"dataPath": "a", "nbytes": -1}], "cannot have"),
        ([{"dataPath": "a", "nbytes": 2**60}], "cannot have"),
        ([{"dataPath": "a", "nbytes": 1}, {"dataPath": "a", "nbytes": 1}], "twice"),
        ([{"dataPath": "a", "nbytes": 1, "records": [{"name": "t", "shape": [-1]}]}], "cannot have the shape"),
        ([{"dataPath": "a", "nbytes": 1, "records": [{"name": "t", "shape": [2] * 900}]}], "cannot have the shape"),
        ([{"nbytes": 1}], "cannot be read"),
        ("x", "cannot be read"),
    ],
)
def test_lies_are_refused_by_name(tmp_path: Path, records: Any, said: str) -> None:
    folder = write_mlc(tmp_path)
    (folder / "tensor-cache.json").write_text(json.dumps({"records": records}))
    with pytest.raises(BadMlc, match=said):
        read_folder(folder)


def test_a_tokenizer_file_outside_of_the_folder_is_none_of_the_model(tmp_path: Path) -> None:
    folder = write_mlc(tmp_path, tokenizer_files=["../../secret", "tokenizer.json"])
    assert read_folder(folder).files == ("mlc-chat-config.json", "tensor-cache.json", "tokenizer.json")


def test_a_huge_config_is_not_read(tmp_path: Path) -> None:
    folder = write_mlc(tmp_path)
    with (folder / "mlc-chat-config.json").open("wb") as f:
        f.truncate(2**40)
    with pytest.raises(BadMlc, match="longer than"):
        read_folder(folder)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_odd_folder_does_more_than_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = write_mlc(tmp_path_factory.mktemp("odd"))
    for name in ("mlc-chat-config.json", "tensor-cache.json"):
        said = json.loads((folder / name).read_text())
        for key in data.draw(st.sets(st.sampled_from(sorted(said)), max_size=3)):
            said[key] = data.draw(_json)
        if name.startswith("mlc") and data.draw(st.booleans()):
            said["model_config"] = {k: data.draw(_json) for k in ("hidden_size", "num_attention_heads", "head_dim")}
        (folder / name).write_text(json.dumps(said))
    try:
        assert isinstance(check_whole(folder), MlcModel)
    except BadMlc:
        pass


def test_memory_is_mlc_s_own_sum(tmp_path: Path) -> None:
    shape = read_folder(write_mlc(tmp_path)).shape
    needed = mlc_bytes(shape, context=4096, parallel=4, prefill_chunk=2048)
    # By hand from its config.cc, without the temporary buffers (which only the compiled library tells).
    cache = 4 * 4096 * (64 * 2 * 24 * 4 + 1.25)
    workspace = 5 * 88 + 2048 * 15 * 8 + 2048 * 64 * 16 * 4 + 48 * 1024 * 1024
    model = 2048 * 4 + 16 + (2048 * 2 + 4) * 896 * 2
    logits = 4 * 20 + 4 * 151936 * 16.125
    temporary = needed - int(shape.tensor_bytes + cache + workspace + model + logits)
    assert abs(temporary - 2 * 2048 * 2 * (3 * 4864 + 4 * 896)) <= 1
    assert mlc_bytes(shape, context=8192, parallel=4) - mlc_bytes(shape, context=4096, parallel=4) == int(cache)
