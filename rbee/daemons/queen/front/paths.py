# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths that workers answer."""

from __future__ import annotations

from typing import Final

INFERENCE_PATHS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/rerank",
    "/v1/messages",
)
