# SPDX-License-Identifier: Apache-2.0
"""Reading the text files beside this module and turning their prompt patterns into sentences.

A pattern is a sentence with choices, `(a|b|c)`, and named slots, `{name}`. `expand` draws one sentence.
`Exchange` is one paragraph of a text file: patterns of prompts, and the answers any of them may get.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

TEXT = Path(__file__).parent / "text"
_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")

Slots = dict[str, list[str]]


@dataclass(frozen=True)
class Exchange:
    """Prompts that mean the same, and the answers (one is drawn) that fit them all."""

    patterns: list[str]
    answers: list[str]


def lines_of(name: str) -> list[str]:
    """The lines of a text file, without comments and surrounding space; blank lines are kept."""
    lines = (TEXT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if not line.startswith("#")]


def read_exchanges(name: str) -> list[Exchange]:
    """The paragraphs of a text file of ``> prompt``, ``? names of one thing`` and ``< answer`` lines."""
    found: list[Exchange] = []
    shapes = asking_shapes()
    prompts: list[str] = []
    answers: list[str] = []
    for line in [*lines_of(name), ""]:
        if line.startswith(">"):
            prompts.append(line[1:].strip())
        elif line.startswith("?"):
            prompts += [shape.replace("X", f"({line[1:].strip()})") for shape in shapes]
        elif line.startswith("<"):
            answers.append(line[1:].strip())
        elif prompts:
            found.append(Exchange(prompts, answers))
            prompts, answers = [], []
    return found


def asking_shapes() -> list[str]:
    """The patterns that ask what ``X`` is."""
    return [line for line in lines_of("shapes.txt") if line]


def read_sections(name: str) -> Slots:
    """The ``[section]`` lists of a text file; items are separated by ``;`` or line ends."""
    sections: Slots = {}
    current: list[str] = []
    for line in lines_of(name):
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        else:
            current.extend(item.strip() for item in line.split(";") if item.strip())
    return sections


def read_tables(name: str) -> dict[str, dict[str, str]]:
    """Like `read_sections`, for items of the form ``name = value``."""
    return {
        section: {key.strip(): value.strip() for key, value in (item.split("=") for item in items)}
        for section, items in read_sections(name).items()
    }


def expand(rng: random.Random, pattern: str, slots: Slots) -> str:
    """One sentence of a pattern: every choice made, every slot filled, spaces tidied."""
    while True:
        slot = _SLOT.search(pattern)
        if slot:
            pattern = pattern[: slot.start()] + rng.choice(slots[slot.group(1)]) + pattern[slot.end() :]
            continue
        choice = _CHOICE.search(pattern)
        if not choice:
            return " ".join(pattern.split())
        pattern = pattern[: choice.start()] + rng.choice(choice.group(1).split("|")) + pattern[choice.end() :]


def breadth(pattern: str) -> int:
    """How many sentences the choices of a pattern can make, slots not counted."""
    count = 1
    for choice in _CHOICE.findall(pattern):
        count *= choice.count("|") + 1
    return count
