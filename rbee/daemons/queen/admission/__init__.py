# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may ask now, who waits, and who is refused: keys, limits, queues."""
