# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers of a hive: admitted, started, watched, restarted, told of."""
