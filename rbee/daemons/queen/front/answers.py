# SPDX-License-Identifier: GPL-3.0-or-later
"""What the queen answers herself: a refusal, ready for either front."""

from __future__ import annotations

import email.utils
from http import HTTPStatus
from typing import NamedTuple

from rbee.core.errors import RbeeError
from rbee.daemons.middleware import error_answer
from rbee.daemons.queen.front.bodies import BadRequest
from rbee.daemons.queen.front.errors import NoWorker


class Refusal(NamedTuple):
    """`closes`: the client's connection ends with it."""

    status: int
    headers: dict[str, str]
    body: bytes
    closes: bool = False
    #: Of the error, for those who look on.
    code: str = ""

    def raw(self, closing: bool) -> bytes:
        """The whole answer. `closing` tells the client that its connection ends here."""
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {reason}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(self.body)}", f"Date: {email.utils.formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if closing or self.closes:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body


def refusal_of(error: RbeeError, request_id: str) -> Refusal:
    """The answer to a request that is not served."""
    status, headers, body = error_answer(error, {"X-Request-Id": request_id})
    if isinstance(error, BadRequest):
        status = error.status
    elif isinstance(error, NoWorker):
        body = error.body()
    return Refusal(status, headers, body, isinstance(error, BadRequest) or error.code == "stopping", error.code)
