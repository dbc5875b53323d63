# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted: the types behind rbee.yaml. They are the one source of its schema and its reference page.

A `Spec` is complete: defaults are filled in, sugar (`ssh: alias`, `5m`) is resolved, names have been checked.
`rbee.fleet.load` makes one from a document; nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.core.doc import Doc
from rbee.core.spec_queen import QueenSpec
from rbee.core.spec_words import (
    ADDRESS,
    ALIAS_WRITTEN,
    DEVICE,
    DURATION_WRITTEN,
    HOST,
    MODEL_NAME,
    NAME,
    REPLICAS_WRITTEN,
    SSH_WRITTEN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How to reach a machine over SSH. Whatever is left out comes from ~/.ssh/config."""

    host: Annotated[str, Doc("Host name, address, or a Host of ~/.ssh/config.", pattern=HOST)]
    user: Annotated[str | None, Doc("User to log in as.", pattern=HOST)] = None
    port: Annotated[int | None, Doc("TCP port of sshd.", minimum=1, maximum=65535)] = None
    jump: Annotated[str | None, Doc("Host to go through (ProxyJump), as [user@]host[:port] or a Host alias.")] = None
    identity_file: Annotated[str | None, Doc("Private key to use; `~` is your home.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HiveSpec:
    """A machine. Without `ssh` it is this machine, and its hive lives inside the queen's process."""

    name: Annotated[str, Doc("The hive's key in the file.", written=False)] = ""
    ssh: Annotated[
        Ssh | None,
        Doc("How to reach it, as a mapping or [user@]host[:port]; none: this machine.", written_as=SSH_WRITTEN),
    ] = None
    labels: Annotated[dict[str, str], Doc("Facts about the machine for placing workers.")] = field(default_factory=dict)
    listen: Annotated[
        str | None,
        Doc(
            "Address and port of the hive's daemon. Default: 127.0.0.1:7835 on this machine, else port 7835 of "
            "the address that SSH reached.",
            pattern=ADDRESS,
        ),
    ] = None
    worker_ports: Annotated[
        str, Doc("Ports that workers may take, first and last.", pattern=r"^[0-9]{1,5}-[0-9]{1,5}$")
    ] = "9300-9999"
    python: Annotated[
        str | None, Doc("Python (3.10 or newer) on that machine. Found by itself when left out.", min_length=1)
    ] = None

    @property
    def local(self) -> bool:
        return self.ssh is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model and where it comes from."""

    name: Annotated[str, Doc("The model's key in the file.", written=False)] = ""
    source: Annotated[
        str,
        Doc(
            "hf:ORG/REPO[/FILE.gguf][:QUANTIZATION], ollama:NAME[:TAG], GH:OWNER/REPO@TAG[/FILE.gguf], https://..., "
            "file:PATH (on this machine; pushed to others) or builtin:bee-tiny.",
            min_length=1,
            example="hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        ),
    ]
    revision: Annotated[str | None, Doc("Branch, tag or commit of a Hugging Face repository.", min_length=1)] = None
    sha256: Annotated[
        str | None, Doc("Digest the file must have; rbee.lock keeps it otherwise.", pattern=r"^[0-9a-f]{64}$")
    ] = None
    format: Annotated[
        Literal["gguf", "mlc"] | None,
        Doc("What it is, where its name does not tell: mlc for a name that ends in -MLC, gguf otherwise."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How the engine runs the model. What is left out is the engine's or the model's own choice."""

    context_length: Annotated[int | None, Doc("Tokens of context for each request.", minimum=64)] = None
    parallel: Annotated[int | None, Doc("Requests served at once (slots).", minimum=1, maximum=256)] = None
    batch_size: Annotated[int | None, Doc("Prompt tokens read in one step.", minimum=1)] = None
    threads: Annotated[int | None, Doc("CPU threads. Default: the hive's share for this worker.", minimum=1)] = None
    memory_limit_mb: Annotated[
        int | None, Doc("Start the worker anew when it and its engine hold more memory than this.", minimum=1)
    ] = None
    task: Annotated[
        Literal["generate", "embed", "rerank"] | None, Doc("What the model is for. Default: it generates text.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """How many processes. `apply` starts `min`; the queen starts more, up to `max`, when requests wait."""

    min: Annotated[int, Doc("Always there.", minimum=0, maximum=1000)] = 1
    max: Annotated[int, Doc("At most so many.", minimum=0, maximum=1000)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which hives may run a worker; rbee places it on one of them."""

    labels: Annotated[dict[str, str], Doc("Labels a hive must have, all of them.")] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One or more processes that serve a model."""

    name: Annotated[str, Doc("The worker's key in the file.", written=False)] = ""
    model: Annotated[str, Doc("Name of a model of this file.", min_length=1)]
    hive: Annotated[str | None, Doc("Name of the hive to run on.", min_length=1)] = None
    where: Annotated[Where | None, Doc("Instead of `hive`: any hive with these labels.")] = None
    device: Annotated[
        str, Doc("cpu, cuda:N, metal:N, rocm:N, vulkan:N, or auto (the best that is there).", pattern=DEVICE)
    ] = "auto"
    engine: Annotated[
        str | None, Doc("Name of an engine provider. Default: chosen by model format and device.", min_length=1)
    ] = None
    replicas: Annotated[Replicas, Doc("How many processes.", written_as=REPLICAS_WRITTEN)] = field(
        default_factory=Replicas
    )
    options: Annotated[WorkerOptions, Doc("How the engine runs the model.")] = field(default_factory=WorkerOptions)
    idle_timeout: Annotated[
        float | None, Doc("Unload after this long without a request; none: never.", written_as=DURATION_WRITTEN)
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A rule for routing requests, as CEL expressions over the request and the worker."""

    models: Annotated[tuple[str, ...], Doc("Models or aliases it is for; empty: all.")] = ()
    filter: Annotated[str | None, Doc("Workers for which this is false are left out.")] = None
    score: Annotated[str | None, Doc("A number that is added to each worker's score; the highest sum wins.")] = None
    reject: Annotated[str | None, Doc("Requests for which this is true are refused.")] = None
    reason: Annotated[str | None, Doc("What the refused client is told.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """Values for workers that do not say their own."""

    device: Annotated[str | None, Doc("Device for workers.", pattern=DEVICE)] = None
    engine: Annotated[str | None, Doc("Engine for workers.", min_length=1)] = None
    options: Annotated[WorkerOptions, Doc("Options for workers, each one by itself.")] = field(
        default_factory=WorkerOptions
    )
    idle_timeout: Annotated[float | None, Doc("Idle timeout for workers.", written_as=DURATION_WRITTEN)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The whole of rbee.yaml."""

    version: Annotated[int, Doc("Version of this file's format: 1.", minimum=1, maximum=1, example=1)]
    fleet: Annotated[str, Doc("Name of the fleet; it marks all that rbee makes.", pattern=NAME, example="home")]
    queen: Annotated[QueenSpec, Doc("The brain.")] = field(default_factory=QueenSpec)
    hives: Annotated[dict[str, HiveSpec], Doc("Machines, by name.", key_pattern=NAME)] = field(default_factory=dict)
    models: Annotated[
        dict[str, ModelSpec], Doc("Models, by the name that clients ask for.", key_pattern=MODEL_NAME)
    ] = field(default_factory=dict)
    workers: Annotated[dict[str, WorkerSpec], Doc("What runs, by name.", key_pattern=NAME)] = field(
        default_factory=dict
    )
    aliases: Annotated[
        dict[str, tuple[str, ...]],
        Doc(
            "Other names for models; a list is tried in order.",
            key_pattern=MODEL_NAME,
            written_as=ALIAS_WRITTEN,
        ),
    ] = field(default_factory=dict)
    policies: Annotated[dict[str, PolicySpec], Doc("Routing rules, by name.", key_pattern=NAME)] = field(
        default_factory=dict
    )
    defaults: Annotated[Defaults, Doc("Values for workers that do not say their own.")] = field(
        default_factory=Defaults
    )

    @property
    def local_hive(self) -> HiveSpec | None:
        """The hive of this machine, if the file has one (it has at most one)."""
        return next((h for h in self.hives.values() if h.local), None)
