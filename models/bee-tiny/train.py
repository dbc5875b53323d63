# SPDX-License-Identifier: Apache-2.0
"""Trains bee-tiny on a CPU and writes the GGUF files: ``python train.py --out build``.

Needs `requirements-train.txt`; none of it is needed to run rbee. Two threads, half an hour to an hour.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
import torch.nn.functional as F
from corpus import conversations, render
from export import SPECIALS, write_gguf
from model import BeeTiny, Shape
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TRAIN_SEED, CHECK_SEED, VOCABULARY_SEED = 1, 2, 3
POOL = 2048  # conversations drawn at once, so that a batch holds documents of like length


@dataclass(frozen=True)
class Batch:
    """Documents of like length: token numbers, and for each position whether its next token is learned."""

    tokens: torch.Tensor
    learn: torch.Tensor


def make_tokenizer(size: int) -> Tokenizer:
    """A byte-level BPE with GPT-2's way of splitting words, learned from the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ("".join(t for t, _ in render(c)) for c in itertools.islice(conversations(VOCABULARY_SEED), 30_000))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_pool(tokenizer: Tokenizer, pool: list[list[tuple[str, bool]]]) -> list[tuple[list[int], list[bool]]]:
    """Token numbers of each conversation, and which of them are the assistant's."""
    pieces = iter(tokenizer.encode_batch([text for document in pool for text, _ in document]))
    encoded = []
    for document in pool:
        tokens: list[int] = []
        learned: list[bool] = []
        for _, learn in document:
            ids = next(pieces).ids
            tokens += ids
            learned += [learn] * len(ids)
        encoded.append((tokens, learned))
    return encoded


def batches(tokenizer: Tokenizer, seed: int, size: int, context: int) -> Iterator[Batch]:
    """An endless stream of batches of about `size` tokens, padded on the right."""
    stream = conversations(seed)
    rng = random.Random(seed)
    while True:
        pool = encode_pool(tokenizer, [render(c) for c in itertools.islice(stream, POOL)])
        pool.sort(key=lambda document: len(document[0]))
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for document in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(document[0]) > size:
                groups.append([])
            groups[-1].append(document)
        rng.shuffle(groups)
        yield from (make_batch(group, context) for group in groups)


def make_batch(group: list[tuple[list[int], list[bool]]], context: int) -> Batch:
    longest = min(context, max(len(tokens) for tokens, _ in group))
    tokens = torch.zeros(len(group), longest, dtype=torch.long)
    learn = torch.zeros(len(group), longest, dtype=torch.bool)
    for row, (ids, learned) in enumerate(group):
        count = min(len(ids), longest)
        tokens[row, :count] = torch.tensor(ids[:count])
        learn[row, :count] = torch.tensor(learned[:count])
    return Batch(tokens, learn)


def loss_of(model: BeeTiny, batch: Batch) -> torch.Tensor:
    """Mean loss over the assistant's words."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(batch.tokens[:, :-1])
    learn = batch.learn[:, 1:]
    return F.cross_entropy(model.logits(hidden[learn].float()), batch.tokens[:, 1:][learn])


@torch.no_grad()
def check_loss(model: BeeTiny, tokenizer: Tokenizer, count: int = 40) -> float:
    """Mean loss on conversations from another seed."""
    stream = batches(tokenizer, CHECK_SEED, 4096, model.shape.context)
    return sum(loss_of(model, batch).item() for batch in itertools.islice(stream, count)) / count


def train(model: BeeTiny, tokenizer: Tokenizer, steps: int, batch_size: int, rate: float) -> None:
    """AdamW with a short warm-up and a cosine down to a fiftieth; prints as it goes."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    began, seen, recent = time.monotonic(), 0, 0.0
    stream = batches(tokenizer, TRAIN_SEED, batch_size, model.shape.context)
    for step, batch in enumerate(itertools.islice(stream, steps), start=1):
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 100) * cosine
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += int((batch.tokens != 0).sum())
        recent = 0.95 * recent + 0.05 * loss.item() if step > 1 else loss.item()
        if step % 50 == 0:
            spent = time.monotonic() - began
            print(f"step {step}/{steps} loss {recent:.4f} tokens {seen} {seen / spent:.0f}/s {spent:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train bee-tiny and write its GGUF files.")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=4096, help="tokens in a batch, padding included")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    tokenizer = make_tokenizer(shape.vocabulary)
    tokenizer.save(str(options.out / "tokenizer.json"))
    model = BeeTiny(shape)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, tokenizer, options.steps, options.batch, options.rate)
    print(f"check loss {check_loss(model, tokenizer):.4f}", flush=True)
    torch.save(model.state_dict(), options.out / "bee-tiny.pt")
    write_gguf(options.out / "bee-tiny-f16.gguf", model, tokenizer, gguf.GGMLQuantizationType.F16)
    write_gguf(options.out / "bee-tiny-q8_0.gguf", model, tokenizer, gguf.GGMLQuantizationType.Q8_0)


if __name__ == "__main__":
    main()
