# SPDX-License-Identifier: GPL-3.0-or-later
"""All that plan wants to know of a machine, in one run. Changes nothing.

Parameters: `libraries` (names to look for), `capabilities` (ask a running hive for them). A part that cannot
be told is left out. Rarely used modules are imported where they are used: this runs on every machine at every plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

MODULES = ("venv", "zlib", "ssl", "sqlite3", "ctypes", "asyncio", "zipfile")


def read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def output(*argv: str) -> str:
    """What a command prints, empty when it fails, is missing or takes longer than five seconds."""
    import subprocess

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(argv, check=False, capture_output=True, timeout=5, stdin=subprocess.DEVNULL, text=True)
        if done.returncode == 0:
            return done.stdout.strip() or "ok"
    return ""


def roots(home: Path) -> dict[str, Path]:
    wanted = {
        "config": ("XDG_CONFIG_HOME", ".config"),
        "cache": ("XDG_CACHE_HOME", ".cache"),
        "data": ("XDG_DATA_HOME", ".local/share"),
        "state": ("XDG_STATE_HOME", ".local/state"),
    }
    return {k: Path(os.environ.get(variable) or home / default) / "rbee" for k, (variable, default) in wanted.items()}


def disk(path: Path) -> dict[str, Any]:
    """Of the nearest directory above `path` that is there."""
    there = next((p for p in (path, *path.parents) if p.is_dir()), Path("/"))
    found = os.statvfs(there)
    return {"path": str(path), "free": found.f_bavail * found.f_frsize, "writable": os.access(there, os.W_OK | os.X_OK)}


def libc() -> dict[str, Any]:
    if not sys.platform.startswith("linux"):
        return {}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        if name == "glibc":
            return {"libc": "glibc", "libc_version": [int(n) for n in version.split(".")[:2]]}
    return {"libc": "musl"} if any(Path("/lib").glob("ld-musl-*")) else {}


def has_module(name: str) -> bool:
    return name in sys.builtin_module_names or importlib.machinery.PathFinder.find_spec(name) is not None


def has_library(name: str) -> bool:
    try:
        import ctypes

        ctypes.CDLL(name)
    except ImportError:
        return name in output("/sbin/ldconfig", "-p")
    except OSError:
        return False
    return True


def cpu_flags() -> list[str]:
    for line in read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return sorted(value.split())
    found = output("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
    return sorted(found.lower().split()) if found != "ok" else []


def memory() -> dict[str, int]:
    table = {k: v for k, _, v in (line.partition(":") for line in read("/proc/meminfo").splitlines())}
    if "MemTotal" in table:
        total = int(table["MemTotal"].split()[0]) * 1024
        free = int(table.get("MemAvailable", table["MemTotal"]).split()[0]) * 1024
        for limit, used in (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        ):
            with contextlib.suppress(ValueError):
                bound = int(read(limit))
                total, free = min(total, bound), min(free, max(0, bound - int(read(used) or 0)))
        return {"memory_total": total, "memory_available": free}
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"memory_total": total, "memory_available": total}


def supervisor(user: str) -> dict[str, Any]:
    if sys.platform == "darwin":
        return {"supervisor": "launchd"}
    if any(Path(folder, "systemctl").exists() for folder in os.get_exec_path()):
        os.environ.setdefault("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        if output("systemctl", "--user", "show-environment"):
            linger = Path(f"/var/lib/systemd/linger/{user}").exists()
            return {"supervisor": "systemd-user", "linger": linger}
    return {"supervisor": "detached"}


def started(pid: int) -> tuple[int, float] | None:
    """When a process began: clock ticks after boot, and seconds since the epoch. None when it is gone."""
    stat = read(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return None
        boot = next((float(x.split()[1]) for x in read("/proc/stat").splitlines() if x.startswith("btime")), 0.0)
        return int(fields[19]), boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    found = output("ps", "-o", "lstart=", "-p", str(pid)) if sys.platform == "darwin" else ""
    with contextlib.suppress(ValueError):
        return 0, time.mktime(time.strptime(found))
    return None


def alive(record: dict[str, Any]) -> bool:
    """Whether the process that wrote this record still runs: a pid by itself proves nothing."""
    try:
        begun, then = started(int(record["pid"])), float(record["start_time"])
    except (KeyError, TypeError, ValueError):
        return False
    # rbee writes ticks; where there is no /proc, hundredths of a second.
    return begun is not None and (then == begun[0] or abs(then / 100 - begun[1]) < 3)


def metadata(place: Path) -> list[dict[str, Any]]:
    """Of each directory there; hidden ones are still being made."""
    files = sorted(f for f in place.glob("*/metadata.json") if not f.parent.name.startswith("."))
    return [found for found in map(read_json, files) if found]


def workers(state: Path) -> list[dict[str, Any]]:
    found = []
    for place in sorted(state.glob("workers/*")):
        config, process = read_json(place / "worker.json"), read_json(place / "process.json")
        if config and process:
            engine = (config.get("provider") or {}).get("name", "")
            about = {"worker_id": place.name, "model": config.get("model", ""), "engine": engine}
            about["idle_timeout"] = config.get("idle_timeout")
            about |= {"pid": process.get("pid", 0), "alive": alive(process), "status": process.get("status", "")}
            mark = process.get("mark") or {}
            about |= {"fleet": mark.get("fleet", ""), "spec_digest": mark.get("spec_digest", "")}
            found.append(about)
    return found


def gpus(root: Path = Path("/")) -> dict[str, int]:
    """GPUs that the kernel shows; what they are, the hive finds out with the vendor's own library."""
    if sys.platform == "darwin":
        return {"metal": 1} if os.uname().machine == "arm64" else {}
    found = {"cuda": len(list(root.glob("dev/nvidia[0-9]*"))), "rocm": len(amd(root))}
    return {kind: count for kind, count in found.items() if count}


