# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m tests.bench.apply [--quick]`: applies a fleet of lab hosts, again, and with one host drifted.

The hosts share this machine's cores with the controller, so walls hold the hosts' own work too. Judge by the ratios
to the yardsticks of the same run, and by the controller's CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.fleet import Fleet, fleet_of
from tests.lab.lab import Lab
from tests.lab.shell import LabUnavailable

RESULTS = Path(__file__).parents[1] / "results" / "apply.json"
ROUNDS = 3
NOOP, FABRIC, OPENSSH = "no-op apply", "Fabric, probe in one batch", "OpenSSH, `ssh HOST true` at once"
ALL_AT_ONCE = 'config=$1; shift; for h; do ssh -F "$config" "$h" true & done; wait'


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds on the clock, and of CPU by the controller's process and those that it waited for."""

    wall: float
    cpu: float


def cost(argv: Sequence[str], environment: Mapping[str, str], cwd: Path, expect: str) -> Cost:
    """Run a command to its end; raises RuntimeError when it fails or does not print what it must."""
    with tempfile.TemporaryFile() as out:
        started = time.monotonic()
        process = subprocess.Popen(
            argv, env=dict(environment), cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        told = out.read().decode(errors="replace")
    if process.returncode or expect not in told:
        raise RuntimeError(f"{argv}: {process.returncode}\n{told[-4000:]}")
    return Cost(round(wall, 3), round(used.ru_utime + used.ru_stime, 3))


class Bench:
    """The commands that are compared, on one lab."""

    def __init__(self, fleet: Fleet, hosts: Sequence[str]) -> None:
        self.fleet, self.hosts = fleet, list(hosts)
        self.config = str(fleet.lab.ssh_config)
        # An installed program has its compiled modules; one that may not keep them compiles itself at each start.
        self.env = {k: v for k, v in fleet.home.env.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def apply(self, expect: str) -> Cost:
        argv = [sys.executable, "-m", "rbee.cli", "apply", "--auto-approve"]
        return cost(argv, self.env, self.fleet.home.root, expect)

    def noop(self) -> Cost:
        return self.apply("No changes")

    def drift(self) -> Cost:
        """Apply after one host's worker was given other options."""
        text = self.fleet.home.yaml.read_text()
        host, sizes = self.hosts[-1], ("context_length: 256", "context_length: 320")
        line = next(one for one in text.splitlines() if one.startswith(f"  w-{host}:"))
        was, now = sizes if sizes[0] in line else sizes[::-1]
        self.fleet.home.yaml.write_text(text.replace(line, line.replace(was, now)))
        return self.apply("0 to add, 0 to change, 1 to replace, 0 to remove")

    def fabric(self) -> Cost:
        argv = [sys.executable, "-m", "tests.bench.apply.fabric_probe", self.config, *self.hosts]
        root = str(Path(__file__).parents[3])
        return cost(argv, {**self.env, "PYTHONPATH": root}, Path(root), f"{len(self.hosts)} hives of")

    def openssh(self) -> Cost:
        return cost(["sh", "-c", ALL_AT_ONCE, "sh", self.config, *self.hosts], self.env, Path("/"), "")


def measure(count: int) -> dict[str, Cost]:
    """Medians on `count` hosts, the contenders in turn in each round."""
    with (
        Lab.up(count) as lab,
        tempfile.TemporaryDirectory(prefix="rbee-bench-") as place,
        fleet_of(lab, Path(place), wipe=False) as fleet,
    ):
        bench = Bench(fleet, list(lab.hosts))
        fleet.write(bench.hosts)
        found = {"first apply": bench.apply("Apply complete")}
        contenders: dict[str, Callable[[], Cost]] = {
            NOOP: bench.noop, "one host drifted": bench.drift, FABRIC: bench.fabric, OPENSSH: bench.openssh
        }  # fmt: skip
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(ROUNDS)]
    return found | {name: _median([one[name] for one in rounds]) for name in contenders}


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.cpu for c in costs))


def ratios(found: Mapping[str, Cost]) -> dict[str, float]:
    """To the yardsticks of the same run; below 1 is better than they."""
    noop, fabric, ssh = found[NOOP], found[FABRIC], found[OPENSSH]
    return {
        "no-op / Fabric's probe, wall": round(noop.wall / fabric.wall, 2),
        "no-op / Fabric's probe, controller CPU": round(noop.cpu / fabric.cpu, 2),
        "no-op / OpenSSH, wall": round(noop.wall / ssh.wall, 2),
    }


def show(count: int, found: Mapping[str, Cost], compared: Mapping[str, float]) -> None:
    print(f"\n{count} hosts{'':27}wall s   controller CPU s")
    for name, one in found.items():
        print(f"  {name:32} {one.wall:7.2f}   {one.cpu:7.2f}")
    for name, ratio in compared.items():
        print(f"  {name}: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.apply", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 hosts only")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    asked = parser.parse_args()
    print(f"The hosts have the same {os.cpu_count()} cores as the controller: walls hold their work too.")
    figures = {}
    for count in (4,) if asked.quick else (4, 16):
        try:
            found = measure(count)
        except LabUnavailable as reason:
            print(f"apply cannot be measured here: {reason}")
            return
        compared = ratios(found)
        show(count, found, compared)
        figures[str(count)] = {"seconds": {name: asdict(one) for name, one in found.items()}, "ratios": compared}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps({"cores": os.cpu_count(), "rounds": ROUNDS, "hosts": figures}, indent=2) + "\n")
    print(f"\nfigures: {asked.json}")


if __name__ == "__main__":
    main()
