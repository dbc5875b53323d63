# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen of the queen from outside: numbers, traces, the access log."""
