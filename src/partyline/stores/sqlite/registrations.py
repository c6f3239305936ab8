"""The registrations table, written later: the loop changes memory and never waits for the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from partyline.models import Position
from partyline.stores.sqlite.behind import WriteBehind


@dataclass(frozen=True, slots=True)
class Row:
    """One registration as it is stored. `id_hash` is the SHA-256 of the id; `created` is seconds since 1970.

    `confirmed` is the position up to which its client has surely received messages; None if it does not resume. `token`
    is the id of the token that made it and when that was issued; None if a key made it.
    """

    id_hash: bytes
    user: str
    topics: tuple[str, ...]
    grants: tuple[str, ...]
    used: bool
    created: float
    confirmed: Position | None = None
    token: tuple[str | None, float | None] | None = None


class RegistrationTable(WriteBehind[Row]):
    """Keeps the newest state of each changed registration and writes it with the next commit."""

    table = "registrations"
    columns = ("id_hash", "user", "topics", "grants", "used", "created", "confirmed", "token")

    def read(
        self,
        id_hash: bytes,
        user: str,
        topics: str,
        grants: str,
        used: int,
        created: float,
        confirmed: str | None,
        token: str | None,
    ) -> Row:
        names, patterns = (tuple(msgspec.json.decode(text, type=list[str])) for text in (topics, grants))
        position = None if confirmed is None else Position.parse(confirmed)
        made_by = None if token is None else msgspec.json.decode(token, type=tuple[str | None, float | None])
        return Row(id_hash, user, names, patterns, bool(used), created, position, made_by)

    def values(self, row: Row) -> tuple[object, ...]:
        topics, grants = (json.dumps(names, ensure_ascii=False) for names in (row.topics, row.grants))
        confirmed = None if row.confirmed is None else str(row.confirmed)
        token = None if row.token is None else json.dumps(row.token, ensure_ascii=False)
        return row.id_hash, row.user, topics, grants, int(row.used), row.created, confirmed, token
