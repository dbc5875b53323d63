# SPDX-License-Identifier: GPL-3.0-or-later
"""Which wheels a target needs, and what our own wheel is made of."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from packaging.tags import cpython_tags, mac_platforms

from rbee.adapters import own_wheel, shipped
from rbee.adapters.bundles import worker_type
from rbee.adapters.wheels import for_target, platform_tags
from rbee.core.errors import RbeeError
from rbee.core.providers import EngineProvider
from rbee.fleet.ports import Target

LINUX = Target(platform="linux-x86_64", python=(3, 10), libc_version=(2, 31))
LOCK = """
# a comment
one==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via something
old==2 ; python_full_version < '3.11' --hash=sha256:cc
new==3 ; python_full_version >= '3.11' --hash=sha256:dd  # why
win==4 ; sys_platform == 'win32' --hash=sha256:ee
arm==5 ; platform_machine == 'aarch64' or platform_machine == 'arm64' --hash=sha256:ff
"""


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (LINUX, "one old"),
        (Target(platform="linux-arm64", python=(3, 13)), "one new arm"),
        (Target(platform="macos-arm64", python=(3, 12)), "one new arm"),
    ],
)
def test_markers_are_those_of_the_target(target: Target, wanted: str) -> None:
    lines = for_target(LOCK, target)
    assert [line.partition("==")[0] for line in lines] == wanted.split()
    assert lines[0] == "one==1.0 --hash=sha256:aa --hash=sha256:bb"


@pytest.mark.parametrize("line", ["one==1", "one>=1 --hash=sha256:aa", "https://x --hash=sha256:aa", "-r other"])
def test_what_is_not_pinned_is_refused(line: str) -> None:
    with pytest.raises(RbeeError) as e:
        for_target(line, LINUX)
    assert e.value.code == "bad_lock"


def test_every_line_of_the_shipped_lock_is_pinned_for_every_target() -> None:
    text = shipped.hive_lock().read_text()
    for platform in ("linux-x86_64", "linux-arm64", "macos-arm64", "macos-x86_64"):
        for minor in (10, 11, 12, 13):
            names = [line.partition("==")[0] for line in for_target(text, Target(platform=platform, python=(3, minor)))]
            assert {"aiohttp", "msgspec", "psutil", "pyyaml"} <= set(names)
            assert len(names) == len(set(names))


def test_tags_never_ask_for_a_newer_libc_than_there_is() -> None:
    tags = platform_tags(LINUX)
    assert tags[0] == "manylinux_2_31_x86_64" and "manylinux2014_x86_64" in tags and "manylinux1_x86_64" in tags
    assert "manylinux_2_32_x86_64" not in tags
    assert platform_tags(Target(platform="linux-arm64", python=(3, 11), libc_version=(2, 35)))[-2:] == [
        "manylinux2014_aarch64",
        "linux_aarch64",
    ]
    assert platform_tags(Target(platform="linux-x86_64", python=(3, 11), libc="musl"))[0] == "musllinux_1_2_x86_64"
    mac = platform_tags(Target(platform="macos-arm64", python=(3, 11)))
    assert mac[0] == "macosx_12_0_arm64" and set(mac) <= set(mac_platforms((12, 0), "arm64"))
    assert list(cpython_tags((3, 11), platforms=mac))


def test_our_wheel_is_the_same_each_time_and_keeps_its_record() -> None:
    release = own_wheel.release_id()
    name, data = own_wheel.build(release)
    assert (name, data) == own_wheel.build(release) and release in name
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        record = archive.read(next(n for n in names if n.endswith("/RECORD"))).decode()
        assert archive.read("rbee/_shipped/hive.lock") == shipped.hive_lock().read_bytes()
    assert {"rbee/__init__.py", "rbee/cli/daemons.py", "rbee/_shipped/providers/engines/llama-cpp.yaml"} <= set(names)
    assert "rbee/_shipped/models/bee-tiny-q8_0.gguf" in names
    assert not [n for n in names if "__pycache__" in n or n.endswith(".pyc") or "/." in n]
    assert sorted(line.partition(",")[0] for line in record.splitlines()) == sorted(names)
    assert len(hashlib.sha256(data).hexdigest()) == 64


def test_an_apple_gpu_is_apples() -> None:
    provider = EngineProvider(
        kind="engine", name="x", version="1", summary="", worker_types=("metal", "cpu"), formats=("gguf",), module="x",
        distribution="x", command=(),
    )  # fmt: skip
    assert worker_type(provider, "macos-arm64") == "metal"
    assert worker_type(provider, "linux-x86_64") == "cpu"
