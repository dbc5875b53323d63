# SPDX-License-Identifier: GPL-3.0-or-later
"""The one Debian tree that all hosts of all labs share, read-only, made once and kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .registry import locked
from .requirements import require_programs
from .shell import LabError, LabUnavailable, run

INCLUDE = ("openssh-server", "python3", "libgomp1", "procps", "iproute2", "ca-certificates")
USER, UID = "bee", 1000
"""The one plain user of every host: no sudo, a key login."""
SSHD_PID = "/run/rbee-lab-sshd.pid"
SSHD_CONFIG = f"""\
PasswordAuthentication no
PermitRootLogin no
UseDNS no
MaxStartups 100
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile {SSHD_PID}
"""
SLIM = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/info")
RECIPE = repr((1, INCLUDE, USER, UID, SSHD_CONFIG, SLIM))
#: Without an apt of its own to ask, debootstrap takes the mirror that it knows for the suite.
DEFAULT_SUITE = "bookworm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Where the tree's packages come from."""

    suite: str
    url: str
    keyring: Path | None = None
    trusted: bool = False


def cache_directory() -> Path:
    """Where the tree and the labs' disks live: $RBEE_LAB_DIR, else ~/.cache/rbee-lab."""
    return Path(os.environ.get("RBEE_LAB_DIR") or Path.home() / ".cache/rbee-lab").absolute()


def base_tree() -> Path:
    """The shared tree; made first when it is not there (under 90 seconds, the Debian mirror is all it needs).

    Raises LabUnavailable when debootstrap is missing or the tree cannot be made. Blocks while another
    process makes the same tree. A tree is named after its recipe, so a changed recipe makes a new one.
    """
    mirror = host_mirror()
    name = f"{mirror.suite}-{hashlib.sha256(RECIPE.encode()).hexdigest()[:12]}"
    tree = cache_directory() / "base" / name
    if tree.is_dir():
        return tree
    with locked("base.lock"):
        if not tree.is_dir():
            require_programs({"debootstrap": "debootstrap"})
            _make(tree, mirror)
    return tree


def _make(tree: Path, mirror: Mirror) -> None:
    part = tree.with_name(tree.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    trust = ["--no-check-gpg"] if mirror.trusted else [f"--keyring={mirror.keyring}"] if mirror.keyring else []
    include = f"--include={','.join(INCLUDE)}"
    try:
        run(
            "debootstrap", "--variant=minbase", include, *trust, mirror.suite, part, *filter(None, [mirror.url]),
            env=_proxy(), timeout=900,
        )  # fmt: skip
        run("chroot", part, "useradd", "--create-home", "--shell", "/bin/bash", "--uid", UID, USER)
    except LabError as error:
        log = part / "debootstrap/debootstrap.log"
        tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        shutil.rmtree(part, ignore_errors=True)
        raise LabUnavailable(
            f"lab: cannot make the Debian tree from {mirror.url or 'its default mirror'}: {error}\n{tail}"
        ) from error
    for slim in SLIM:
        shutil.rmtree(part / slim, ignore_errors=True)
    for key in (part / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (part / "etc/ssh/sshd_config.d").mkdir(exist_ok=True)
    (part / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD_CONFIG)
    part.rename(tree)


def host_mirror() -> Mirror:
    """The mirror this machine's own apt uses for its release, else debootstrap's own choice."""
    release = Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else ""
    codename = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', release, re.MULTILINE)
    if codename:
        top = Path("/etc/apt")
        for path in (top / "sources.list", *sorted((top / "sources.list.d").glob("*"))):
            parse = {".sources": mirror_of_deb822, ".list": mirror_of_list}.get(path.suffix)
            if parse and path.is_file() and (found := parse(path.read_text(errors="replace"), codename[1])):
                return found
    return Mirror(suite=DEFAULT_SUITE, url="")


def mirror_of_deb822(text: str, suite: str) -> Mirror | None:
    """The first stanza of a `.sources` file that has `suite` itself with component main, over HTTP."""
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", plain):
        pairs = re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {key.lower(): value.split() for key, value in pairs}
        urls = [url for url in fields.get("uris", []) if url.startswith(("http://", "https://"))]
        wanted = suite in fields.get("suites", []) and "main" in fields.get("components", [])
        if urls and wanted and "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
            return _mirror(suite, urls[0], fields.get("signed-by", []), fields.get("trusted") == ["yes"])
    return None


def mirror_of_list(text: str, suite: str) -> Mirror | None:
    """The first `deb` line for `suite` itself with component main, over HTTP."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[(.*?)\]\s+)?(https?://\S+)\s+(\S+)\s+(.*)", line)
        if found and found[3] == suite and "main" in found[4].split():
            options = dict(word.partition("=")[::2] for word in (found[1] or "").split())
            return _mirror(suite, found[2], options.get("signed-by", "").split(","), options.get("trusted") == "yes")
    return None


def _mirror(suite: str, url: str, signed_by: list[str], trusted: bool) -> Mirror:
    keyrings = [Path(name) for name in signed_by if name.startswith("/") and Path(name).is_file()]
    return Mirror(suite=suite, url=url, keyring=keyrings[0] if keyrings else None, trusted=trusted)


def _proxy() -> dict[str, str]:
    """apt's own proxy, for debootstrap's downloads; the environment's wins."""
    if "http_proxy" in os.environ or shutil.which("apt-config") is None:
        return {}
    found = re.search(r"proxy='(.+)'", run("apt-config", "shell", "proxy", "Acquire::http::Proxy", check=False).stdout)
    return {"http_proxy": found[1], "https_proxy": found[1]} if found and "://" in found[1] else {}
