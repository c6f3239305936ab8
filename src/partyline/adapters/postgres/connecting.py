"""Connections to PostgreSQL, made when they are needed, and the schema that is made at the first of them.

Whatever goes wrong on a connection ends it: nobody has to know what state it is in, and the next use makes a new one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
from asyncpg import exceptions as errors

from partyline import log
from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Durability

Connection = Any
"""asyncpg's connection; asyncpg has no type hints."""

VERSION: Final = 1  # of the schema
OLDEST: Final = 120000  # PostgreSQL's number of the oldest version that this is written for
_PATIENCE: Final = 5.0  # seconds for a connection to be made
_LOOK: Final = 1.0  # seconds until it is looked whether there is something new, though nobody has rung
_DEAF: Final = 0.02  # the same where ringing is not heard
_SURE: Final = 3  # times that nobody has rung until it is taken so; one ring may just come late
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")

_log = log.get("store")


class Address:
    """Where a log or a bus is: a URL of PostgreSQL, with `schema=` for the schema that has it; `field` is the setting
    that names it. Raises ConfigError."""

    def __init__(self, url: str, field: str = "log") -> None:
        self._field = field
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.schema = options.pop("schema", "partyline")
        if not _SCHEMA.fullmatch(self.schema):
            raise ConfigError(
                f"{field}: {self.schema[:60]!r} is not a name for a schema: lower-case letters, digits and _, "
                "40 at most",
                field=field,
            )
        self.channel = f'"{self.schema}".'
        self._url = urlunsplit(parts._replace(query=urlencode(options)))
        self._shown = url.partition("://")[2].rpartition("@")[2].partition("?")[0]  # a password may have a / in it

    def sql(self, text: str) -> str:
        """A statement for this schema; it is written for one that is called partyline."""
        return text.replace("partyline.", self.channel)

    async def connect(self) -> Connection:
        """A new connection. Raises what asyncpg raises, and ConfigError for an invalid address."""
        try:
            connection: Connection = await asyncpg.connect(
                self._url, timeout=_PATIENCE, server_settings={"application_name": "partyline"}
            )
        except ValueError:  # its text may have the password in it
            raise ConfigError(
                f"{self._field}: {self._shown!r} is not an address of PostgreSQL: "
                "postgres://user:password@host:5432/database, with special characters as %xx",
                field=self._field,
            ) from None
        return connection

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever goes wrong within is raised as StoreUnavailable, and says what can be done about it."""
        try:
            yield
        except (errors.DuplicatePreparedStatementError, errors.InvalidSQLStatementNameError):
            raise StoreUnavailable(
                f"{self._shown} is a pooler that loses prepared statements: use PgBouncer 1.21 or later with "
                "max_prepared_statements, or pool_mode = session, or go past it"
            ) from None
        except errors.ReadOnlySQLTransactionError:
            raise StoreUnavailable(f"{self._shown} is a standby: name the primary in the address of the log") from None
        except (
            errors.PostgresError,
            errors.InterfaceError,
            errors.InternalClientError,
            OSError,
            TimeoutError,
        ) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise StoreUnavailable(f"PostgreSQL at {self._shown}: {said[:300]}") from None


class Bell:
    """A NOTIFY that may not arrive: if it does not, its user looks for news more often."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._patience = _DEAF  # until it has rung
        self._unheard = 0  # times that there was something new in a row, and nobody had rung

    def ring(self) -> None:
        """There may be something new."""
        self._patience, self._unheard = _LOOK, 0
        self._rung.set()

    async def rings(self, most: float = _LOOK) -> bool:
        """Return when it rings, or when it is time to look, after `most` seconds at the latest. Whether it has rung."""
        try:
            async with asyncio.timeout(min(self._patience, most)):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def answered(self) -> None:
        """Its user looks for news now: earlier rings count as answered."""
        self._rung.clear()

    def not_heard(self) -> None:
        """There was something new, though it has not rung."""
        self._unheard += 1
        if self._unheard == _SURE:
            self._patience = _DEAF
            _log.warning("NOTIFY is not heard, as through a pooler: PostgreSQL is asked for news 50 times a second")


