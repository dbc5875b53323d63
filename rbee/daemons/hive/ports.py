# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports and addresses of workers: a port is free when it can be bound, not when nobody remembers taking it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection

from rbee.core.errors import Conflict, Insufficient


def is_free(host: str, port: int) -> bool:
    """Whether a listener could be bound there now."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port that only waits for late packets of old connections is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


def pick(host: str, ports: tuple[int, int], taken: Collection[int], wanted: int | None = None) -> int:
    """`wanted` if it is free, else the first free port from `ports[0]` to `ports[1]`; `taken` ones are skipped.

    Another program may bind it before the worker does: whoever starts the worker tries again then. Raises Conflict
    (`port_taken`) for a wanted one, Insufficient (`no_free_port`) when the range is used up.
    """
    if wanted is not None:
        if wanted in taken or not is_free(host, wanted):
            raise Conflict(f"Port {wanted} is taken.", code="port_taken", mend="Leave it out, or give another.")
        return wanted
    first, last = ports
    for port in range(first, last + 1):
        if port not in taken and is_free(host, port):
            return port
    raise Insufficient(
        f"All worker ports from {first} to {last} are taken.",
        code="no_free_port",
        mend="Stop a worker, or widen `worker_ports` of this hive in rbee.yaml.",
    )


def reachable_host(host: str) -> str:
    """`host` as others should be told it: a wildcard becomes the address that this machine goes out with."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            return _outward(address.version)
    return host


def _outward(version: int) -> str:
    family, far = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    try:
        # Connecting a datagram socket sends nothing; it only asks the routing table.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1" if version == 4 else "::1"


def join(host: str, port: int) -> str:
    """`host:port`, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
