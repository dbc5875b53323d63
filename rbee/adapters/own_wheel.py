# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee itself as a wheel: the same bytes from a checkout and from an installed package. Its digest is the release."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import rbee
from rbee.adapters import shipped

#: The first moment that a zip can tell: no clock may change the digest.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_BUILTIN = "bee-tiny"


def contents() -> dict[str, Path]:
    """Every file of the wheel, by its name there; in order."""
    package = Path(rbee.__file__).resolve().parent
    found = {
        f"rbee/{path.relative_to(package).as_posix()}": path
        for path in package.rglob("*")
        if path.is_file() and not _left_out(path.relative_to(package))
    }
    for name, folder in (("providers", shipped.providers_dir()), ("schemas", shipped.schemas_dir())):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                found[f"rbee/_shipped/{name}/{path.relative_to(folder).as_posix()}"] = path
    found["rbee/_shipped/hive.lock"] = shipped.hive_lock()
    model = shipped.builtin_model(_BUILTIN)
    found[f"rbee/_shipped/models/{model.name}"] = model
    return dict(sorted(found.items()))


def _left_out(path: Path) -> bool:
    """What a run leaves behind, and `_shipped`, which is added from wherever it is."""
    return path.parts[0] == "_shipped" or path.suffix == ".pyc" or any(p.startswith((".", "__py")) for p in path.parts)


def release_id() -> str:
    """First 16 hex digits of the digest of all that a hive gets from us: our files and the lock of the others'."""
    made = hashlib.sha256()
    for name, path in contents().items():
        made.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return made.hexdigest()[:16]


def build(release: str) -> tuple[str, bytes]:
    """File name and bytes of the wheel. Its version carries the release, so that no two share a name."""
    version = f"{rbee.__version__}+{release}"
    info = f"rbee-{version}.dist-info"
    files = {name: path.read_bytes() for name, path in contents().items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: rbee\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: rbee\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [f"{name},sha256={_hash(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return f"rbee-{version}-py3-none-any.whl", out.getvalue()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