class Line:
    """One connection, as long as nothing goes wrong on it; used by one at a time. Raises StoreUnavailable."""

    def __init__(self, address: Address, rung: Callable[[], None] | None = None, bell: str = "") -> None:
        """`rung` is called whenever some node has appended something, or has rung another `bell`."""
        self._address = address
        self._rung = rung
        self._bell = bell
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether it is in use."""
        return self._turn.locked()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """The connection. It is given up if anything is raised meanwhile, such as a cancellation."""
        async with self._turn:
            with self._address.told():
                try:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await self._address.connect()
                        if self._rung is not None:
                            await self._connection.add_listener(self._address.channel + self._bell, self._heard)
                    yield self._connection
                except BaseException:
                    self.drop()
                    raise

    def drop(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """End it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._address.told():
                await connection.close(timeout=1.0)

    def _heard(self, *_: object) -> None:
        if self._rung is not None:
            self._rung()


_SERVER: Final = """
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
  current_database(), current_user, current_setting('server_encoding')
"""
_THERE: Final = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'store')"
_SCHEMA_THERE: Final = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"


async def prepare(address: Address, connection: Connection) -> None:
    """Make the schema, if there is none, and see whether it is one that this version knows. Raises StoreUnavailable,
    as what is wrong can be mended while the server waits."""
    version, standby, database, role, encoding = await connection.fetchrow(_SERVER)
    if version < OLDEST:
        raise StoreUnavailable(f"PostgreSQL {version // 10000} is too old for the log: it needs {OLDEST // 10000}")
    if encoding != "UTF8":
        raise StoreUnavailable(f"database {database!r} has the encoding {encoding}, and the log needs UTF8")
    if standby:
        raise StoreUnavailable("the server of the log is a standby: name the primary, or promote it")
    if not await connection.fetchval(_THERE, address.schema):
        await _create(address, connection, database, role)
    known = await connection.fetchval(address.sql("SELECT version FROM partyline.store"))
    if known != VERSION:
        raise StoreUnavailable(
            f"the log's schema {address.schema!r} has version {known}, and this server knows version {VERSION}: "
            "upgrade the older of both"
        )


async def _create(address: Address, connection: Connection, database: str, role: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('partyline', 0))")
            if await connection.fetchval(_THERE, address.schema):
                return  # another node was faster
            if not await connection.fetchval(_SCHEMA_THERE, address.schema):
                await connection.execute(f'CREATE SCHEMA "{address.schema}"')
            text = resources.files("partyline.adapters.postgres").joinpath("schema.sql").read_text("utf-8")
            await connection.execute(address.sql(text))
            insert = "INSERT INTO partyline.store VALUES (1, $1, $2, partyline.origin(), 0, 0)"
            await connection.execute(address.sql(insert), VERSION, new_epoch())
            await connection.execute(address.sql("INSERT INTO partyline.pruning VALUES (1, 0, 0, '')"))
    except errors.InsufficientPrivilegeError as error:
        raise StoreUnavailable(
            f"the role {role!r} may not make the log's schema {address.schema!r} in database {database!r} ({error}): "
            f'as its owner, run CREATE SCHEMA "{address.schema}" AUTHORIZATION "{role}"'
        ) from None


def new_epoch() -> str:
    """An epoch that no position has had yet."""
    return secrets.token_hex(8)


_SETTINGS: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1)"
_READ: Final = ["fsync", "full_page_writes", "synchronous_standby_names"]


async def durability(connection: Connection) -> Durability:
    """What PostgreSQL's settings promise for a commit that is waited for, as the log's are."""
    settings = dict(await connection.fetch(_SETTINGS, _READ))
    if settings.get("fsync") != "on":
        return Durability.NOTHING
    if settings.get("full_page_writes") != "on":
        return Durability.WINDOW
    return Durability.MACHINE if settings.get("synchronous_standby_names") else Durability.POWER_CUT
