# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has on its disks at its first boot: a writable layer over the shared tree, and its own /home."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .base import UID, USER
from .registry import HostRecord
from .shell import LabUnavailable, run

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
HIDDEN = {
    "nopython": ("usr/bin/python3*", "usr/lib/python3*"),
    "nogomp": ("usr/lib/*/libgomp.so.1*",),
    "nosftp": ("usr/lib/openssh/sftp-server", "usr/lib/sftp-server"),
}
"""Trait to the paths of the shared tree that a host with it does not see."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where one host's files are on the controller."""

    directory: Path

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    @property
    def home(self) -> Path:
        """The mount point of the host's own /home disk; only there with the trait `home`."""
        return self.directory / "home"

    @property
    def key(self) -> Path:
        """The host's SSH host key as it was first, which is what known_hosts says."""
        return self.directory / "host_key"


def create(disk: Disk, host: HostRecord, *, tree: Path, names: Iterable[tuple[str, str]], login_key: str) -> None:
    """Make the writable layer of a new host, or of one whose disk was wiped, which keeps its host key.

    `names` is (address, name) for /etc/hosts; `login_key` is the public key that may log in.
    """
    # What is written here is the host's own root, so a private umask of whoever runs the lab must not show there.
    before = os.umask(0o022)
    try:
        _create(disk, host, tree, names, login_key)
    finally:
        os.umask(before)


def _create(disk: Disk, host: HostRecord, tree: Path, names: Iterable[tuple[str, str]], login_key: str) -> None:
    for part in ("upper", "work", "root"):
        (disk.directory / part).mkdir(parents=True)
    if not disk.key.exists():
        new_key(disk.key)
    (disk.upper / "etc/ssh").mkdir(parents=True)
    for suffix in ("", ".pub"):
        shutil.copy(disk.key.with_name(disk.key.name + suffix), disk.upper / (HOST_KEY + suffix))
    homes = disk.upper / "home"
    if host.traits.home is not None:
        homes = disk.home
        _mount_home(disk, host.traits.home)
    _home(homes / USER, login_key)
    etc = disk.upper / "etc"
    table = ["127.0.0.1 localhost", f"127.0.1.1 {host.name}", *(f"{address} {name}" for address, name in names)]
    (etc / "hosts").write_text("\n".join(table) + "\n")
    (etc / "hostname").write_text(f"{host.name}\n")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (etc / "resolv.conf").write_text("# no way out, so no name server\n")
    if host.traits.noforward:
        (etc / "ssh/sshd_config.d").mkdir()
        (etc / "ssh/sshd_config.d/00-noforward.conf").write_text("AllowTcpForwarding no\n")
    for trait, patterns in HIDDEN.items():
        if getattr(host.traits, trait):
            _hide(tree, disk.upper, patterns)


def wipe(disk: Disk) -> None:
    """Throw away all the host wrote, its home disk too; the host must not be running."""
    unmount_home(disk)
    for part in ("upper", "work", "root", "home"):
        shutil.rmtree(disk.directory / part, ignore_errors=True)
    (disk.directory / "home.img").unlink(missing_ok=True)


def new_key(path: Path) -> None:
    """Make an SSH key pair at `path`, in place of one that is there."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rbee-lab", "-f", path)


def unmount_home(disk: Disk) -> None:
    while os.path.ismount(disk.home):
        run("umount", disk.home)


def _home(home: Path, login_key: str) -> None:
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(login_key)
    (home / ".ssh/authorized_keys").chmod(0o600)
    for path in (home, home / ".ssh"):
        path.chmod(0o700)
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, UID, UID)


def _mount_home(disk: Disk, mib: int) -> None:
    """A file system of its own, on the controller's side, so that it outlives the host's power."""
    disk.home.mkdir()
    image = disk.directory / "home.img"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    made = run("mkfs.ext4", "-q", "-m", "0", image, check=False).returncode == 0
    if not made or run("mount", "-o", "loop", image, disk.home, check=False).returncode != 0:
        # No loop devices here (a container, say): memory of that size is as good for being full.
        image.unlink()
        run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "rbee-lab-home", disk.home)


def _hide(tree: Path, upper: Path, patterns: Iterable[str]) -> None:
    """Hide paths of the lower tree: an overlay's whiteout is a character device 0/0."""
    for pattern in patterns:
        for path in tree.glob(pattern):
            target = upper / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))


def prepare(directory: Path, tree: Path) -> None:
    """Make a lab's directory one that can hold overlay layers: a tmpfs when its own file system cannot.

    Raises LabUnavailable when neither can.
    """
    directory.mkdir(parents=True, mode=0o711)
    refusal = _overlay_refused(directory, tree)
    if refusal:
        run("mount", "-t", "tmpfs", "-o", "mode=711", "rbee-lab", directory)
        refusal = _overlay_refused(directory, tree)
    if refusal:
        raise LabUnavailable(f"lab: needs overlay mounts ({refusal})")


def _overlay_refused(directory: Path, tree: Path) -> str:
    """Why an overlay with its upper layer in `directory` cannot be mounted; empty when it can."""
    probe = directory / "probe"
    for part in ("upper", "work", "root"):
        (probe / part).mkdir(parents=True)
    options = f"lowerdir={tree},upperdir={probe}/upper,workdir={probe}/work"
    script = 'mount -t overlay probe -o "$1" "$2" && : >"$2/etc/probe" && rm "$2/etc/hostname"'
    tried = run("unshare", "--mount", "sh", "-c", script, "sh", options, probe / "root", check=False)
    shutil.rmtree(probe)
    return "" if tried.returncode == 0 else tried.stdout.strip() or "refused"
