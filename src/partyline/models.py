"""The values that cross boundaries: frozen, with hardly any behaviour.

Those that are made for every message are msgspec's: making a frozen dataclass takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import msgspec

from partyline.errors import Conflict, InvalidValue

MAX_OFFSET = (1 << 53) - 1  # the largest integer that a JavaScript number holds exactly
_POSITION = re.compile(r"([0-9a-f]{16})-(0|[1-9][0-9]{0,15})\Z")


class Position(msgspec.Struct, frozen=True):
    """A place in the log of one store, written `<epoch>-<offset>`: 16 hex digits, a dash, a decimal number."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read a position back. Raises InvalidValue if `text` is not one."""
        match = _POSITION.match(text)
        if match is None or int(match[2]) > MAX_OFFSET:
            raise InvalidValue(
                f"{text[:60]!r} is not a position: 16 hex digits, a dash and a number, as in this server's answers",
                code="invalid_position",
            )
        return cls(match[1], int(match[2]))


class Policy(Enum):
    """What happens to a room's messages in the outbox of a consumer that does not keep up (guarantee 5)."""

    CLOSE = "close"
    DROP_OLDEST = "drop_oldest"
    CONFLATE = "conflate"


@dataclass(frozen=True, slots=True)
class Audience:
    """Who gets a message: the members of any of `rooms` (everybody if it is empty), except the members of `excluded`.

    Whatever their rooms: `only` is the id of the single member that gets it, `besides` of one that does not.
    """

    rooms: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    only: str = ""
    besides: str = ""

    def reaches(self, id: str, rooms: Collection[str]) -> bool:  # noqa: A002
        """Whether the member with this id, in these rooms, belongs to the audience."""
        if self.only or id == self.besides:
            return id == self.only
        return (not self.rooms or not self.rooms.isdisjoint(rooms)) and self.excluded.isdisjoint(rooms)


class Draft(msgspec.Struct, frozen=True):
    """What a publisher hands in.

    `data` is compact JSON as UTF-8 bytes; `user` narrows the audience to one user's connections; `id` names the
    message (a retry repeats it); `key` is what conflation goes by; `sender` is the authenticated user that publishes.
    `publisher` is that user or an API key: two publishers may use the same id. `chosen_id` False means that the id was
    drawn at random here, so no retry can repeat it. `ttl` is the message's life in seconds, None for ever; `durable`
    None leaves it to the room's rule.
    """

    room: str
    data: bytes
    id: str
    user: str | None = None
    key: str | None = None
    sender: str | None = None
    ttl: float | None = None
    durable: bool | None = None
    publisher: str = ""
    chosen_id: bool = True

    @property
    def identity(self) -> tuple[str, str, str]:
        """What identifies a message: (publisher, room, id)."""
        return self.publisher, self.room, self.id

    def conflict(self, earlier: Draft) -> Conflict | None:
        """Why it cannot have the same identity as `earlier`; None if it repeats that draft."""
        if (earlier.data, earlier.user, earlier.key) == (self.data, self.user, self.key):
            return None
        return Conflict(
            f"message id {self.id[:60]!r} was used for another message: a retry repeats the body, a new message needs "
            "a new id",
            code="id_conflict",
            field="id",
        )


class Message(msgspec.Struct, frozen=True):
    """What the hub publishes: a draft with its number and time.

    `offset` is None for an ephemeral message. `time` is seconds since 1970 by the wall clock, for people: nothing is
    ordered by it.
    """

    draft: Draft
    offset: int | None
    time: float

    @property
    def room(self) -> str:
        return self.draft.room

    def expired(self, now: float) -> bool:
        """Whether its life is over at the wall clock's `now`."""
        return self.draft.ttl is not None and now >= self.time + self.draft.ttl


class Movement(Message, frozen=True, kw_only=True):
    """A user's first connection has joined a room, or the last one has left it."""

    user: str
    joined: bool

    @property
    def kind(self) -> str:
        return "join" if self.joined else "leave"


class Receipt(msgspec.Struct, frozen=True):
    """The answer to an accepted publish. `position` is None for an ephemeral one."""

    room: str
    id: str
    position: Position | None
    duplicate: bool = False


class Page(msgspec.Struct, frozen=True):
    """A piece of the log, oldest first. `next` is the last offset scanned, `oldest` the lowest one still readable."""

    messages: tuple[Message, ...]
    next: int
    more: bool
    oldest: int


class Payload(msgspec.Struct):
    """A message encoded for one dialect, ready to write, with what an outbox must know about it."""

    data: bytes
    room: str = ""
    policy: Policy = Policy.CLOSE
    key: str | None = None
