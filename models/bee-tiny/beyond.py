# SPDX-License-Identifier: Apache-2.0
"""Requests that bee-tiny cannot answer, and its polite refusals.

A model this small says something wrong wherever it has seen nothing, so a third of its text is requests of
many shapes, filled with real words and with made-up ones: what is not known gets the refusal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from grammar import Slots, asking_shapes, expand, read_sections

REFUSAL = "I am sorry, but I am too small a model for that. Ask me about rbee, or use a real model."
NO_CAPITAL = "I do not know that capital. I know only a few of them."
NO_SUM = "I can only add small numbers, up to ten."

_STARTS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr "
    "v w wh y z"
).split()
_MIDDLES = "a e i o u ai au ea ee ie io oa oo ou ui".split()
_ENDS = " b ck ct d g l ll ld lk m mp n nd ng nt p r rd rk rm rn rt s sh sk ss st t th x".split(" ")


def strange_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing; now and then capitalised like a name."""
    sounds = range(rng.choice([1, 2, 2, 2, 3]))
    word = "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS) for _ in sounds)
    return word.capitalize() if rng.random() < 0.25 else word


@dataclass
class Stranger:
    """Draws requests from outside of what the model knows, with the refusal that fits."""

    rng: random.Random
    words: Slots
    shapes: Slots = field(default_factory=lambda: read_sections("requests.txt"))

    def exchange(self) -> tuple[str, str]:
        """One request and its refusal."""
        kind = self.rng.choices(["any", "what is", "sum", "capital", "table"], [60, 24, 7, 6, 3])[0]
        if kind == "what is":
            name = self.shapes["name"][0]
            return self._fill([shape.replace("X", name) for shape in asking_shapes()]), REFUSAL
        return self._fill(self.shapes[kind]), {"sum": NO_SUM, "capital": NO_CAPITAL}.get(kind, REFUSAL)

    def system_sentence(self) -> str:
        """A system message about anything at all: it must not change what the model says."""
        return self._fill(self.shapes["system"])

    def _fill(self, shapes: list[str]) -> str:
        rng = self.rng
        shape = rng.choice(shapes)
        slots = self.words | {
            "thing": [self._thing()],
            "strange": [strange_word(rng) for _ in range(4)],
            "number": [str(rng.randrange(2, 11)), str(rng.randrange(11, 2000))],
            "big": [str(rng.randrange(11, 100)), str(rng.randrange(100, 5000))],
            "year": [str(rng.randrange(1000, 2050))],
            "over": [self._sum_over_ten()],
            "long": [self._long()] if "{long}" in shape else [],
        }
        return expand(rng, shape, slots)

    def _sum_over_ten(self) -> str:
        """A sum of two small numbers that is too large all the same."""
        first = self.rng.randrange(1, 11)
        second = self.rng.randrange(11 - first, 11)
        return f"{first} {self.rng.choice(['+', 'plus', 'and'])} {second}"

    def _long(self) -> str:
        """Some sentences about nothing, as if pasted from somewhere."""
        rng, sentences = self.rng, []
        for _ in range(rng.choice([1, 2, 2, 3, 6])):
            words = [rng.choice(self.words["thing"]) for _ in range(3)] + [strange_word(rng) for _ in range(3)]
            words += rng.sample(["the", "of", "and", "is", "was", "with", "for", "in", "they", "had", "not", "on"], 6)
            rng.shuffle(words)
            sentences.append(" ".join(words).capitalize() + ".")
        return " ".join(sentences)

    def _thing(self) -> str:
        """A real thing mostly, else a made-up one: the unknown must look like the unknown."""
        return strange_word(self.rng) if self.rng.random() < 0.25 else self.rng.choice(self.words["thing"])
