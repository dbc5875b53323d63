# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider file says (`providers/engines/*.yaml`): data, not code, checked like rbee.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rbee.core.doc import Doc
from rbee.core.records import DeviceType
from rbee.core.spec_words import NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """The wheels of an engine on one platform: pinned and hashed, so that a bundle is the same everywhere."""

    platform: Annotated[str, Doc("linux-x86_64, linux-arm64, macos-arm64 or macos-x86_64.", example="linux-x86_64")]
    requirements: Annotated[
        tuple[str, ...],
        Doc("Lines of a requirements file, each `name==version --hash=sha256:...`."),
    ]
    index: Annotated[str | None, Doc("Package index, when it is not the default one.")] = None
    find_links: Annotated[str | None, Doc("Page of wheels, when they are on no index.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a machine must have before the engine can run there: looked at by plan, not found out by a crash."""

    cpu_flags: Annotated[dict[str, tuple[str, ...]], Doc("Flags of the CPU, by architecture.")] = field(
        default_factory=dict
    )
    libraries: Annotated[tuple[str, ...], Doc("Shared libraries that no wheel brings (Linux).")] = ()
    hints: Annotated[dict[str, str], Doc("How to mend a missing library or flag, by its name.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProvider:
    """An engine: how it is installed, started, known to be ready, and what it serves.

    `command` is an argv list; `{python}`, `{launcher}`, `{model}`, `{alias}` (the model's name for clients), `{port}`,
    `{context_length}`, `{parallel}`, `{batch_size}`, `{threads}`, `{device_index}`, `{task}`, `{pooling}` (of an
    embedding model that does not say it itself) are filled in, and an item whose value is unset is left out together
    with the flag before it.
    """

    kind: Literal["engine"]
    name: Annotated[str, Doc("What `engine:` in rbee.yaml says.", pattern=NAME)]
    version: Annotated[str, Doc("Exact version that is installed.", min_length=1)]
    summary: Annotated[str, Doc("One line for people.")]
    worker_types: Annotated[tuple[DeviceType, ...], Doc("Device types it runs on, best first.")]
    formats: Annotated[tuple[str, ...], Doc("Model formats it reads: gguf, mlc.")]
    module: Annotated[str, Doc("Python module that an environment with this engine can import.")]
    distribution: Annotated[str, Doc("Name of its package, whose version must be `version`.")]
    install: Annotated[tuple[Install, ...], Doc("Wheels, by platform.")] = ()
    needs: Annotated[Needs, Doc("What the machine must have.")] = field(default_factory=Needs)
    launcher: Annotated[
        str | None, Doc("Script of rbee's own (under rbee/adapters/engines) that `{launcher}` names.")
    ] = None
    command: Annotated[tuple[str, ...], Doc("The argv list, with placeholders.")]
    environment: Annotated[dict[str, str], Doc("Environment of the engine.")] = field(default_factory=dict)
    ready_path: Annotated[str, Doc("Answers 200 once the model is loaded.")] = "/health"
    metrics_path: Annotated[str | None, Doc("Prometheus metrics of the engine.")] = None
    stop: Annotated[Literal["term", "kill"], Doc("How it is ended once drained.")] = "term"
    paths: Annotated[tuple[str, ...], Doc("OpenAI paths it serves.")] = ("/v1/chat/completions", "/v1/completions")
    tasks: Annotated[
        dict[str, tuple[str, ...]],
        Doc("Other tasks than to generate, and the paths it serves then.", key_pattern="^(embed|rerank)$"),
    ] = field(default_factory=dict)
    checks_api_key: Annotated[bool, Doc("Whether it can check a bearer token itself.")] = False
    always_stream: Annotated[
        bool, Doc("It never stops a request that is not streamed: ask it for streams and fold them.")
    ] = False
    overrides: Annotated[dict[str, str], Doc("Fields put into every request body to the engine, as JSON texts.")] = (
        field(default_factory=dict)
    )

    def install_for(self, platform: str) -> Install | None:
        return next((i for i in self.install if i.platform == platform), None)

    def paths_for(self, task: str | None) -> tuple[str, ...]:
        """What a worker with this task serves; empty when the engine cannot do it."""
        return self.paths if task in (None, "generate") else self.tasks.get(task or "", ())


def binary_id(provider: EngineProvider, platform: str) -> str:
    """Id of an engine installed on a platform: `llama-cpp-2026.10.11549-linux-x86_64`."""
    return f"{provider.name}-{provider.version}-{platform}"


PLACEHOLDERS = frozenset(
    {"python", "launcher", "model", "alias", "port", "context_length", "parallel", "batch_size", "threads"}
    | {"device_index", "task", "pooling"}
)
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def fill_command(command: tuple[str, ...], values: Mapping[str, object]) -> tuple[str, ...]:
    """The argv of an engine: placeholders filled from `values`.

    An item that names a value which is None is left out, and the item before it too when that is a flag (`--x`).
    Raises KeyError for a placeholder that `values` doesn't have.
    """
    argv: list[str] = []
    for item in command:
        found = [values[name] for name in _PLACEHOLDER.findall(item)]
        if any(value is None for value in found):
            if argv and argv[-1].startswith("--") and "=" not in argv[-1]:
                argv.pop()
            continue
        argv.append(_PLACEHOLDER.sub(lambda m: str(values[m.group(1)]), item))
    return tuple(argv)
