# SPDX-License-Identifier: Apache-2.0
"""The training text of bee-tiny: short English conversations drawn from the files in ``text/``.

Everything is written for this project. `conversations(seed)` is an endless, reproducible stream;
``python corpus.py 20`` prints some of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import beyond
from grammar import Exchange, Slots, breadth, expand, lines_of, read_exchanges, read_sections, read_tables

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
SUMS = [(a, b) for a in range(11) for b in range(11) if a + b <= 10]


@dataclass(frozen=True)
class Conversation:
    """One document: an optional system message, then (user, assistant) turns. Raw ones have no chat marks."""

    turns: list[tuple[str, str]]
    system: str | None = None
    system_role: str = "system"
    raw: bool = False


@dataclass
class Writer:
    """Draws exchanges by topic; owns the random numbers, so that a seed fixes the whole stream."""

    rng: random.Random
    slots: Slots = field(init=False)

    def __post_init__(self) -> None:
        self.slots = read_sections("beyond.txt")
        self.phrases = read_sections("phrases.txt")
        self.slots |= {name: self.phrases[name] for name in ("hello", "what", "tell")}
        self.tables = read_tables("tables.txt")
        self.systems = [line for line in lines_of("system.txt") if line]
        self.topics = {name: read_exchanges(f"{name}.txt") for name in ("rbee", "small_talk", "stories", "facts")}
        self.stranger = beyond.Stranger(self.rng, self.slots)
        self.makers: list[tuple[float, Callable[[], tuple[str, str]]]] = [
            (27, lambda: self.from_topic("rbee")),
            (16, lambda: self.from_topic("small_talk")),
            (6, lambda: self.from_topic("stories")),
            (5, lambda: self.from_topic("facts")),
            (14, self.from_tables),
            (33, self.stranger.exchange),
        ]

    def from_topic(self, topic: str) -> tuple[str, str]:
        """A prompt and its answer from one of the text files."""
        exchanges = self.topics[topic]
        exchange = self.rng.choices(exchanges, [len(exchange.patterns) ** 0.5 for exchange in exchanges])[0]
        return self.prompt_of(exchange), self.rng.choice(exchange.answers)

    def prompt_of(self, exchange: Exchange) -> str:
        """A pattern with many sentences is drawn more often, but not in proportion."""
        weights = [breadth(pattern) ** 0.5 for pattern in exchange.patterns]
        return expand(self.rng, self.rng.choices(exchange.patterns, weights)[0], self.slots)

    def from_tables(self) -> tuple[str, str]:
        """A capital, a colour, a number of legs, a noise or a small sum."""
        kind = self.rng.choices(["capitals", "colours", "legs", "noises", "sums"], [10, 6, 6, 2, 16])[0]
        if kind == "sums":
            return self.sum_of(*self.rng.choice(SUMS))
        name, value = self.rng.choice(list(self.tables[kind].items()))
        asked = self.rng.choice(self.phrases[kind])
        subject = name.removeprefix("the ") if self.rng.random() < 0.2 else name
        answer = {
            "capitals": f"The capital of {name} is {value}.",
            "colours": f"{name.capitalize()} is {value}.",
            "legs": f"{name.capitalize()} has {value} legs.",
            "noises": f"{name.capitalize()} {value}.",
        }[kind]
        return asked.format(x=subject), answer

    def sum_of(self, a: int, b: int) -> tuple[str, str]:
        """One sum, asked in figures or in words, answered in figures."""
        words = self.rng.random() < 0.3
        asked = self.rng.choice(self.phrases["sums"]).format(a=NUMBERS[a] if words else a, b=NUMBERS[b] if words else b)
        return asked, f"{a} plus {b} is {a + b}."

    def exchange(self) -> tuple[str, str]:
        """One exchange of any topic, its prompt as a person would type it."""
        weights = [weight for weight, _ in self.makers]
        prompt, answer = self.rng.choices([maker for _, maker in self.makers], weights)[0]()
        return self.as_typed(prompt), answer

    def as_typed(self, prompt: str) -> str:
        """The same words with another beginning, ending, case and punctuation, now and then a slip."""
        rng = self.rng
        if rng.random() < 0.16:
            prompt = f"{rng.choice(self.phrases['openers'])} {prompt}"
        if rng.random() < 0.10:
            closer = rng.choice(self.phrases["closers"])
            prompt = f"{prompt}{rng.choice(['', ','])} {closer}"
        if rng.random() < 0.05 and len(prompt) > 8 and not any(letter.isdigit() for letter in prompt):
            prompt = slip(rng, prompt)
        case = rng.random()
        if case < 0.5:
            prompt = prompt[0].upper() + prompt[1:]
        elif case < 0.54:
            prompt = prompt.upper()
        elif case < 0.57:
            prompt = prompt.title()
        elif case < 0.72:
            prompt = prompt.lower()
        for short, right in ((" i ", " I "), ("i'm ", "I'm ")):
            prompt = prompt.replace(short, right) if case < 0.45 else prompt
        ends = ["", "?", ".", "!", "??", "!!", "...", " ?", "\n"]
        return prompt + rng.choices(ends, [34, 36, 16, 8, 1, 1, 1, 2, 1])[0]

    def system(self) -> str:
        """A system message; sometimes several sentences, rarely a long one."""
        count = self.rng.choices([1, 2, 4, 12], [70, 20, 8, 2])[0]
        return " ".join(
            self.stranger.system_sentence() if self.rng.random() < 0.3 else self.rng.choice(self.systems)
            for _ in range(count)
        )

    def conversation(self) -> Conversation:
        """One document, mostly of one exchange, rarely of up to twenty."""
        count = self.rng.choices([1, 2, 3, 6, 20], [74, 15, 8, 2.4, 0.6])[0]
        turns = [self.exchange() for _ in range(count)]
        if count == 1 and self.rng.random() < 0.06:
            return Conversation(turns, raw=True)
        if self.rng.random() < 0.4:
            role = "developer" if self.rng.random() < 0.1 else "system"
            return Conversation(turns, self.system(), role)
        return Conversation(turns)


def slip(rng: random.Random, prompt: str) -> str:
    """A prompt with one letter left out, doubled or swapped with its neighbour."""
    at = rng.randrange(1, len(prompt) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return prompt[:at] + prompt[at + 1 :]
    if kind == 1:
        return prompt[:at] + prompt[at] + prompt[at:]
    return prompt[:at] + prompt[at + 1] + prompt[at] + prompt[at + 2 :]


def conversations(seed: int) -> Iterator[Conversation]:
    """An endless stream of conversations, the same for the same seed."""
    writer = Writer(random.Random(seed))
    while True:
        yield writer.conversation()


def render(conversation: Conversation) -> list[tuple[str, bool]]:
    """Pieces of text in order, each with whether the model has to learn to say it (the assistant's words)."""
    if conversation.raw:
        prompt, answer = conversation.turns[0]
        return [(prompt.rstrip("\n"), False), (f"\n{answer}<|im_end|>", True)]
    pieces: list[tuple[str, bool]] = []
    if conversation.system is not None:
        pieces.append((f"<|im_start|>{conversation.system_role}\n{conversation.system}<|im_end|>\n", False))
    for prompt, answer in conversation.turns:
        pieces.append((f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces.append((f"{answer}<|im_end|>", True))
        pieces.append(("\n", False))
    return pieces[:-1]


if __name__ == "__main__":
    stream = conversations(seed=1)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print("".join(text for text, _ in render(next(stream))), end="\n\n")
