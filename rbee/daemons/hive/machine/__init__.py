# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of a hive: devices, load, engines, and how the hive itself is."""
