# SPDX-License-Identifier: GPL-3.0-or-later
"""What is particular to one engine: its launcher script and the words of its errors."""
