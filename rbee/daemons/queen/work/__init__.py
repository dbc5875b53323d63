# SPDX-License-Identifier: GPL-3.0-or-later
"""The queen's jobs: her own operations, and those that she forwards to hives."""
