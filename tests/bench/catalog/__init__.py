# SPDX-License-Identifier: GPL-3.0-or-later
"""What a big catalog costs: reading it, listing it, and what a list holds in memory."""
