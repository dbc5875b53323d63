# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong between two programs, in words for a person instead of a library's."""

from __future__ import annotations

import asyncio
import os
import socket

import aiohttp


def words(error: BaseException) -> str:
    """An end for "X does not answer: ..." without a full stop: `connection refused`, `no answer in time`."""
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is refused ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _of_system(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    if isinstance(error, OSError):
        return _of_system(error)
    return str(error) or type(error).__name__


def _of_system(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    # By its number: asyncio writes "Connect call failed ('127.0.0.1', 9)" where the system has a word.
    text = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
