# SPDX-License-Identifier: Apache-2.0
"""Measures a bee-tiny GGUF through llama.cpp's own server: ``python check.py bee-tiny-q8_0.gguf``.

Needs xllamacpp only. Greedy answers to a list of prompts that everyone will try, to ways of asking that
the grammar files do not contain (``text/held_out.txt``), and to freshly drawn prompts of the grammar.
"""

from __future__ import annotations

import argparse
import json
import random
import urllib.request
from collections import Counter
from pathlib import Path

import beyond
import xllamacpp
from corpus import SUMS, Writer
from grammar import lines_of

SHOWN = [
    "hello", "Hi there!", "Who are you?", "What is rbee?", "What does the queen do?", "What is a hive?",
    "What is a worker?", "How do I use a real model?", "thanks", "bye", "What is the capital of France?", "2 plus 3?",
    "Tell me a story", "What is rbee.yaml?", "What does rbee plan do?", "What does rbee apply do?", "How are you?",
    "Write me a kernel driver", "What is the meaning of life?", "Say hello in one short sentence.", "Count to ten",
    "Hello! Who are you?", "Hello, what is rbee?", "What can you do?", "ping", "Tell me about yourself.",
    "Hello, who are you and what can you do?", "Say hello!", "Tell me a joke", "test",
]  # fmt: skip
SYSTEMS = [None, "You are a helpful assistant.", "You are a test. Answer with care, and never lie to Bob."]


class Engine:
    """llama.cpp's HTTP server inside this process, on a port it picks. It ends with the process."""

    def __init__(self, path: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.port = 0
        params.n_ctx = 2048
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.warmup = False
        params.ui = False
        self.server = xllamacpp.Server(params)

    def _post(self, path: str, body: dict[str, object]) -> dict[str, object]:
        request = urllib.request.Request(
            self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def chat(self, prompt: str, system: str | None = None, limit: int = 300, **more: object) -> tuple[str, str]:
        """The answer and why it ended (``stop`` for an end of turn)."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        body = {"messages": messages, "max_tokens": limit, "temperature": 0} | more
        choice = self._post("/v1/chat/completions", body)["choices"][0]  # type: ignore[index]
        return choice["message"]["content"], choice["finish_reason"]

    def complete(self, prompt: str) -> tuple[str, str]:
        """The same without any chat marks."""
        body: dict[str, object] = {"prompt": prompt, "max_tokens": 300, "temperature": 0}
        choice = self._post("/v1/completions", body)["choices"][0]  # type: ignore[index]
        return choice["text"], choice["finish_reason"]


def held_out(engine: Engine, verbose: bool) -> Counter[str]:
    """Right answers to ways of asking that are in no grammar file, by kind."""
    stories = {answer for exchange in Writer(random.Random(0)).topics["stories"][:3] for answer in exchange.answers}
    counts: Counter[str] = Counter()
    for line in filter(None, lines_of("held_out.txt")):
        prompt, _, wanted = line.rpartition(" = ")
        for system in SYSTEMS:
            said, end = engine.chat(prompt, system)
            kind = {"*refusal": "refusal", "*story": "story"}.get(wanted, "known")
            right = {"*refusal": said == beyond.REFUSAL, "*story": said in stories}.get(wanted, said.startswith(wanted))
            counts[f"held out, {kind}: asked"] += 1
            counts[f"held out, {kind}: right"] += right and end == "stop"
            if verbose and not right:
                print(f"  wrong: {prompt!r} [{system}] -> {said!r} ({end})")
    return counts


def facts(engine: Engine, verbose: bool) -> Counter[str]:
    """Every fact of the tables and every sum up to ten, asked in the plainest way."""
    writer, counts = Writer(random.Random(0)), Counter[str]()
    asked = [(kind, name, f"{value}.") for kind, table in writer.tables.items() for name, value in table.items()]
    for kind, name, value in asked:
        said, _ = engine.chat(writer.phrases[kind][0].format(x=name).capitalize().replace(name.lower(), name) + "?")
        wanted = value if kind != "legs" else f"has {value[:-1]} legs."
        right = said.endswith(wanted) and name.lower() in said.lower()
        counts[f"every one of the {kind}: asked"] += 1
        counts[f"every one of the {kind}: right"] += right
        if verbose and not right:
            print(f"  wrong: {kind} {name} {value} -> {said}")
    for a, b in SUMS:
        said, _ = engine.chat(f"What is {a} plus {b}?")
        counts["every one of the sums: asked"] += 1
        counts["every one of the sums: right"] += said == f"{a} plus {b} is {a + b}."
    return counts


def drawn(engine: Engine, count: int, verbose: bool) -> Counter[str]:
    """Right answers to freshly drawn prompts of each maker of the corpus."""
    counts: Counter[str] = Counter()
    writer = Writer(random.Random(77))
    allowed = {e: set(x.answers) for topic in writer.topics.values() for x in topic for e in x.answers}
    names = ["rbee", "small talk", "stories", "facts", "tables and sums", "beyond"]
    for name, (_, make) in zip(names, writer.makers, strict=True):
        for _ in range(count):
            prompt, answer = make()
            prompt = writer.as_typed(prompt)
            said, end = engine.chat(prompt, writer.system() if writer.rng.random() < 0.4 else None)
            right = said in allowed.get(answer, {answer}) and end == "stop"
            counts[f"drawn, {name}: asked"] += 1
            counts[f"drawn, {name}: right"] += right
            if verbose and not right:
                print(f"  wrong: {prompt!r} wanted {answer!r} -> {said!r} ({end})")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a bee-tiny GGUF questions through llama.cpp.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--drawn", type=int, default=100, help="prompts drawn for each topic")
    parser.add_argument("--verbose", action="store_true", help="print what went wrong")
    options = parser.parse_args()
    engine = Engine(options.model)
    for prompt in SHOWN:
        said = {engine.chat(prompt, system) for system in SYSTEMS}
        for answer, end in sorted(said):
            print(f"{prompt!r} -> {answer!r} ({end})")
    print("raw:", engine.complete("What is rbee?"), engine.complete("hello"), engine.complete("Once upon a time"))
    print("cut:", engine.chat("Tell me a story", limit=8), "warm:", engine.chat("Who are you?", temperature=1, seed=3))
    counts = held_out(engine, options.verbose) + facts(engine, options.verbose)
    counts += drawn(engine, options.drawn, options.verbose)
    for key in [k for k in counts if k.endswith("asked")]:
        right = counts[key.replace("asked", "right")]
        print(f"{key.removesuffix(': asked')}: {right} of {counts[key]}")


if __name__ == "__main__":
    main()
