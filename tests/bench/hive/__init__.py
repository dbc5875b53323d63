# SPDX-License-Identifier: GPL-3.0-or-later
"""The limits a hive must hold: jobs at once, readers of one job, a reader that is stuck, and what it takes idle."""
