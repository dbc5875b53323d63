# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted of the queen: a part of `rbee.core.spec`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rbee.core.doc import Doc
from rbee.core.spec_words import ADDRESS, DURATION_WRITTEN, NAME, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """Someone who may ask for answers: his own key, his share, his limits. Keys open the inference paths only."""

    name: Annotated[str, Doc("The key's name in the file; logs and metrics show it, never the key.", written=False)] = (
        ""
    )
    key_file: Annotated[str, Doc("File (mode 0600) with the key, at least 16 characters.", min_length=1)]
    priority: Annotated[Priority, Doc("batch waits behind all that is interactive.")] = "interactive"
    weight: Annotated[int, Doc("Share of a busy model beside other keys.", minimum=1, maximum=100)] = 1
    requests_per_minute: Annotated[int | None, Doc("More are refused with 429.", minimum=1)] = None
    concurrent: Annotated[int | None, Doc("Requests at once; more are refused with 429.", minimum=1)] = None
    require: Annotated[
        dict[str, str], Doc("Labels that a hive must have to serve this key: where its data may go.")
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsSpec:
    """How much the queen takes on, for all together and for a client that has no key of its own."""

    queue: Annotated[int, Doc("Requests that may wait for one model.", minimum=0, maximum=100_000)] = 200
    queue_timeout: Annotated[
        float | None, Doc("Longest wait for a slot of a request without a deadline.", written_as=DURATION_WRITTEN)
    ] = 600.0
    cold_wait: Annotated[
        float | None,
        Doc(
            "How long a request without a deadline waits for a cold model; 0s: it is told 503 and when to come again.",
            written_as=DURATION_WRITTEN,
        ),
    ] = 0.0
    first_byte_timeout: Annotated[
        float | None,
        Doc(
            "A worker that accepts a stream and sends nothing for so long is taken for hung, and started again.",
            written_as=DURATION_WRITTEN,
        ),
    ] = 600.0
    requests_per_minute: Annotated[int | None, Doc("Of each client; more are refused with 429.", minimum=1)] = None
    concurrent: Annotated[int | None, Doc("Of each client at once; more are refused with 429.", minimum=1)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueenSpec:
    """The one address that every client talks to. The queen runs on the machine where you apply."""

    listen: Annotated[
        str, Doc("Address and port for clients. Anything but loopback asks for a token.", pattern=ADDRESS)
    ] = "127.0.0.1:7833"
    advertise: Annotated[
        str | None,
        Doc(
            "Address of this machine that hives on other machines use. Found out by itself from the SSH "
            "connection; needed only behind NAT or a jump host.",
            min_length=1,
            example="192.168.1.10",
        ),
    ] = None
    token_file: Annotated[
        str | None, Doc("File (mode 0600) with the fleet's token. Made by the first `rbee apply` when left out.")
    ] = None
    keys: Annotated[
        dict[str, KeySpec], Doc("Keys for clients, by name. The fleet's token opens everything.", key_pattern=NAME)
    ] = field(default_factory=dict)
    limits: Annotated[LimitsSpec, Doc("How much she takes on.")] = field(default_factory=LimitsSpec)
    store: Annotated[
        str | None,
        Doc(
            "PostgreSQL for jobs, leases and limits that several queens share. Default: a file on her machine.",
            pattern=r"^postgres(ql)?://",
            example="postgresql://rbee@db.home.arpa/rbee",
        ),
    ] = None
    store_password_file: Annotated[str | None, Doc("File (mode 0600) with the database's password.")] = None
    traces: Annotated[
        str | None,
        Doc(
            "OpenTelemetry collector (OTLP over HTTP) for traces of requests.",
            pattern=r"^https?://",
            example="http://127.0.0.1:4318",
        ),
    ] = None
    access_log: Annotated[bool, Doc("One JSON line for each request, in access.log of her state directory.")] = True
