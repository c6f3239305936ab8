"""What `partyline doctor` finds about a log or a bus in PostgreSQL. Nothing is changed there, and nothing is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from partyline.adapters.examining import Examined, times
from partyline.adapters.postgres import connecting
from partyline.adapters.postgres.connecting import Address, Connection
from partyline.findings import Finding, ok, problem, warning

_SERVER: Final = """
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,
  current_database() AS database, current_user AS role, current_setting('server_encoding') AS encoding,
  has_database_privilege(current_database(), 'CREATE') AS creates,
  EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) AS schema,
  EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'store') AS made
"""
_WEAKENING: Final = {
    "fsync": "after a power cut the whole database may be damaged",
    "full_page_writes": "after a power cut the last seconds may be missing, or damaged",
}


async def examine(url: str, field: str) -> Examined:
    """Raises ConfigError for an invalid address, and StoreUnavailable if nobody answers."""
    address = Address(url, field)
    with address.told():
        connection = await address.connect()
        try:
            server = await connection.fetchrow(_SERVER, address.schema)
            findings = [*_server(field, server), *await _schema(field, address, connection, server)]

            async def clock() -> float:
                at: float = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
                return at

            findings += await times("PostgreSQL", clock)
            if field == "log":
                findings += await _settings(connection)
            return Examined(findings, await connecting.durability(connection))
        finally:
            await connection.close(timeout=1.0)


def _server(field: str, server: Any) -> Iterator[Finding]:
    version = server["version"]
    what = f"PostgreSQL {version // 10000}.{version % 10000}, database {server['database']!r}"
    oldest = connecting.OLDEST // 10000
    if version < connecting.OLDEST:
        yield problem(field, f"{what}: it is too old", f"use PostgreSQL {oldest} or later")
    elif server["standby"]:
        yield problem(field, f"{what}: it is a standby", "name the primary, or all hosts and target_session_attrs")
    elif server["encoding"] != "UTF8":
        yield problem(field, f"{what}: its encoding is {server['encoding']}", "name a database whose encoding is UTF8")
    else:
        yield ok(field, what)


async def _schema(field: str, address: Address, connection: Connection, server: Any) -> list[Finding]:
    name = address.schema
    if server["made"]:
        known, epoch, head = await connection.fetchrow(address.sql("SELECT version, epoch, head FROM partyline.store"))
        what = f"schema {name!r}, epoch {epoch}, last offset {head:,}"
        if known != connecting.VERSION:
            advice = f"upgrade the older of both: this one knows version {connecting.VERSION}"
            return [problem("schema", f"{what}: it has version {known}", advice)]
        return [ok("schema", what)]
    if server["schema"] or server["creates"]:
        return [ok("schema", f"{name!r} is not there yet: the first server makes it")]
    advice = f'as the owner of the database: CREATE SCHEMA "{name}" AUTHORIZATION "{server["role"]}"'
    return [problem("schema", f"{name!r} is not there, and the role {server['role']!r} may not make it", advice)]


async def _settings(connection: Connection) -> list[Finding]:
    settings = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)", list(_WEAKENING))
    return [
        warning("settings", f"PostgreSQL has {name} = {value}: {_WEAKENING[name]}", f"set {name} = on")
        for name, value in settings
        if value != "on"
    ]
