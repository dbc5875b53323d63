# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers there are: cold starts, room for them, replicas by load."""
