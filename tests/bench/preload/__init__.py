# SPDX-License-Identifier: GPL-3.0-or-later
"""Worker starts with the model's file cold and preloaded."""
