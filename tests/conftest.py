# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Whoever runs the tests in the background has SIGINT ignored, and every program that they start would inherit
    that, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
