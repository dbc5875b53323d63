# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to download a file: resumed after any end, checked, by several connections where one is slow."""

from rbee.adapters.fetch.download import Fetched, fetch

__all__ = ["Fetched", "fetch"]
