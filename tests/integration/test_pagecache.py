# SPDX-License-Identifier: GPL-3.0-or-later
"""Files in the page cache, on this machine's own kernel: read, locked, measured, dropped, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rbee.adapters import pagecache
from rbee.adapters.keeper import Keeper
from rbee.core.errors import RbeeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' page cache")

SIZE = 20 * 2**20 + 1234


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """On the disk, with nothing of it in memory."""
    made = tmp_path / "model.bin"
    write(made, SIZE)
    return made


def write(path: Path, size: int) -> None:
    with path.open("wb") as f:
        f.write(os.urandom(size))
        f.flush()
        os.fsync(f.fileno())
    pagecache.drop(path)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper("a-model")
    yield made
    made.end()


def test_what_is_in_memory_is_measured_to_the_byte(file: Path) -> None:
    assert (pagecache.resident(file), pagecache.share(file)) == (0, 0.0)
    with file.open("rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(f.fileno(), 10, SIZE - 10)
        assert pagecache.resident(file) == SIZE % pagecache.PAGE
        os.pread(f.fileno(), 10, 0)
        assert pagecache.resident(file) == SIZE % pagecache.PAGE + pagecache.PAGE
    file.read_bytes()
    assert (pagecache.resident(file), pagecache.share(file)) == (SIZE, 1.0)


def test_an_empty_file_is_all_there_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert (pagecache.resident(tmp_path / "empty"), pagecache.share(tmp_path / "empty")) == (0, 1.0)
    with pytest.raises(FileNotFoundError):
        pagecache.resident(tmp_path / "none")


def test_a_reader_reads_everything_and_tells_how_far_it_is(file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    told: list[int] = []
    pagecache.Reader([(str(file), SIZE), (str(tmp_path / "empty"), 0)], told.append).run()
    assert pagecache.resident(file) == SIZE
    assert told == [pagecache.CHUNK, 2 * pagecache.CHUNK, SIZE]


def test_a_keeper_holds_the_pages_until_it_is_ended(file: Path, keeper: Keeper) -> None:
    told: list[int] = []
    keeper.load([(str(file), SIZE)], told.append)
    assert told[-1] == pagecache.resident(file) == SIZE
    if keeper.holds:  # this user may lock as much
        pagecache.drop(file)
        assert pagecache.resident(file) == SIZE
    keeper.end()
    assert not keeper.holds
    pagecache.drop(file)
    assert pagecache.resident(file) == 0


def test_without_the_right_to_lock_everything_is_read_and_nothing_is_held() -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as f:  # where a user without rights can look
        write(Path(f.name), SIZE)
        Path(f.name).chmod(0o666)
        unprivileged = (
            "import os, resource\n"
            "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
            "os.geteuid() or os.setuid(65534)\n"
        )
        source = Path(pagecache.__file__).read_text().replace('if __name__ == "__main__":', f"{unprivileged}if True:")
        source = source.replace("from __future__ import annotations\n", "")
        asked = json.dumps([[f.name, SIZE]]) + "\n"
        argv = ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-I", "-S", "-c", source]
        done = subprocess.run(argv, input=asked, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-2:] == [str(SIZE), "read"], done.stderr
        assert pagecache.resident(Path(f.name)) == SIZE


@pytest.mark.parametrize("change", ["shorter", "longer", "gone", "folder"])
def test_a_file_that_is_not_what_was_said_is_an_error(file: Path, keeper: Keeper, change: str) -> None:
    path = file.parent / "none" if change == "gone" else file.parent if change == "folder" else file
    if change == "shorter":
        os.truncate(file, SIZE - 5000)
    elif change == "longer":
        os.truncate(file, SIZE + 5000)
    with pytest.raises(RbeeError, match="could not be read") as caught:
        keeper.load([(str(path), SIZE)], lambda done: None)
    assert caught.value.code == "preload_failed"


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(file: Path) -> None:
    reader = pagecache.Reader([(str(file), SIZE)], lambda done: os.truncate(file, pagecache.CHUNK + 17))
    with pytest.raises(pagecache.Changed):
        reader.run()


def test_a_locked_file_that_is_cut_harms_nobody(file: Path, keeper: Keeper) -> None:
    keeper.load([(str(file), SIZE)], lambda done: None)
    locked = keeper.holds
    os.truncate(file, 5000)
    assert pagecache.resident(file) in (0, 4096, 5000)
    assert pagecache.share(file) is not None
    assert keeper.holds == locked


def test_an_ended_keeper_is_told_as_that(file: Path, keeper: Keeper) -> None:
    keeper.kill()
    with pytest.raises(RbeeError, match="its reader was ended"):
        keeper.load([(str(file), SIZE)], lambda done: None)
    other = Keeper("b-model")
    other.load([(str(file), SIZE)], lambda done: None)
    os.kill(other.pid, signal.SIGKILL)
    psutil.Process(other.pid).wait(10)
    assert not other.holds
    other.end()


def test_a_keeper_ends_with_its_maker(file: Path) -> None:
    code = (
        "import os, sys; from rbee.adapters.keeper import Keeper; k = Keeper('x');"
        "k.load([(sys.argv[1], int(sys.argv[2]))], lambda n: None); print(k.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file), str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(pagecache.__file__).parents[2],
    ) as maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        found = psutil.Process(pid) if psutil.pid_exists(pid) else None
        maker.kill()
    if found is not None:
        psutil.wait_procs([found], timeout=10)
        assert not found.is_running() or found.status() == psutil.STATUS_ZOMBIE


def test_a_keeper_is_the_first_to_go_when_memory_ends(file: Path, keeper: Keeper) -> None:
    keeper.load([(str(file), SIZE)], lambda done: None)
    if keeper.holds:
        assert Path(f"/proc/{keeper.pid}/oom_score_adj").read_text() == "1000\n"
