# SPDX-License-Identifier: GPL-3.0-or-later
"""What a large fleet costs its queen."""
