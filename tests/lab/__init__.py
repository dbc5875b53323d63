# SPDX-License-Identifier: GPL-3.0-or-later
"""Real hosts on this machine, with their own network, processes, disks and sshd, for the tests and by hand.

`python -m tests.lab up 3` makes one to play with; tests use `Lab.up` or the fixtures of `tests.lab.fixtures`.
"""

from .hosts import Host, HostProcess
from .lab import Lab
from .shell import LabError, LabUnavailable

__all__ = ["Host", "HostProcess", "Lab", "LabError", "LabUnavailable"]
