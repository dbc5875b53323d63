# SPDX-License-Identifier: GPL-3.0-or-later
"""Which worker gets a request: policies, affinity, and why it was decided so."""
