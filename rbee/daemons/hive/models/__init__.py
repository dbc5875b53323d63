# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of a hive: found, fetched, checked, kept, preloaded."""
