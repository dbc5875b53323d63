# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that meet a wire type for the first time at once, as in an apply to many hives."""

from __future__ import annotations

import subprocess
import sys

FIRST_MEETINGS = """
import sys, threading
from rbee.contracts import codec
from rbee.contracts.operations import OPERATIONS

sys.setswitchinterval(1e-6)
kinds = [kind for found in OPERATIONS.values() for kind in (found.response, found.request)]
together = threading.Barrier(4)

def meet():
    for kind in kinds:
        together.wait()
        try:
            codec.decode(kind, b"{}")
            codec.convert(kind, {})
        except codec.CodecError:
            pass  # a field that must be there

threads = [threading.Thread(target=meet) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("all well")
"""


def test_first_meetings_at_once() -> None:
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", FIRST_MEETINGS], capture_output=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout) == (0, b"all well\n"), ran.stderr.decode()
