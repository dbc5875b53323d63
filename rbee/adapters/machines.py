# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as rbee reaches them, and what is needed to install on them. SSH's library is loaded when it is needed:
a fleet of one machine has none."""

from __future__ import annotations

from rbee.adapters.local_shell import LocalShell
from rbee.adapters.paths import Paths
from rbee.core.errors import RbeeError
from rbee.core.spec import Ssh
from rbee.fleet.ports import Bundler, Shell
from rbee.fleet.world import Installer


def open_shell(name: str, ssh: Ssh | None) -> Shell:
    """The machine of hive `name`; without `ssh` this one. Connects when the first command is run. Raises RbeeError
    `not_installed` where this Python has no SSH library."""
    if ssh is None:
        return LocalShell(name)
    try:
        from rbee.adapters.ssh import SshShell
    except ImportError as e:
        raise _lacking(e) from None
    return SshShell(name, ssh)


def installing(paths: Paths) -> tuple[Bundler, Installer]:
    """What makes releases and puts them on machines. Raises RbeeError `not_installed`."""
    try:
        from rbee.adapters.bundles import PipBundler
        from rbee.adapters.installer import RealInstaller
    except ImportError as e:
        raise _lacking(e) from None
    return PipBundler(paths), RealInstaller(paths)


def _lacking(error: ImportError) -> RbeeError:
    return RbeeError(
        f"This Python has no {error.name}, so other machines cannot be reached from here.",
        code="not_installed",
        mend="Install rbee with what a controller needs: pip install 'rbee[controller]'.",
    )
