# SPDX-License-Identifier: GPL-3.0-or-later
"""What the queen knows: hives, workers, models, and who is in doubt."""
