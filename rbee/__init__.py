# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee: your own AI service from the machines you own."""

__version__ = "0.1.0"
