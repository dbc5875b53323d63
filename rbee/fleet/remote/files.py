# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a few small files and remove paths, on a machine.

Parameters: `write` ([{path, text, mode}], each to a temporary name, then renamed), `remove` ([path]), `roots` (only
paths below one of these are ever removed) and `tidy` (directories removed when empty). Secrets come in here, on
standard input, and never in a command line. Prints `rbee: {"written": n, "removed": [...]}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as f:
            os.fchmod(f.fileno(), mode)
            f.write(text.encode())
            f.flush()
            os.fsync(f.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def remove(path: Path, roots: list[Path]) -> bool:
    real = path.parent.resolve() / path.name
    # A last part `..` is no name: what it leads to is not below what stands before it.
    if path.name == ".." or not any(root.resolve() in real.parents for root in roots):
        raise ValueError(f"{path} is outside rbee's directories")
    if real.is_symlink() or real.is_file():
        real.unlink()
    elif real.is_dir():
        shutil.rmtree(real)
    else:
        return False
    return True


def work(asked: dict[str, Any]) -> dict[str, Any]:
    roots = [Path(r) for r in asked.get("roots") or []]
    for file in asked.get("write") or []:
        write(Path(file["path"]), file["text"], file.get("mode", 0o600))
    removed = [p for p in asked.get("remove") or [] if remove(Path(p), roots)]
    for folder in asked.get("tidy") or []:
        try:
            Path(folder).rmdir()
        except OSError:
            continue
    return {"written": len(asked.get("write") or []), "removed": removed}


def main() -> None:
    asked = json.loads(sys.stdin.buffer.readline() or b"{}")
    try:
        answer = work(asked)
    except OSError as e:
        answer = {"error": f"{e.strerror}: {e.filename}", "errno": e.errno}
    except ValueError as e:
        answer = {"error": str(e)}
    sys.stdout.write("\nrbee: " + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
