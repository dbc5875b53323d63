# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway costs: CPU seconds for requests and streamed chunks, and added time to the first token."""
