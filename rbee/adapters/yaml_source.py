# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML files of this machine for `rbee.fleet.load`: read, bounded, decoded, with the place of every value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rbee.adapters.secrets import MAKE_KEY, BadSecret, load_token
from rbee.adapters.store.choose import load_password
from rbee.adapters.yaml_nodes import parse
from rbee.core.document import Document
from rbee.core.problems import Problem, ProblemsError, Where

MAX_BYTES = 2**20
#: Characters that YAML does not take (its production c-printable).
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class YamlFiles:
    """Reads files of this machine; holds nothing."""

    def document(self, path: Path, environment: Mapping[str, str]) -> Document:
        """The document in a file. Raises ProblemsError with why it cannot be read."""
        return parse(_text(path), str(path), environment)

    def kind(self, path: Path) -> Literal["file", "directory", "missing"]:
        """What is at a path; what this user may not look at is missing."""
        try:
            return "directory" if path.is_dir() else "file" if path.is_file() else "missing"
        except OSError:
            return "missing"

    def listing(self, folder: Path) -> list[Path]:
        """The `*.yaml` and `*.yml` files of a folder, sorted; none when there is no such folder."""
        try:
            return sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
        except OSError:
            return []

    def secret(self, path: Path) -> tuple[str, str] | None:
        """What is wrong with a key file, and how to mend it; None: it is as a daemon wants it."""
        try:
            load_token(path, "key file", "key", MAKE_KEY)
        except BadSecret as e:
            return e.message, e.mend
        return None

    def password(self, path: Path) -> tuple[str, str] | None:
        """What is wrong with a password file, and how to mend it; None: it is as the queen wants it."""
        try:
            load_password(path)
        except BadSecret as e:
            return e.message, e.mend
        return None

    def lacks(self, module: str) -> bool:
        """Whether a module is not installed beside rbee."""
        try:
            return find_spec(module) is None
        except ModuleNotFoundError:
            return True


def _text(path: Path) -> str:
    data = _bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        column = e.start - (data.rfind(b"\n", 0, e.start) + 1) + 1
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise _problem(
            path,
            "The file is not UTF-8." if not utf16 else "The file is UTF-16.",
            f"Byte {e.start} is 0x{data[e.start]:02x}.",
            "Save it as UTF-8.",
            line,
            column,
        ) from None
    found = _UNPRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        what = f"A control character (U+{ord(found[0]):04X})."
        raise _problem(path, what, "YAML takes printable text only.", "Remove it.", line, column)
    return text


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except FileNotFoundError:
        mend = "Run `rbee init` to make one, or say which with -f FILE."
        raise _problem(path, "There is no such file.", "", mend) from None
    except IsADirectoryError:
        raise _problem(path, "This is a directory.", "", f"Say which file: -f {path / 'rbee.yaml'}") from None
    except OSError as e:
        raise _problem(path, "The file cannot be read.", f"{e.strerror}.", "") from None
    if len(data) > MAX_BYTES:
        raise _problem(path, f"The file is larger than {MAX_BYTES // 2**20} MiB.", "Is it the right file?", "")
    return data


def _problem(path: Path, summary: str, detail: str, mend: str, line: int = 0, column: int = 0) -> ProblemsError:
    place = Where(file=str(path), line=line, column=column)
    return ProblemsError([Problem(summary=summary, detail=detail, mend=mend, where=place)])
