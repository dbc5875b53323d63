# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine's own words say about why it ended, for a person. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

#: The line that tells most, first; group 1 is the reason. llama.cpp says the same thing at several depths.
_TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"error loading model: (?!llama_model_loader: failed to load model)(.+)",
        r"gguf_init_from_\w+: (.+)",
        r"(?:failed to allocate|unable to allocate|out of memory)(.*)",
        r"(couldn't bind .+)",
        r"GGML_ASSERT\((.+)",
        r"^\S*Error: (.+)",
    )
)
#: llama.cpp's prefix: a time, and the level.
_PREFIX = re.compile(r"^[\d.]+ [A-Z] (?:\w+ {2,})?")


def reason_in(lines: Sequence[str]) -> str:
    """The most telling of an engine's last lines, without its prefix; empty when there is none."""
    for pattern in _TELLING:
        for line in lines:
            if found := pattern.search(line):
                return (found.group(1) if found.group(1).strip() else found.group(0)).strip().rstrip(".")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return _PREFIX.sub("", last).strip().rstrip(".")


def mend_for(reason: str) -> str:
    """What a person can do about a reason; empty when nobody knows."""
    if re.search(r"file bounds|failed to read|magic characters|truncated|corrupt", reason):
        return "The file is cut short or hurt: delete it and download it again."
    if "failed to open" in reason:
        return "The file is gone, or this user may not read it."
    if "allocate" in reason or "out of memory" in reason:
        return "Give it a shorter context_length or fewer parallel requests, or place it on a machine with more memory."
    return ""


def how_it_ended(status: int, *, out_of_memory: bool = False) -> str:
    """An exit status as `subprocess` gives it, in words: negative for a signal. `out_of_memory`: the kernel was seen
    to kill for want of memory just then."""
    if out_of_memory and -status == signal.SIGKILL:
        return "killed by the kernel: out of memory"
    if status >= 0:
        return f"exit status {status}"
    if -status == signal.SIGILL:
        return "SIGILL: this CPU lacks an instruction that the engine was built for"
    if -status == signal.SIGKILL:
        return "SIGKILL: killed from outside, or by the kernel for want of memory"
    return signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
