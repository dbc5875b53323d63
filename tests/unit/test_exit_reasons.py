# SPDX-License-Identifier: GPL-3.0-or-later
"""Exits in words, and the kernel's own kills told from others, on recorded files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rbee.adapters import exit_reasons
from rbee.adapters.exit_reasons import OomWitness

KMSG = """\
6,1233,5000000,-;python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
3,1234,5000123,-;Out of memory: Killed process 4321 (llama-server) total-vm:9123456kB, anon-rss:812345kB
 SUBSYSTEM=memory
3,1235,9000123,-;Memory cgroup out of memory: Killed process 77 (python) total-vm:1kB, anon-rss:2kB
6,1236,9000124,-;oom_reaper: reaped process 77 (python), now anon-rss:0kB
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "was killed by SIGKILL (by somebody, or by the kernel for lack of memory)"),
        (-signal.SIGILL, "was killed by SIGILL: the CPU lacks an instruction the engine needs"),
        (-signal.SIGTERM, "was ended by SIGTERM, which its hive did not send"),
        (-signal.SIGUSR1, "was killed by SIGUSR1"),
        (-99, "was killed by signal 99"),
        (None, "ended; its exit code is not known, because the hive was restarted while it ran"),
    ],
)
def test_an_exit_in_words(code: int | None, said: str) -> None:
    assert exit_reasons.in_words(code) == said


def test_only_a_kill_can_be_the_kernels_for_want_of_memory() -> None:
    assert exit_reasons.in_words(-9, out_of_memory=True) == "was killed by the kernel: out of memory"
    assert exit_reasons.in_words(None, out_of_memory=True) == "was killed by the kernel: out of memory"
    assert exit_reasons.in_words(1, out_of_memory=True) == "ended with exit code 1"


def test_last_words_are_told_where_they_are_the_reason() -> None:
    assert exit_reasons.sentence(1, "port in use") == "Its process ended with exit code 1: port in use"
    assert exit_reasons.sentence(1, "") == "Its process ended with exit code 1."
    assert exit_reasons.sentence(-6, "GGML_ASSERT(x)").endswith("it gave up by itself: GGML_ASSERT(x)")
    assert exit_reasons.sentence(-9, "served a request").endswith("lack of memory).")
    assert exit_reasons.sentence(0, "bye") == "Its process ended with exit code 0."
    assert exit_reasons.sentence(None, "x", out_of_memory=True).endswith("out of memory.")


def test_the_kernels_log_names_whom_it_killed_and_when() -> None:
    assert exit_reasons.killed_pids(KMSG.splitlines(), 0) == {4321, 77}
    assert exit_reasons.killed_pids(KMSG.splitlines(), 6.0) == {77}
    assert exit_reasons.killed_pids(["", ";", "nonsense"], 0) == set()


def test_counters_are_read_in_every_form() -> None:
    assert exit_reasons.counted("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n") == 2
    assert exit_reasons.counted("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n") == 5
    assert exit_reasons.counted("pgfault 12\n") is None


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "counter"),
    [
        ("0::/user.slice/rbee.service\n", "sys/fs/cgroup/user.slice/rbee.service/memory.events"),
        ("4:memory:/box\n1:cpu:/\n0::/\n", "sys/fs/cgroup/memory/box/memory.oom_control"),
        ("0::/\n", "sys/fs/cgroup/memory.events"),
        ("", "proc/vmstat"),
    ],
)
def test_a_witness_sees_the_counter_of_its_process_rise(tmp_path: Path, cgroup: str, counter: str) -> None:
    write(tmp_path / "proc/12/cgroup", cgroup)
    write(tmp_path / counter, "oom_kill 3\n")
    witness = OomWitness(12, tmp_path)
    assert not witness.saw()
    write(tmp_path / counter, "oom_kill 4\n")
    assert witness.saw()
    witness.refresh()
    assert not witness.saw()
    (tmp_path / counter).unlink()
    assert not witness.saw()


def test_a_witness_believes_the_kernels_log_about_its_pid(tmp_path: Path) -> None:
    late = KMSG.replace("9000123", "99999999999999")
    write(tmp_path / "dev/kmsg", late)
    assert OomWitness(77, tmp_path).saw()
    # Killed long before: a pid of the same number.
    assert not OomWitness(4321, tmp_path).saw()


def test_a_witness_where_nothing_can_be_read_knows_nothing(tmp_path: Path) -> None:
    assert not OomWitness(12, tmp_path).saw()


def test_a_witness_of_a_real_process_is_no_accuser() -> None:
    assert not OomWitness(os.getpid()).saw()
