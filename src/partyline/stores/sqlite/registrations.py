"""The registrations table, written behind: the loop changes memory and never waits for this."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import msgspec

from partyline.errors import InvalidValue
from partyline.models import Position
from partyline.stores.sqlite.behind import WriteBehind
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.opening import damaged

_Values = tuple[bytes, str, str, str, int, float, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One registration as it is stored. `id_hash` is the SHA-256 of the id; `created` is seconds since 1970.

    `confirmed` is the position that its client has surely got; None if it does not resume. `token` is the id of the
    token that made it and when that was issued; None where a key made it.
    """

    id_hash: bytes
    user: str
    topics: tuple[str, ...]
    grants: tuple[str, ...]
    used: bool
    created: float
    confirmed: Position | None = None
    token: tuple[str | None, float | None] | None = None


class RegistrationTable:
    """Keeps the newest state of each changed registration and writes it with the next commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: WriteBehind[Row] = WriteBehind(database, "registrations", "id_hash", 8, _values)

    def load(self) -> Iterator[Row]:
        """What an earlier process left. Raises ConfigError if the file is damaged."""
        query = "SELECT id_hash, user, topics, grants, used, created, confirmed, token FROM registrations"
        for row in self._database.rows(query):
            id_hash, user, topics, grants, used, created, confirmed, made_by = cast("_Values", row)
            try:
                names, patterns = (tuple(msgspec.json.decode(text, type=list[str])) for text in (topics, grants))
                position = None if confirmed is None else Position.parse(confirmed)
                token = None if made_by is None else msgspec.json.decode(made_by, type=tuple[str | None, float | None])
            except (msgspec.MsgspecError, InvalidValue) as error:
                raise damaged(self._database.path, f"a registration: {error}") from None
            yield Row(id_hash, user, names, patterns, bool(used), created, position, token)

    def save(self, row: Row) -> None:
        """Insert or replace."""
        self._rows.put(row.id_hash, row)

    def delete(self, id_hash: bytes) -> None:
        """Remove, if it is there."""
        self._rows.delete(id_hash)

    async def flush(self) -> None:
        """Return when everything so far is committed. Cancelling it loses nothing."""
        await self._rows.flush()


def _values(row: Row) -> _Values:
    topics, grants = (json.dumps(names, ensure_ascii=False) for names in (row.topics, row.grants))
    return (
        row.id_hash,
        row.user,
        topics,
        grants,
        int(row.used),
        row.created,
        None if row.confirmed is None else str(row.confirmed),
        None if row.token is None else json.dumps(row.token, ensure_ascii=False),
    )
