# SPDX-License-Identifier: GPL-3.0-or-later
"""A request's way through the queen: from the socket to a worker and back."""
