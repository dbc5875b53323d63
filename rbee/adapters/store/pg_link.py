# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a PostgreSQL: connections, what counts as its being away, and its schema."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from rbee.adapters.store.migrations import POSTGRES, Step, newer
from rbee.core.errors import RbeeError, Unavailable

CONNECT_TIMEOUT = 5.0
#: A statement that takes longer is on a connection that leads nowhere.
STATEMENT_TIMEOUT = 15.0
#: For migrations: only one queen makes them.
_MIGRATING = 0x72626565

#: Errors after which the same may succeed on another connection, or a little later.
_AWAY: tuple[type[BaseException], ...] = (
    OSError,
    asyncio.TimeoutError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


def is_away(error: BaseException) -> bool:
    """Whether the database could not be asked, or could not answer now; else it is the question that is wrong."""
    return isinstance(error, _AWAY) and not isinstance(error, ValueError)


def gone(error: BaseException | str) -> Unavailable:
    """What is told to who asks meanwhile."""
    said = error if isinstance(error, str) else words(error)
    return Unavailable(f"The database is away: {said}.", code="store_away", retry_after=2.0)


def words(error: BaseException) -> str:
    return str(error).strip().rstrip(".").replace("\n", " ") or type(error).__name__


class Link:
    """Makes connections to one database. The password is nowhere but in here."""

    def __init__(self, url: str, password: str | None = None) -> None:
        """Raises RbeeError (`bad_config`) for a URL that is none, or that has a password in it."""
        self._url = url
        self._password = password
        try:
            parts = urlsplit(url)
            said = parts.password is not None or any(k == "password" for k, _ in parse_qsl(parts.query))
            host = parts.netloc.rpartition("@")[2]
        except ValueError as e:
            raise RbeeError(f"`store` is no URL of PostgreSQL: {e}.", code="bad_config") from None
        if said:
            raise RbeeError(
                "The URL of `store` has a password in it.", code="bad_config",
                mend="Put it into a file (mode 0600) and name that as store_password_file.",
            )  # fmt: skip
        #: For people: without the user and whatever else could stand in it.
        self.name = f"{parts.scheme}://{host}{parts.path}"

    async def connect(self) -> asyncpg.Connection[Any]:
        """Raises what `is_away` knows, and asyncpg.PostgresError for a user or database that is not there."""
        return await asyncpg.connect(**self._settings, timeout=CONNECT_TIMEOUT)

    async def pool(self, most: int) -> asyncpg.Pool[Any]:
        return await asyncpg.create_pool(**self._settings, timeout=CONNECT_TIMEOUT, min_size=0, max_size=most)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "dsn": self._url,
            "password": self._password,
            "command_timeout": STATEMENT_TIMEOUT,
            "server_settings": {"application_name": "rbee queen"},
        }

    async def prepare(self, steps: Sequence[Step] = POSTGRES) -> None:
        """Brings the schema up to date. Raises RbeeError `store_unusable`; then nothing has changed."""
        try:
            async with self._once() as db:
                await migrate(db, steps)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncio.TimeoutError, TimeoutError) as e:
            raise self.unusable(words(e)) from None

    def unusable(self, why: str) -> RbeeError:
        return RbeeError(f"The database {self.name} cannot be used: {why}.", code="store_unusable")

    @contextlib.asynccontextmanager
    async def _once(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        db = await self.connect()
        try:
            yield db
        finally:
            await close(db)


async def close(db: asyncpg.Connection[Any] | None) -> None:
    """Politely, for a moment; then at once."""
    if db is None:
        return
    try:
        await db.close(timeout=2.0)
    except (*_AWAY, asyncpg.PostgresError):
        db.terminate()


async def migrate(db: asyncpg.Connection[Any], steps: Sequence[Step] = POSTGRES) -> None:
    """Raises asyncpg.PostgresError; an error of ours for a schema that is newer: asyncpg.DataError."""
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING, timeout=60.0)
        if await db.fetchval("SELECT to_regnamespace('rbee') IS NULL"):  # else whoever may not make one needs not
            await db.execute("CREATE SCHEMA rbee")
        if await db.fetchval("SELECT to_regclass('rbee.schema_version') IS NULL"):
            await db.execute("CREATE TABLE rbee.schema_version (version integer NOT NULL)")
        found = await db.fetchval("SELECT max(version) FROM rbee.schema_version") or 0
        if why := newer(found, steps):
            raise asyncpg.DataError(why)
        for step in steps:
            if step.version > found:
                for statement in step.statements:
                    await db.execute(statement)
        if found != steps[-1].version:
            await db.execute("DELETE FROM rbee.schema_version")
            await db.execute("INSERT INTO rbee.schema_version VALUES ($1)", steps[-1].version)
