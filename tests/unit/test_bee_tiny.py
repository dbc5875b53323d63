# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo model that ships with rbee: the facts in its file that the engine and the planner rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader, TokenType

FOLDER = Path(__file__).parents[2] / "models" / "bee-tiny"
MODEL = FOLDER / "bee-tiny-q8_0.gguf"


@pytest.fixture(scope="module")
def reader() -> GGUFReader:
    return GGUFReader(MODEL)


def value(reader: GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    assert field is not None, f"{key} is not in the header"
    return field.contents()


def test_it_is_small_enough_to_live_in_the_repository() -> None:
    assert 1_000_000 < MODEL.stat().st_size <= 4_000_000


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("general.architecture", "llama"),
        ("general.name", "bee-tiny"),
        ("general.license", "apache-2.0"),
        ("llama.context_length", 1024),
        ("llama.block_count", 5),
        ("llama.embedding_length", 192),
        ("llama.feed_forward_length", 512),
        ("llama.attention.head_count", 6),
        ("llama.attention.head_count_kv", 2),
        ("llama.vocab_size", 1536),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "gpt-2"),
        ("tokenizer.ggml.add_bos_token", False),
    ],
)
def test_the_header_says_what_it_is(reader: GGUFReader, key: str, wanted: object) -> None:
    assert value(reader, key) == wanted


def test_an_answer_ends_with_the_end_of_turn_mark(reader: GGUFReader) -> None:
    tokens = value(reader, "tokenizer.ggml.tokens")
    kinds = value(reader, "tokenizer.ggml.token_type")
    assert isinstance(tokens, list) and isinstance(kinds, list)
    end = tokens.index("<|im_end|>")
    assert value(reader, "tokenizer.ggml.eos_token_id") == end
    assert value(reader, "tokenizer.ggml.eot_token_id") == end
    assert kinds[end] == TokenType.CONTROL
    assert len(tokens) == len(kinds) == len(set(tokens)) == 1536


def test_the_chat_template_opens_the_assistants_turn(reader: GGUFReader) -> None:
    template = value(reader, "tokenizer.chat_template")
    assert isinstance(template, str)
    assert template.endswith("{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def test_its_matrices_are_q8_0_and_the_output_is_tied(reader: GGUFReader) -> None:
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in tensors
    assert {t.tensor_type for t in tensors.values() if len(t.shape) == 2} == {GGMLQuantizationType.Q8_0}
    assert {t.tensor_type for t in tensors.values() if len(t.shape) == 1} == {GGMLQuantizationType.F32}
    assert sum(int(tensor.n_elements) for tensor in tensors.values()) == 2_263_104


def test_its_card_and_licence_lie_beside_it() -> None:
    assert "Apache-2.0" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "Apache License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")
