# SPDX-License-Identifier: GPL-3.0-or-later
"""What the text of a source says: whose it is, its parts, its default id."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rbee.adapters.sources import shipped_sources
from rbee.core.errors import InvalidRequest
from rbee.core.sources import (
    HubName,
    OllamaName,
    ReleaseName,
    check,
    default_id,
    parse_hub,
    parse_ollama,
    parse_release,
    parse_url,
    provider_of,
    rest_of,
    supports,
    unknown,
    used_twice,
)

SHIPPED = shipped_sources()
NAMED = {p.name: p for p in SHIPPED}


@pytest.mark.parametrize(
    ("source", "name", "rest"),
    [
        ("hf:org/repo/x.gguf", "huggingface", "org/repo/x.gguf"),
        ("HF:org/repo", "huggingface", "org/repo"),
        ("org/repo:Q4_K_M", "huggingface", "org/repo:Q4_K_M"),
        ("org/repo/sub/x.gguf", "huggingface", "org/repo/sub/x.gguf"),
        ("ollama:llama3.2:1b", "ollama", "llama3.2:1b"),
        ("GH:o/r@v1", "github", "o/r@v1"),
        ("gh:o/r@v1", "github", "o/r@v1"),
        ("https://h/x.gguf", "url", "//h/x.gguf"),
        ("HTTP://h/x.gguf", "url", "//h/x.gguf"),
        ("file:/x.gguf", "local", "/x.gguf"),
        ("local:/x-MLC", "local", "/x-MLC"),
        ("builtin:bee-tiny", "builtin", "bee-tiny"),
    ],
)
def test_a_text_is_of_the_one_whose_prefix_it_has(source: str, name: str, rest: str) -> None:
    found = provider_of(source, SHIPPED)
    assert found is not None
    assert (found.name, rest_of(found, source)) == (name, rest)
    assert [p.name for p in SHIPPED if supports(p, source)] == [name]
    check(found, source)


@pytest.mark.parametrize(
    ("source", "mend"),
    [
        ("hff:org/repo", "Did you mean 'hf:'? Write hf:ORG/REPO"),
        ("olama:x", "Did you mean 'ollama:'?"),
        ("./x.gguf", "Did you mean 'file:./x.gguf'?"),
        ("models/x.gguf", "Did you mean 'file:models/x.gguf'?"),
        ("/models/x", "Did you mean 'file:/models/x'?"),
        (
            "xyzzy",
            "Write hf:ORG/REPO[/FILE.gguf][:QUANTIZATION], ollama:NAME[:TAG], GH:OWNER/REPO@TAG[/FILE.gguf], http",
        ),
        ("ftp://h/x", "Did you mean 'http:'?"),
        ("s3:", "Write hf:"),
        ("", "Write hf:"),
    ],
)
def test_what_is_nobodys_has_a_near_miss(source: str, mend: str) -> None:
    assert provider_of(source, SHIPPED) is None
    said, how = unknown(source, SHIPPED)
    assert said == f"{source!r} is no source of models."
    assert how.startswith(mend)


def test_nothing_is_known_where_no_provider_is() -> None:
    assert unknown("x:y", []) == ("'x:y' is no source of models.", "")
    assert provider_of("org/repo", [NAMED["ollama"]]) is None


def test_the_longest_prefix_wins() -> None:
    corp = replace(NAMED["huggingface"], name="corp", prefixes=("corp:", "hf:eu:"), bare=False)
    found = provider_of("hf:eu:org/repo", [*SHIPPED, corp])
    assert found == corp
    assert rest_of(corp, "hf:eu:org/repo") == "org/repo"


def test_names_of_a_hub() -> None:
    assert parse_hub("org/repo") == HubName(repo="org/repo")
    assert parse_hub("org/repo/") == HubName(repo="org/repo")
    assert parse_hub("org/repo/a/b.gguf") == HubName(repo="org/repo", path="a/b.gguf")
    assert parse_hub("org/repo/a:Q8_0") == HubName(repo="org/repo", path="a", quantization="Q8_0")
    for wrong in (
        "",
        "org",
        "org/",
        "/org/repo",
        "org/repo/../x",
        "a/..",
        "org/re po",
        "org/repo/a\\b",
        "org/r@v",
        "a/b:",
    ):
        with pytest.raises(InvalidRequest, match="names no repository"):
            parse_hub(wrong)
    with pytest.raises(InvalidRequest, match="a file and a quantization"):
        parse_hub("org/repo/x.gguf:Q8_0")


def test_names_of_ollama() -> None:
    assert parse_ollama("llama3.2") == OllamaName(name="llama3.2")
    assert parse_ollama("llama3.2:1b") == OllamaName(name="llama3.2", tag="1b")
    assert parse_ollama("me/x:7b") == OllamaName(user="me", name="x", tag="7b")
    for wrong in ("", "a/b/c", "../x", "x:", "x:a/b", "x y", "hf.co/a/b:c"):
        with pytest.raises(InvalidRequest, match="no name of a model"):
            parse_ollama(wrong)


def test_names_of_releases() -> None:
    assert parse_release("o/r@v1") == ReleaseName(repo="o/r", tag="v1")
    assert parse_release("o/r@a%2Fb/x*.gguf") == ReleaseName(repo="o/r", tag="a/b", asset="x*.gguf")
    for wrong in ("", "o/r", "o@v1", "o/r@", "o/r@v1/a/b", "o/r/x@v1"):
        with pytest.raises(InvalidRequest, match="names no release"):
            parse_release(wrong)


def test_urls() -> None:
    assert parse_url("https://h/a%20b/x.gguf?y=1") == "/a b/x.gguf"
    for wrong, said in (
        ("https://", "no host"),
        ("https:foo", "no host"),
        ("https://[::1/x", "no host"),
        ("https://h/", "no file"),
        ("https://huggingface.co/org/repo/blob/main/x.gguf", "Write hf:org/repo/x.gguf"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            check(NAMED["url"], wrong)


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("hf:org/repo/sub/Llama-Q4_K_M.gguf", "Llama-Q4_K_M"),
        ("hf:org/Repo-GGUF:Q4_K_M", "Repo-Q4_K_M"),
        ("hf:org/Repo-GGUF", "Repo"),
        ("org/Repo-GGUF", "Repo"),
        ("org/x/m-Q8_0-00002-of-00003.gguf", "m-Q8_0"),
        ("hf:mlc-ai/Qwen-q4f16_1-MLC", "Qwen-q4f16_1-MLC"),
        ("ollama:llama3.2:1b", "llama3.2:1b"),
        ("ollama:llama3.2", "llama3.2"),
        ("ollama:me/x:7b", "x:7b"),
        ("GH:o/r@v1.0", "r"),
        ("GH:o/r@v1.0/m-Q4_0.gguf", "m-Q4_0"),
        ("GH:o/r@v1.0/*Q4*", "r"),
        ("https://host/a/b%20c.gguf?download=true", "b-c"),
        ("https://host/a/b-00001-of-00002.gguf", "b"),
        ("file:/models/x.gguf", "x"),
        ("file:///models/x.gguf", "x"),
        ("local:/models/Qwen-MLC/", "Qwen-MLC"),
        ("file:/models/a@b/c:d.gguf", "c:d"),
        ("builtin:bee-tiny", "bee-tiny"),
        ("corp:org/Repo-GGUF:Q8_0", "Repo-Q8_0"),
    ],
)
def test_default_id(source: str, made: str) -> None:
    assert default_id(source) == made


def test_no_default_id_for_a_bare_host() -> None:
    for source in ("https://host/", "file:", "hf:", "file:/..", ""):
        with pytest.raises(InvalidRequest, match="No name"):
            default_id(source)


@given(st.text(max_size=300) | st.from_regex(r"(hf:|file:/|GH:|https://h/|)[./@:%a-z\\-]{0,40}", fullmatch=True))
@example("file:/..")
@example("https://[x/y.gguf")
@example("hf:a/../..:Q8_0")
@example("ollama:" + "x" * 500)
def test_a_default_id_never_escapes(source: str) -> None:
    try:
        made = default_id(source)
    except InvalidRequest:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:+@-]{0,119}", made), made


def test_what_two_providers_both_say() -> None:
    hub = NAMED["huggingface"]
    others = {"huggingface": hub}
    corp = replace(hub, name="corp", prefixes=("corp:",), bare=False)
    assert used_twice(others, corp) is None
    assert used_twice(others, replace(corp, prefixes=("corp:", "hf:"))) == ("The prefix 'hf:'", "huggingface")
    assert used_twice(others, replace(corp, bare=True)) == ("ORG/REPO without a prefix", "huggingface")
