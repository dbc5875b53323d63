# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply costs on real hosts, beside the least that SSH itself costs in the same run."""
