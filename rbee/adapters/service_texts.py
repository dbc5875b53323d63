# SPDX-License-Identifier: GPL-3.0-or-later
"""What supervisors are given: a systemd unit, a launchd plist, a crontab line. Pure."""

from __future__ import annotations

import plistlib
import shlex
from collections.abc import Mapping, Sequence

from rbee.contracts import defaults

#: Of the environment that a start is run in, what its daemon must have again after a reboot.
KEPT = (
    *("HOME", "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
)


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in KEPT if environ.get(name) and "\n" not in environ[name]}


def _systemd_quoted(word: str) -> str:
    """One word of a unit file: quoted, with systemd's own expansions (`%`, `$`) made harmless."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def systemd_unit(daemon: str, argv: Sequence[str], environ: Mapping[str, str], log: str) -> str:
    """Only the daemon itself is stopped with the unit: workers outlive their hive."""
    command = " ".join(_systemd_quoted(word).replace("$", "$$") for word in argv)
    variables = "".join(f"Environment={_systemd_quoted(f'{k}={v}')}\n" for k, v in sorted(environ.items()))
    return (
        f"# Written by rbee apply; `rbee destroy` removes it.\n"
        f"[Unit]\nDescription=rbee {daemon}\nAfter=network-online.target\nStartLimitIntervalSec=60\n"
        f"StartLimitBurst=5\n\n"
        f"[Service]\nExecStart={command}\n{variables}"
        f"Restart=on-failure\nRestartSec=2\nRestartPreventExitStatus=2\nKillMode=process\n"
        f"TimeoutStopSec={defaults.DAEMON_DRAIN + 5:g}\n"
        f"StandardOutput=append:{log.replace('%', '%%')}\nStandardError=inherit\nUMask=0077\n\n"
        f"[Install]\nWantedBy=default.target\n"
    )


def launchd_plist(label: str, argv: Sequence[str], environ: Mapping[str, str], log: str) -> bytes:
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(argv),
            "EnvironmentVariables": dict(sorted(environ.items())),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            # Workers are in groups of their own and outlive their hive.
            "AbandonProcessGroup": True,
            "ExitTimeOut": int(defaults.DAEMON_DRAIN + 5),
            "StandardOutPath": log,
            "StandardErrorPath": log,
            "Umask": 0o077,
        }
    )


def crontab_line(daemon: str, argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Starts the daemon at boot. cron reads `%` as a line's end unless it is escaped."""
    said = {k: v for k, v in environ.items() if k != "HOME"}
    words = ["env", *(f"{k}={v}" for k, v in sorted(said.items())), *argv]
    return f"@reboot {shlex.join(words).replace('%', chr(92) + '%')} >/dev/null 2>&1 # rbee:{daemon}"


def with_line(crontab: str, daemon: str, line: str | None) -> str:
    """A crontab with exactly this line of ours (or none); everybody else's stay as they are."""
    others = [x for x in crontab.splitlines() if not x.rstrip().endswith(f"# rbee:{daemon}")]
    lines = [*others, *([line] if line else [])]
    return "".join(f"{x}\n" for x in lines)
