# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine must have before it can run a lab, said so that a person can mend it."""

from __future__ import annotations

import os
import shutil

from .shell import SYSTEM_PATH, LabUnavailable, run

PACKAGES = {
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setsid": "util-linux",
}
"""Program to the Debian package that has it."""

PROBE = "ip link add rblprobe type bridge && ip link add rblprobe1 type veth peer name rblprobe2"


def require_programs(packages: dict[str, str]) -> None:
    """Raise LabUnavailable naming every missing program and the one command that installs them."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    missing = [program for program in packages if shutil.which(program, path=path) is None]
    if missing:
        install = " ".join(sorted({packages[program] for program in missing}))
        raise LabUnavailable(f"lab: needs {', '.join(missing)} (apt-get install {install})")


def require_machine() -> None:
    """Raise LabUnavailable unless this process may make namespaces, bridges and veth pairs here."""
    if os.geteuid() != 0:
        raise LabUnavailable("lab: needs root")
    require_programs(PACKAGES)
    made = run("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true", check=False)
    if made.returncode != 0:
        raise LabUnavailable(f"lab: needs network, mount and PID namespaces ({made.stdout.strip()})")
    made = run("unshare", "--net", "--mount", "sh", "-c", PROBE, check=False)
    if made.returncode != 0:
        raise LabUnavailable(f"lab: needs bridges and veth pairs ({made.stdout.strip()})")
