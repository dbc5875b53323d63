# SPDX-License-Identifier: GPL-3.0-or-later
"""Around every handler: the access rule before it, error bodies after it. No cost for a chunk of a stream.

aiohttp's own middlewares are not used: a handler is wrapped once, when its route is added.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from rbee.adapters.secrets import Token
from rbee.contracts import codec, openai
from rbee.core import errors
from rbee.daemons.access import Access, authorize

WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

_STATUS_OF_CODE = {
    "foreign_host": 403,
    "foreign_origin": 403,
    "policy_rejected": 403,
    "too_large": 413,
    "rate_limited": 429,
    "not_served": 501,
    "deadline_exceeded": 504,
}
_STATUS_OF_KIND: tuple[tuple[type[errors.RbeeError], int], ...] = (
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.InvalidRequest, 400),
    (errors.Unauthorized, 401),
    (errors.TooMany, 429),
    (errors.Unavailable, 503),
    (errors.Insufficient, 503),
    (errors.Unreachable, 502),
    (errors.Interrupted, 503),
)
_CODE_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 411: "length_required", 413: "too_large"}


def status_of(error: errors.RbeeError) -> int:
    """The HTTP status for an error: by its code where that says more, else by its class."""
    status = _STATUS_OF_CODE.get(error.code)
    if status is None:
        status = next((s for kind, s in _STATUS_OF_KIND if isinstance(error, kind)), 500)
    return status


def error_body(message: str, status: int, code: str, param: str | None = None) -> bytes:
    """OpenAI's error body with the `type` that goes with the status."""
    return openai.error_body(message, openai.error_type(status), code, param)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response whose body is the JSON of `value` (dataclasses too)."""
    return web.Response(body=codec.encode(value), status=status, content_type="application/json", headers=headers)


def error_answer(
    error: errors.RbeeError, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for an error: OpenAI's body, `Retry-After` on 429 and 503, `WWW-Authenticate` on 401."""
    status = status_of(error)
    own = dict(headers or {})
    if isinstance(error, errors.TooMany):
        own.update(error.headers)
    if status in (429, 503):
        own.setdefault("Retry-After", str(max(1, math.ceil(getattr(error, "retry_after", 1.0)))))
    elif status == 401:
        own["WWW-Authenticate"] = "Bearer"
    return status, own, error_body(str(error), status, error.code, error.param)


def error_response(error: errors.RbeeError, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer for an error, as `error_answer` has it."""
    status, own, body = error_answer(error, headers)
    return web.Response(body=body, status=status, content_type="application/json", headers=own)


def guard(handler: WebHandler, access: Access) -> WebHandler:
    """`handler` behind its access rule, its errors made into answers.

    The listener's token is found on the connection (`Server` puts it there), so that one table of routes serves
    several listeners.
    """

    async def guarded(request: web.Request) -> web.StreamResponse:
        connection: Any = request.protocol
        connection.busy = True
        try:
            if access == "token":
                authorize(request, listener_token(request))
            return await handler(request)
        except errors.RbeeError as error:
            return error_response(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            code = _CODE_OF_STATUS.get(error.status, "http_error")
            said = "The body is too large." if error.status == 413 else error.reason
            body = error_body(said, error.status, code)
            return web.Response(body=body, status=error.status, content_type="application/json")
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            if request.transport is not None and not request.transport.is_closing():
                raise
            return web.Response(status=499)  # to nobody: whoever leaves in the middle is no error of ours to log
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return web.Response(
                body=error_body("Something went wrong inside; the daemon's log has more.", 500, "internal"),
                status=500,
                content_type="application/json",
            )
        finally:
            connection.busy = False

    return guarded


def listener_token(request: web.Request) -> Token | None:
    """The token that the listener of this request wants; None on an open one."""
    connection: Any = request.protocol
    token: Token | None = connection.listener.token
    return token
