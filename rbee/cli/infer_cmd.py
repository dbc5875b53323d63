# SPDX-License-Identifier: GPL-3.0-or-later
"""`rbee infer`: one answer from one prompt, to see that a model works. No chat: clients have the OpenAI endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rbee.cli import common
from rbee.cli.queen_link import connect, queen_option, token_option
from rbee.contracts import codec
from rbee.contracts.operations.inference import Infer, InferResponse
from rbee.core.errors import InvalidRequest


@click.command("infer", short_help="Ask a model once.")
@click.option("--model", required=True, envvar="RBEE_MODEL", help="Model or alias.")
@click.option("--prompt", envvar="RBEE_PROMPT", required=True, help="What to ask; `-` reads it from standard input.")
@click.option("--system", envvar="RBEE_SYSTEM", default=None, help="System message.")
@click.option(
    "--max-tokens", envvar="RBEE_MAX_TOKENS", type=click.IntRange(1), default=None, help="Most tokens to answer with."
)
@click.option("--temperature", envvar="RBEE_TEMPERATURE", type=click.FloatRange(0, 2), default=0.7, show_default=True)
@click.option("--top-p", envvar="RBEE_TOP_P", type=click.FloatRange(0, 1), default=None)
@click.option("--seed", envvar="RBEE_SEED", type=int, default=None, help="Seed of the sampler.")
@click.option("--stop", envvar="RBEE_STOP", multiple=True, help="Text that ends the answer (up to 4).")
@click.option(
    "--timeout",
    envvar="RBEE_TIMEOUT",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take in all; a model that must be started first is waited for.",
)
@queen_option
@token_option
@common.output_option
@common.people_errors
def infer(
    model: str,
    prompt: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    timeout: float,
    queen_url: str | None,
    token_file: Path | None,
    output: str,
) -> None:
    """Ask a model once; the answer goes to standard output as it comes."""
    text = sys.stdin.read() if prompt == "-" else prompt
    if not 1 <= len(text) <= 32768:
        raise InvalidRequest(f"The prompt has {len(text)} characters; 1 to 32768 are allowed.")
    if len(stop) > 4:
        raise InvalidRequest("At most 4 --stop texts are allowed.")
    request = Infer(
        model=model, prompt=text, system=system, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
        seed=seed, stop=stop, timeout=timeout,
    )  # fmt: skip

    def show(event: dict[str, Any]) -> None:
        if output == "json":
            click.echo(codec.encode(event).decode())
        elif event.get("event") == "infer_token":
            click.echo(event.get("text", ""), nl=False)
        elif event.get("event") == "infer_wait":
            click.echo(event.get("message", ""), err=True)

    answer: InferResponse = connect(queen_url, token_file).run(request, show)
    if output == "json":
        click.echo(codec.encode({"event": "result", **codec.to_mapping(answer)}).decode())
        return
    click.echo()
    click.echo(
        f"{answer.tokens} tokens, {answer.tokens_per_sec:.1f} tokens/s, worker {answer.worker_id} on {answer.hive_id}",
        err=True,
    )
