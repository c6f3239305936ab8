"""The revocations table: few rows, each on the disk before it is confirmed."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Final, cast

from partyline.errors import StoreUnavailable
from partyline.stores.sqlite.database import Database

_PATIENCE: Final = 5.0  # seconds to wait for a commit


class RevocationTable:
    """Written by the database's single writer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> list[tuple[str, str, float]]:
        rows = self._database.rows("SELECT kind, name, at FROM revocations ORDER BY at")
        return cast("list[tuple[str, str, float]]", rows)

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        """Return when it is committed; rows from before `oldest` go with the same commit.

        Raises StoreUnavailable after five seconds; the row is still written as soon as the disk takes it. Cancelling
        this does not cancel the write.
        """

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM revocations WHERE at < ?", (oldest,))
            connection.execute("INSERT OR REPLACE INTO revocations VALUES (?, ?, ?)", (kind, name, at))

        try:
            async with asyncio.timeout(_PATIENCE):
                await self._database.commit(write)
        except TimeoutError:
            raise StoreUnavailable(
                "the revocation holds, but it is not on the disk yet, and a restart would forget it: send it again"
            ) from None
