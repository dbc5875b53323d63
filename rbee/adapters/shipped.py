# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes with rbee as data: in an installed package under `rbee/_shipped`, in a checkout beside the package."""

from __future__ import annotations

from pathlib import Path

import rbee
from rbee.core.errors import NotFound
from rbee.core.problems import did_you_mean

_PACKAGE = Path(rbee.__file__).resolve().parent
_SHIPPED = _PACKAGE / "_shipped"
_CHECKOUT = _PACKAGE.parent

#: File of each builtin model, in the package and in a checkout.
_BUILTIN = {"bee-tiny": "bee-tiny-q8_0.gguf"}


def _either(shipped: str, checkout: str) -> Path:
    packed = _SHIPPED / shipped
    return packed if packed.exists() else _CHECKOUT / checkout


def providers_dir() -> Path:
    """Directory of the provider files."""
    return _either("providers", "providers")


def schemas_dir() -> Path:
    """Directory of the JSON Schemas."""
    return _either("schemas", "schemas")


def hive_lock() -> Path:
    """The hash-locked requirements of a hive."""
    return _either("hive.lock", "requirements/hive.lock")


def builtin_model(name: str) -> Path:
    """File of the model behind `builtin:NAME`. Raises NotFound when there is none or it was not shipped."""
    file = _BUILTIN.get(name)
    if file is None:
        raise NotFound(f"There is no builtin model {name!r}.", mend=did_you_mean(name, list(_BUILTIN)))
    found = _either(f"models/{file}", f"models/{name}/{file}")
    if not found.is_file():
        raise NotFound(
            f"The file of builtin model {name!r} is not in this installation: {found}.", mend="Install rbee again."
        )
    return found
