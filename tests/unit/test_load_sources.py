# SPDX-License-Identifier: GPL-3.0-or-later
"""Source providers from their files, and rbee.yaml's sources checked against them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from rbee.adapters.yaml_source import YamlFiles
from rbee.contracts.schemas import render
from rbee.core.problems import Problem, ProblemsError
from rbee.fleet.load import Loaded, load
from rbee.fleet.load_sources import load_sources

SHIPPED = Path(__file__).parents[2] / "providers" / "sources"
CORP = """
kind: source
name: corp
title: Our mirror
summary: The hub inside.
protocol: huggingface
prefixes: ["corp:"]
endpoint: https://models.corp.example
token_file: corp-token
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "corp.yaml").write_text(CORP)
    return folder


def read(tmp_path: Path, own: Path, *models: str) -> Loaded:
    lines = [f"  m{i}: {{{said}}}" for i, said in enumerate(models)]
    path = tmp_path / "rbee.yaml"
    path.write_text("\n".join(["version: 1", "fleet: home", "models:", *lines, ""]))
    return load(path, {}, files=YamlFiles(), home=Path("/home/bee"), source_dirs=[SHIPPED, own])


def problems(tmp_path: Path, own: Path, *models: str) -> list[Problem]:
    with pytest.raises(ProblemsError) as e:
        read(tmp_path, own, *models)
    return list(e.value.problems)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_ones_follow_the_schema(path: Path) -> None:
    schema = json.loads(render("source-provider"))
    jsonschema.validate(yaml.safe_load(path.read_text()), schema, cls=jsonschema.Draft202012Validator)
    assert yaml.safe_load(path.read_text())["name"] == path.stem


def test_the_fleets_own_ones_are_told_from_the_shipped(tmp_path: Path, own: Path) -> None:
    found = load_sources(YamlFiles(), [SHIPPED, own, tmp_path / "gone"])
    assert (len(found.sources), [s.name for s in found.own], found.problems) == (7, ["corp"], ())
    assert load_sources(YamlFiles(), []).sources == {}


def test_every_form_is_taken(tmp_path: Path, own: Path) -> None:
    (tmp_path / "x.gguf").touch()
    loaded = read(
        tmp_path,
        own,
        "source: 'hf:org/repo/x.gguf', revision: main",
        "source: 'HF:org/repo:Q4_K_M'",
        "source: org/repo",
        "source: org/repo/sub/x-00001-of-00002.gguf",
        "source: 'ollama:llama3.2:1b'",
        "source: 'ollama:me/x'",
        "source: 'GH:owner/repo@v1.0'",
        "source: 'gh:owner/repo@latest/x*.gguf'",
        "source: 'https://h/x.gguf'",
        "source: 'file:x.gguf'",
        "source: 'local:x.gguf'",
        "source: 'builtin:bee-tiny'",
        "source: 'corp:team/model:Q8_0', revision: v1",
    )
    sources = [m.source for m in loaded.spec.models.values()]
    assert sources[9] == sources[10] == f"file:{tmp_path}/x.gguf"
    assert [s.name for s in loaded.sources] == ["corp"]


def test_what_the_sources_say_is_part_of_the_plans_digest(tmp_path: Path, own: Path) -> None:
    first = read(tmp_path, own, "source: 'corp:a/b'").digest
    (own / "corp.yaml").write_text(CORP.replace("models.corp", "other.corp"))
    assert read(tmp_path, own, "source: 'corp:a/b'").digest != first


@pytest.mark.parametrize(
    ("said", "summary", "mend"),
    [
        ("source: 'cop:a/b'", "'cop:a/b' is no source of models.", "Did you mean 'corp:'?"),
        ("source: 'corp:a'", "'a' names no repository and no file of one.", "Write ORG/REPO"),
        ("source: 'hf:a/b/c.gguf:Q8_0'", "'a/b/c.gguf:Q8_0' names a file and a quantization.", "Remove one"),
        ("source: 'ollama:a b'", "'a b' is no name of a model.", "Write NAME"),
        ("source: 'GH:a/b'", "'a/b' names no release.", "Write OWNER/REPO@TAG"),
        ("source: 'GH:a/b@v1', revision: x", "`revision` is for sources of Hugging Face only.", "Remove it"),
        ("source: models/x.gguf", "'models/x.gguf' is no source of models.", "Did you mean 'file:models/x.gguf'?"),
        ("source: 'https://huggingface.co/a/b/blob/main/c.gguf'", "The URL is of the page", "Write hf:a/b/c.gguf."),
        ("source: 'file:z-00001-of-99999.gguf'", "'z-00001-of-99999.gguf' claims 99999 parts;", "Check its name."),
        ("source: 'https://h:x/m.gguf'", "The URL has a port that is no number.", "Write https://HOST:PORT"),
        ("source: 'file:y-00001-of-00002.gguf'", "1 of the 2 parts of the model are not there.", "Bring all"),
    ],
)
def test_what_is_misspelt_is_told_with_its_place(tmp_path: Path, own: Path, said: str, summary: str, mend: str) -> None:
    (tmp_path / "y-00001-of-00002.gguf").touch()
    (tmp_path / "z-00001-of-99999.gguf").touch()
    (only,) = problems(tmp_path, own, said)
    assert only.summary.startswith(summary)
    assert only.mend.startswith(mend)
    assert only.where is not None
    assert only.where.line == 4


@pytest.mark.parametrize(
    ("text", "line", "summary"),
    [
        (CORP.replace("name: corp", "name: huggingface"), 3, "The source 'huggingface' is there twice."),
        (CORP.replace('"corp:"', '"corp:", "gh:"'), 7, "The prefix 'gh:' is of the source 'github' already."),
        (CORP + "bare: true\n", 10, "ORG/REPO without a prefix is of the source 'huggingface' already."),
        (CORP.replace('"corp:"', "Corp"), 7, "'Corp' cannot be a prefix."),
        (CORP.replace("huggingface", "hugginface"), 6, "`protocol`: 'hugginface' is not known."),
        (CORP.replace("https://", "ftp://"), 8, "`endpoint`: 'ftp://models.corp.example' is not possible."),
        (CORP.replace("https://", "https://me:pw@"), 8, "`endpoint`: "),
        (CORP + "tokn: x\n", 10, "Unknown key 'tokn'"),
        ("kind: [", 1, ""),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(
    tmp_path: Path, own: Path, text: str, line: int, summary: str
) -> None:
    (own / "corp.yaml").write_text(text)
    # Nothing is said of texts that may be of the damaged source.
    (only,) = problems(tmp_path, own, "source: 'corp:a/b'")
    assert only.where is not None
    assert only.where.file == str(own / "corp.yaml")
    assert only.where.line >= line
    assert only.summary.startswith(summary)
