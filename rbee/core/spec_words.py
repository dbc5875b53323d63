# SPDX-License-Identifier: GPL-3.0-or-later
"""What names, addresses and durations of rbee.yaml look like, and the forms in which some values may be written."""

from __future__ import annotations

from typing import Literal

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
#: What clients ask for; other servers' names, such as `meta-llama/Llama-3.2-1B` or `llama3.2:1b`, are fine.
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"
DEVICE = r"^(auto|cpu|(cuda|metal|rocm|vulkan):[0-9]+)$"
ADDRESS = r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"
#: One word, and nothing that a command could take for an option.
HOST = r"^[^\s@/-][^\s@/]*$"
LOGIN = r"^([^\s@/-][^\s@/]*@)?[^\s@/-][^\s@/]*$"
#: `batch` waits behind all that is interactive.
Priority = Literal["interactive", "batch"]
DURATION = r"^([0-9]+(\.[0-9]+)?)(s|m|h|d)$"

SSH_WRITTEN = {
    "oneOf": [
        {"type": "string", "pattern": LOGIN, "description": "A Host of ~/.ssh/config, or [user@]host[:port]."},
        {"$ref": "#/$defs/Ssh"},
    ]
}
DURATION_WRITTEN = {
    "oneOf": [{"type": "string", "pattern": DURATION}, {"type": "number", "minimum": 0}, {"type": "null"}],
    "description": "A duration such as 30s, 5m, 2h or 1d; a bare number is seconds.",
}
REPLICAS_WRITTEN = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": 1000},
        {"$ref": "#/$defs/Replicas"},
    ],
    "description": "A number, or {min, max}: then the queen starts and ends those beyond `min` by load.",
}
ALIAS_WRITTEN = {
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True},
    ]
}
