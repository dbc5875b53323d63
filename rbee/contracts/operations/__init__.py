# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation, declared once: request, response, family, and who serves it.

Routes, schemas, CLI commands and docs derive from `OPERATIONS`. One module a family.
"""

from rbee.contracts.operations import (
    binaries,
    devices,
    downloads,
    fleet,
    hives,
    inference,
    models,
    preload,
    system,
    workers,
)
from rbee.contracts.operations.base import (
    OPERATIONS,
    Daemon,
    OperationType,
    operation,
    parse_operation,
    request_of,
    wire,
)

__all__ = [
    "OPERATIONS",
    "Daemon",
    "OperationType",
    "binaries",
    "devices",
    "downloads",
    "fleet",
    "hives",
    "inference",
    "models",
    "operation",
    "parse_operation",
    "preload",
    "request_of",
    "system",
    "wire",
    "workers",
]
