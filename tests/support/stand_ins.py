# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools that stand in for those of a driver: real executables that print what the real ones were seen to print."""

from __future__ import annotations

from pathlib import Path

from rbee.adapters.gpu import Host

GOLDENS = Path(__file__).parents[1] / "unit" / "goldens" / "gpu"


def golden(name: str) -> str:
    return (GOLDENS / name).read_text()


def tool(folder: Path, name: str, script: str) -> None:
    """An executable of that name: a shell script that gets the tool's arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def amd_smi(folder: Path, release: str = "rocm7", *, process: str = "amd-smi-process.json") -> None:
    """`amd-smi` of a release, with the recorded cards."""
    tool(
        folder,
        "amd-smi",
        f"""case "$1" in
static) /bin/cat {GOLDENS}/amd-smi-static.{release}.json ;;
metric) /bin/cat {GOLDENS}/amd-smi-metric.{release}.json ;;
process) /bin/cat {GOLDENS}/{process} ;;
*) echo "unknown command $1" >&2; exit 1 ;;
esac""",
    )


def host(root: Path, system: str = "linux", timeout: float = 20.0) -> Host:
    """A machine of files under `root`, whose tools are in `bin`."""
    (root / "bin").mkdir(parents=True, exist_ok=True)
    return Host(system=system, root=root, path=str(root / "bin"), timeout=timeout)


def amd_card(root: Path, number: int, bdf: str, **files: str) -> Path:
    """A card as the kernel's driver shows it under /sys; gives its device folder."""
    device = root / "sys/devices/pci0000:00" / bdf
    monitor = device / "hwmon" / "hwmon3"
    monitor.mkdir(parents=True)
    said = {
        "vendor": "0x1002",
        "device": "0x744c",
        "mem_info_vram_total": str(24 * 2**30),
        "mem_info_vram_used": str(4 * 2**30),
        "gpu_busy_percent": "37",
        **files,
    }
    sensors = {"temp1_input": "54000", "power1_average": "120500000", "pwm1": "51", "pwm1_max": "255"}
    for name, text in said.items():
        (device / name).write_text(f"{text}\n")
    for name, text in sensors.items():
        (monitor / name).write_text(f"{text}\n")
    card = root / "sys/class/drm" / f"card{number}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)
    return device


def descriptor(root: Path, pid: int, number: int, client: int, vram: str, to: str = "/dev/dri/renderD128") -> None:
    """An open descriptor of a process on the card at 0000:03:00.0, which has `vram` of it."""
    for folder in ("fd", "fdinfo"):
        (root / "proc" / str(pid) / folder).mkdir(parents=True, exist_ok=True)
    (root / "proc" / str(pid) / "fd" / str(number)).symlink_to(to)
    text = f"drm-driver: amdgpu\ndrm-client-id: {client}\ndrm-pdev: 0000:03:00.0\ndrm-memory-vram: {vram}\n"
    (root / "proc" / str(pid) / "fdinfo" / str(number)).write_text(text)
