# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab by hand: python -m tests.lab up 3 --trait h2=nopython --trait h3=home=64,nosftp

Traits: nopython, nogomp, nosftp, noforward, home=MiB, mem=MiB, via:HOST. A lab made by hand stays until
`down`; labs of test runs show in `status` and go with their run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from . import lifetime, registry
from .base import base_tree
from .lab import Lab
from .requirements import require_machine
from .shell import SYSTEM_PATH, LabError

FAULTS = ("partition", "heal", "freeze", "kill", "boot", "reboot", "reimage", "rekey", "fill", "unfill")


def _up(arguments: argparse.Namespace) -> None:
    traits: dict[str, str] = {}
    for given in arguments.trait:
        host, _, words = given.partition("=")
        traits[host] = ",".join(filter(None, (traits.get(host), words)))
    started = time.monotonic()
    lab = Lab.up(arguments.hosts, traits, name=arguments.lab or "hand", keep=True)
    took = time.monotonic() - started
    print(f"lab {lab.id}: {arguments.hosts} hosts in {took:.1f} s, controller {lab.controller_ip}")
    print(f"ssh -F {lab.ssh_config} h1")


def _down(arguments: argparse.Namespace) -> None:
    labs = [Lab(record) for record in registry.records()] if arguments.all else [Lab.find(arguments.lab)]
    for lab in labs:
        lab.down()
        print(f"lab {lab.id}: down")


def _status(_: argparse.Namespace) -> None:
    for record in registry.records():
        owner = f"process {record.owner.pid}{' (gone)' if record.stale() else ''}" if record.owner else "made by hand"
        print(f"lab {record.id}: {record.subnet}.0/24, {owner}, {record.directory}")
        for host in Lab(record).hosts.values():
            state = "listening" if host.listening() else "up" if host.init else "off"
            print(f"  {host.name:5} {host.ip:15} {state:10} {len(host.processes()):3} processes  {host.traits}")


def _exec(arguments: argparse.Namespace) -> None:
    [host] = Lab.find(arguments.lab).pick((arguments.host,))
    argv = host.enter(arguments.argv or ["bash"], arguments.user)
    os.execvpe(argv[0], argv, {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"})


def _fault(arguments: argparse.Namespace) -> None:
    getattr(Lab.find(arguments.lab), arguments.command)(*arguments.host)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lab", metavar="ID", help="which lab (default: the one made by hand)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="make a lab")
    up.add_argument("hosts", type=int)
    up.add_argument("--trait", action="append", default=[], metavar="HOST=TRAIT[,TRAIT]")
    up.set_defaults(act=_up)
    down = commands.add_parser("down", help="remove a lab")
    down.add_argument("--all", action="store_true", help="every lab on this machine, those of test runs too")
    down.set_defaults(act=_down)
    commands.add_parser("status", help="show all labs").set_defaults(act=_status)
    commands.add_parser("ssh-config", help="print the path of the config for ssh -F").set_defaults(
        act=lambda arguments: print(Lab.find(arguments.lab).ssh_config)
    )
    commands.add_parser("gc", help="remove what dead runs left").set_defaults(
        act=lambda _: print("\n".join(lifetime.collect()) or "nothing to collect")
    )
    commands.add_parser("base", help="make the shared Debian tree now").set_defaults(act=lambda _: print(base_tree()))
    execute = commands.add_parser("exec", help="run a command on a host: exec h1 [--user root] -- CMD...")
    execute.add_argument("host")
    execute.add_argument("--user", default="bee")
    execute.set_defaults(act=_exec)
    for name in FAULTS:
        fault = commands.add_parser(name, help=(getattr(Lab, name).__doc__ or "Give the filled space back.").strip())
        fault.add_argument("host", nargs="+")
        fault.set_defaults(act=_fault)
    return parser


def main(argv: list[str]) -> int:
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = _parser().parse_args(argv[:cut])
    arguments.argv = argv[cut + 1 :]
    try:
        require_machine()
        arguments.act(arguments)
    except LabError as error:
        print(str(error) if str(error).startswith("lab:") else f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
