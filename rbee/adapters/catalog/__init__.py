# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs on disk: one generic one, models and worker binaries on it."""

from rbee.adapters.catalog.binaries import BinaryEntry, WorkerBinaryCatalog
from rbee.adapters.catalog.filesystem import FilesystemCatalog
from rbee.adapters.catalog.models import ModelCatalog, ModelEntry

__all__ = ["BinaryEntry", "FilesystemCatalog", "ModelCatalog", "ModelEntry", "WorkerBinaryCatalog"]