def amd(root: Path) -> set[str]:
    """AMD's cards that have memory, by their place on the bus: those that a hive finds (adapters/gpu/amd_sysfs)."""
    cards = (place / "device" for place in root.glob("sys/class/drm/card*") if place.name[4:].isdigit())
    return {
        os.path.realpath(card)
        for card in cards
        if read(card / "vendor").strip() == "0x1002" and read(card / "mem_info_vram_total").strip()
    }


def digest(value: Any) -> str:
    """As rbee.core.digest makes it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def settings(path: Path) -> dict[str, Any] | None:
    found = read_json(path)
    return {"digest": digest(found), "fleet": found.get("fleet", "")} if found else None


def token(path: Path) -> tuple[dict[str, Any] | None, str]:
    """What may be told of the token, and the token."""
    try:
        mode, secret = path.stat().st_mode & 0o777, read(path).strip()
    except OSError:
        return None, ""
    return {"digest": hashlib.sha256(secret.encode()).hexdigest()[:16], "mode": mode}, secret


def capabilities(url: str, secret: str) -> dict[str, Any]:
    import http.client
    from urllib.parse import urlsplit

    place = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=5)
        connection.request("GET", "/capabilities", headers={"Authorization": f"Bearer {secret}"} if secret else {})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200:
            return {"capabilities": json.loads(body)}
        return {"capabilities_error": f"{url}/capabilities answered {answer.status}"}
    except (OSError, ValueError, http.client.HTTPException) as e:
        return {"capabilities_error": f"{url}: {e or type(e).__name__}"}


def machine(home: Path) -> dict[str, Any]:
    told = os.uname()
    system = {"Linux": "linux", "Darwin": "macos"}.get(told.sysname, told.sysname.lower())
    arch = {"aarch64": "arm64", "amd64": "x86_64"}.get(told.machine.lower(), told.machine.lower())
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
    abi = "t" if "t" in getattr(sys, "abiflags", "") else ""
    python = {"path": sys.executable or os.path.realpath("/proc/self/exe"), "version": list(sys.version_info[:3])}
    python["tag"] = f"cp{sys.version_info[0]}{sys.version_info[1]}{abi}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {
        "os": system,
        "arch": arch,
        "platform": f"{system}-{arch}",
        "home": str(home),
        "user": user,
    }
    found |= {"hostname": told.nodename, "python": python, "cpu_cores": cores, "cpu_flags": cpu_flags()}
    ssh = os.environ.get("SSH_CONNECTION", "").split()
    if len(ssh) == 4:
        found |= {"client_address": ssh[0].partition("%")[0], "server_address": ssh[2].partition("%")[0]}
    return found | libc() | memory() | supervisor(user)


def probe(asked: dict[str, Any]) -> dict[str, Any]:
    home = Path("~").expanduser()
    found, at = machine(home), roots(home)
    found |= {
        "roots": {k: str(p) for k, p in at.items()},
        "missing_modules": [name for name in MODULES if not has_module(name)],
    }
    found["disks"] = {k: disk(p) for k, p in {"home": home, **at}.items()}
    found["gpus"] = gpus()
    found["libraries"] = {name: has_library(name) for name in asked.get("libraries") or []}
    found["releases"] = [
        about | {"usable": os.access(about.get("python", ""), os.X_OK)} for about in metadata(at["data"] / "releases")
    ]
    found["engines"] = metadata(at["cache"] / "workers")
    found["models"] = metadata(at["cache"] / "models")
    found["workers"] = workers(at["state"])
    found["token"], secret = token(at["config"] / "token")
    for name in ("hive", "queen"):
        found[f"{name}_config"] = settings(at["config"] / f"{name}.json")
        record = read_json(at["state"] / f"{name}.run.json")
        found[name] = {**record, "name": name, "alive": alive(record)} if record else None
    if asked.get("capabilities") and found["hive"] and found["hive"]["alive"]:
        found |= capabilities(found["hive"].get("url", ""), secret)
    return found


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline() or b"{}")
    sys.stdout.write("\nrbee: " + json.dumps(probe(asked)) + "\n")


if __name__ == "__main__":
    main()
