# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines that do not work: `python bad_engine.py silent|dies PORT` never listens, or ends at once with a reason."""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":
    if sys.argv[1] == "dies":
        sys.stderr.write("0.00.001 E the accelerator is on fire\n")
        sys.exit(1)
    time.sleep(600)
