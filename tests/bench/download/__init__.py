# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a hive fetches a file, beside curl, from the same server of this machine."""
