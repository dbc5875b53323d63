# SPDX-License-Identifier: GPL-3.0-or-later
"""The first rbee.yaml of a machine: complete as it stands, the rest as comments to take in. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rbee.core.records import Device
from rbee.core.spec_words import NAME

_GIB = 2**30
#: By the memory that it needs (GiB): a source that fits, and a name for it.
_MODELS = (
    (12, "llama-3.1-8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"),
    (5, "llama-3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf"),
    (0, "llama-3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
)
_MOST_HOSTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was found here; `memory` in bytes, `ssh_hosts` names of ~/.ssh/config."""

    hostname: str
    cores: int
    memory: int
    devices: Sequence[Device] = field(default_factory=tuple)
    ssh_hosts: Sequence[str] = field(default_factory=tuple)


def fleet_name(hostname: str) -> str:
    """A name for the fleet, from the machine's: what `fleet:` takes, whatever the machine is called."""
    short = hostname.split(".")[0].lower()
    name = re.sub(r"[^a-z0-9_-]+", "-", short).strip("-_")[:63]
    return name if re.fullmatch(NAME, name) else "home"


def render(machine: Machine, schema: str) -> str:
    """The file's text; `schema` is where editors find rbee.yaml's schema."""
    name, source = next((name, source) for least, name, source in _MODELS if machine.memory >= least * _GIB)
    return f"""\
# yaml-language-server: $schema={schema}
# Your fleet. `rbee validate` checks this file, `rbee plan` shows what would be done, `rbee apply` does it.
# This machine: {_found(machine)}.
version: 1
fleet: {_quoted(fleet_name(machine.hostname))}

hives:                        # the machines; one without `ssh` is this machine
  localhost: {{}}
{_hosts(machine.ssh_hosts)}
models:                       # by the name that clients ask for
  bee-tiny:
    source: builtin:bee-tiny  # comes with rbee: small enough to try everything
  # {name}:
  #   source: hf:{source}

workers:                      # what runs
  chat:
    model: bee-tiny           # or {name}, once it is in `models`
    hive: localhost
    device: auto              # {_devices(machine.devices)}
    # replicas: 2             # processes; or {{min: 0, max: 4}}, and the queen starts them when requests wait
    # options: {{context_length: 4096, parallel: 4}}
    # idle_timeout: 30m       # unload after this long without a request

aliases:                      # other names for models, for programs that ask for one by a fixed name
  gpt-4o-mini: bee-tiny
"""


def _quoted(name: str) -> str:
    """A name that YAML would take for something else (`123`, `null`) in quotes."""
    return name if re.fullmatch(r"[a-z][a-z0-9_-]*", name) and name not in ("null", "true", "false") else f'"{name}"'


def _found(machine: Machine) -> str:
    cards = [_one_line(d.name) for d in machine.devices if d.device_type != "cpu"]
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    return f"{cores}, {machine.memory / _GIB:.1f} GiB of memory, {', '.join(cards) or 'no GPU that rbee knows'}"


def _devices(devices: Sequence[Device]) -> str:
    ids = [d.id for d in devices] or ["cpu"]
    return f"the best that is there; or say which: {', '.join(ids)}"


def _hosts(names: Sequence[str]) -> str:
    if not names:
        note = "# or the name of a Host of ~/.ssh/config"
        return f"  # workstation:\n  #   ssh: {{host: workstation.home.arpa, user: bee}}   {note}\n"
    said = ["  # Hosts of your ~/.ssh/config; take in those that are to run workers:"]
    said += [f"  # {_key(host)}:\n  #   ssh: {_text(host)}" for host in names[:_MOST_HOSTS]]
    if len(names) > _MOST_HOSTS:
        said.append(f"  # ... and {len(names) - _MOST_HOSTS} more")
    return "\n".join(said) + "\n"


def _key(host: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", host).strip("._-")[:63] or "machine"
    return name if re.fullmatch(r"[A-Za-z][A-Za-z._-]*[A-Za-z0-9]*", name) else f'"{name}"'


def _text(host: str) -> str:
    return host if re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", host) else '"' + _one_line(host).replace('"', "") + '"'


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
