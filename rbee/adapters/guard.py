# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command that must not outlive the process that asked for it: `python guard.py PARENT_PID -- argv...`.

Linux: the kernel is told to SIGKILL us when our parent dies (the setting survives exec), then we become the command.
Elsewhere, or with `--watch`: the command runs as our child, and we end it when our standard input closes, which
happens when the parent, who holds the other end, dies. Standard library only; run as a script.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> bool:
    """Asks the kernel for SIGKILL at the parent's death; False where it cannot. Exits if it is dead already."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if os.getppid() != parent:  # it died between the fork and the call above
        os._exit(1)
    return True


def watch(argv: list[str]) -> int:
    """Runs `argv` until it ends or our standard input does; then kills it. Blocks; returns its exit status."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as child:

        def wait_for_end_of_input() -> None:
            while sys.stdin.buffer.read(4096):
                pass
            child.kill()

        threading.Thread(target=wait_for_end_of_input, daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
    return 128 - status if status < 0 else status


def main(argv: list[str]) -> int:
    split = argv.index("--")
    parent, command = int(argv[0]), argv[split + 1 :]
    if "--watch" in argv[:split] or not die_with_parent(parent):
        status = watch(command)
        sys.stdout.flush()
        os._exit(status)  # the watching thread may still sit in read()
    os.execvp(command[0], command)  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
