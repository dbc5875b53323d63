# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab host: its first process in namespaces of its own, and what a test does inside it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, disks, net
from .base import SSHD_PID, USER
from .registry import HostRecord, LabRecord
from .shell import SYSTEM_PATH, LabError, process_start, run, start_of_stat

# Runs as the host's first process, before its root is its own. It notes who it is as the controller sees
# it (the /proc there is still the controller's), joins its control groups and builds the root.
INIT = """
set -e
exec >>"$LAB_DISK/boot.log" 2>&1
read -r stat </proc/self/stat
echo "$stat" >"$LAB_DISK/init.part"
mv "$LAB_DISK/init.part" "$LAB_DISK/init.stat"
for procs in $LAB_CGROUPS; do echo 0 >"$procs"; done
mount -t overlay "$LAB_TITLE" -o "lowerdir=$LAB_TREE,upperdir=$LAB_DISK/upper,workdir=$LAB_DISK/work" "$LAB_DISK/root"
if [ -d "$LAB_DISK/home" ]; then mount --bind "$LAB_DISK/home" "$LAB_DISK/root/home"; fi
cd "$LAB_DISK/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do : >dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,gid=5,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/sshd run/lock run/old
echo "$LAB_NAME" >proc/sys/kernel/hostname
pivot_root . run/old
exec env -i PATH="$PATH" HOME=/root chroot . /bin/sh -c '
  umount -l /run/old
  rmdir /run/old
  /usr/sbin/sshd -E /var/log/sshd.log
  while :; do sleep 1000000 & wait $!; done' </dev/null
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProcess:
    """A process of a host: `pid` as the host sees it, `outer` as the controller does."""

    pid: int
    outer: int
    uid: int
    argv: tuple[str, ...]


class Host:
    """A host of a running lab, named and addressed; use those that `Lab.hosts` holds."""

    def __init__(self, lab: LabRecord, record: HostRecord) -> None:
        self.lab, self.record = lab, record
        self.name, self.ip, self.traits = record.name, record.ip, record.traits
        self.disk = disks.Disk(lab.directory / "hosts" / record.name)
        self.netns = net.netns(lab, record)
        self.cgroup = cgroups.Cgroup(self.netns)

    # ------------------------------------------------------------ power

    @property
    def init(self) -> int | None:
        """The controller's pid of the host's first process; None when the host is off."""
        try:
            stat = (self.disk.directory / "init.stat").read_text()
        except OSError:
            return None
        pid = int(stat.split()[0])
        return pid if process_start(pid) == start_of_stat(stat) else None

    def start(self, tree: Path) -> None:
        """Switch the host on; returns before it is ready."""
        (self.disk.directory / "init.stat").unlink(missing_ok=True)
        environment = {
            "PATH": SYSTEM_PATH, "LAB_NAME": self.name, "LAB_TITLE": self.netns, "LAB_TREE": str(tree),
            "LAB_DISK": str(self.disk.directory),
            "LAB_CGROUPS": " ".join(map(str, self.cgroup.create(self.traits.mem))),
        }  # fmt: skip
        # setsid forks, so that the host is nobody's child here: no zombie, no signal from our terminal.
        spaces = f"nsenter --net={net.SPACES / self.netns} unshare --mount --uts --ipc --pid --fork --kill-child"
        subprocess.run(
            ["setsid", "--fork", *spaces.split(), "sh", "-c", INIT], env=environment, cwd="/", check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        net.power(self.lab, self.record, on=True)

    def wait_ready(self, timeout: float = 30) -> None:
        """Block until sshd listens; raises LabError with the boot log when it does not come to that."""
        end = time.monotonic() + timeout
        while not self.listening():
            started = (self.disk.directory / "init.stat").exists()
            if (started and self.init is None) or time.monotonic() > end:
                log = self.disk.directory / "boot.log"
                raise LabError(f"{self.name} did not come up: {log.read_text() if log.exists() else 'no boot log'}")
            time.sleep(0.01)

    def listening(self) -> bool:
        """Whether sshd has bound its port (it writes its pid file just after)."""
        return (pid := self.init) is not None and Path(f"/proc/{pid}/root{SSHD_PID}").exists()

    def stop(self) -> None:
        """Cut the power: the link goes down, and SIGKILL of its first process takes every other with it."""
        net.power(self.lab, self.record, on=False)
        if (pid := self.init) is None:
            return
        with contextlib.suppress(LabError):
            self.cgroup.freeze(False)
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not select.select([handle], [], [], 15)[0]:
                    raise LabError(f"{self.name}: its first process ({pid}) would not die")
            finally:
                os.close(handle)

    # ------------------------------------------------------------ inside

    def enter(self, argv: Sequence[str], user: str) -> list[str]:
        """The argv that runs `argv` on the host from here, in the user's home; raises LabError when it is off."""
        if (pid := self.init) is None:
            raise LabError(f"{self.name} is off")
        home = "/root" if user == "root" else f"/home/{user}"
        words = f"nsenter -t {pid} -m -u -i -n -p -r -w -- env -i PATH={SYSTEM_PATH} HOME={home} USER={user}"
        become = [] if user == "root" else ["runuser", "-u", user, "--"]
        return [*words.split(), "LANG=C.UTF-8", *become, "sh", "-c", 'cd && exec "$@"', "sh", *argv]

    def exec(
        self,
        argv: Sequence[str],
        *,
        user: str = USER,
        input: str | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host without SSH (so also when it is partitioned); output as in `shell.run`."""
        return run(*self.enter(argv, user), input=input, check=check, timeout=timeout)

    def processes(self) -> tuple[HostProcess, ...]:
        """All that runs on the host now, zombies not counted; empty when it is off."""
        if (pid := self.init) is None:
            return ()
        try:
            space = Path(f"/proc/{pid}/ns/pid").stat().st_ino
        except OSError:
            return ()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == space:
                    found.append(_process(entry))
        return tuple(sorted(filter(None, found), key=lambda process: process.pid))

    def pids(self, containing: str = "") -> tuple[int, ...]:
        """The host's own numbers of the processes whose command line contains the text."""
        return tuple(process.pid for process in self.processes() if containing in " ".join(process.argv))

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Send a signal to a process by the host's own number of it; raises ProcessLookupError when there is none."""
        for process in self.processes():
            if process.pid == pid:
                return os.kill(process.outer, sig)
        raise ProcessLookupError(f"{self.name}: no process {pid}")

    def read_file(self, path: str) -> str:
        """A file of the host, read as root; a relative path starts at the user's home."""
        return self.exec(["cat", "--", self._absolute(path)], user="root").stdout

    def write_file(self, path: str, text: str, *, user: str = USER) -> None:
        """Write a file on the host as `user`, its directories too; a relative path starts at bee's home."""
        script = 'mkdir -p -- "$(dirname -- "$1")" && cat >"$1"'
        self.exec(["sh", "-c", script, "sh", self._absolute(path)], user=user, input=text)

    def exists(self, path: str) -> bool:
        return self.exec(["test", "-e", self._absolute(path)], user="root", check=False).returncode == 0

    @staticmethod
    def _absolute(path: str) -> str:
        return path if path.startswith("/") else f"/home/{USER}/{path}"


def _process(entry: Path) -> HostProcess | None:
    """One /proc entry of the controller; None for a zombie."""
    fields = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines() if ":" in line)
    if fields["State"].split()[0] in "ZX":
        return None
    argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    uid = int(fields["Uid"].split()[0])
    return HostProcess(pid=int(fields["NSpid"].split()[-1]), outer=int(entry.name), uid=uid, argv=tuple(argv))
