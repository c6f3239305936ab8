"""Every plug on one screen, with what it promises. Methods are called on the loop's thread unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec

from partyline.errors import PartylineError
from partyline.models import Draft, Message, Page, Payload, Position
from partyline.topics import any_covers


class Dialect(Protocol):
    """One way to write a message. A process holds a handful; members with the same object share the bytes."""

    def encode(self, message: Message) -> bytes:
        """The bytes to write, framing included. Pure: the same message gives the same bytes."""
        ...


class Member(Protocol):
    """One live client, as rooms and the fan-out see it.

    `rooms` belongs to the hub, which sets it (empty at first): others only read. `offer` never blocks and never raises;
    what does not fit the outbox ends the client by its policy (guarantee 5). What is offered leaves in the order of the
    calls. After `close` it does nothing.
    """

    dialect: Dialect
    user: str | None
    rooms: tuple[str, ...] | set[str]

    def offer(self, payload: Payload) -> None:
        """A published message. It may be dropped or replaced while it waits, as its policy says."""
        ...

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close. Returns at once; calling it again does nothing."""
        ...


class Connection(Member, Protocol):
    """A client that may also be answered. Offered and sent data leave in the order of the calls."""

    def send(self, data: bytes) -> None:
        """An answer to this client, framing included. It is never dropped alone: what does not fit the outbox ends the
        connection."""
        ...

    def send_text(self, text: str) -> None:
        """An answer as a text message."""
        ...


class Session(Protocol):
    """What gives the messages of one connection a meaning. Called in order of arrival, one at a time.

    An exception costs the event, not the connection: it is logged and the next message goes on.
    """

    def opened(self, connection: Connection) -> None:
        """The handshake is answered; from now on the connection may be written to."""
        ...

    def text(self, text: str) -> None:
        """A whole text message."""
        ...

    def binary(self, data: bytes) -> None:
        """A whole binary message."""
        ...

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        """`message` was not handled, because of a limit: tell the client in its dialect."""
        ...

    def closed(self) -> None:
        """The connection is gone. Called exactly once if `opened` was."""
        ...


@runtime_checkable
class HearsPongs(Protocol):
    """A session that also wants the answers to pings of its own; heartbeats carry nothing, and are not among them."""

    def pong(self, payload: bytes) -> None:
        """The peer has read everything that was sent before a ping with this payload (RFC 6455 5.5.3)."""
        ...


@runtime_checkable
class HearsClose(Protocol):
    """A session that also wants to know what the peer said when it closed."""

    def peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame has come; `closed` follows. `code` is 1005 where it carried none."""
        ...


@runtime_checkable
class Finishes(Protocol):
    """A session that has something in hand when the server stops."""

    def finish(self, then: Callable[[], None]) -> None:
        """Answer what is in hand, do nothing further, and call `then`, now or later: the connection is closed then."""
        ...


class Stored(msgspec.Struct, frozen=True):
    """A draft that is in the log, as `message`; `duplicate` if an earlier publish with its id put it there."""

    draft: Draft
    message: Message
    duplicate: bool = False


class Refused(msgspec.Struct, frozen=True):
    """A draft that is not in the log and never will be."""

    draft: Draft
    error: PartylineError


class Found(Stored, frozen=True):
    """A message that is in the log although its publisher was told that it is not: nobody waits for it, all see it."""


Outcome = Stored | Refused
Committed = Callable[[Sequence[Outcome]], None]


@dataclass(frozen=True, slots=True)
class View:
    """What a subscriber sees of the log: exact rooms, rooms by pattern, and what is addressed to its user."""

    rooms: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    user: str | None = None

    def covers(self, room: str) -> bool:
        """Whether the messages of `room` belong to it."""
        return room in self.rooms or any_covers(self.patterns, room)

    def sees(self, draft: Draft) -> bool:
        """Whether this message does: of a covered room, and to everybody or to this user."""
        return (draft.user is None or draft.user == self.user) and self.covers(draft.room)


class Store(Protocol):
    """The durable log. One log numbers everything: offsets grow by commit order over all rooms (guarantee 2).

    Every appended draft comes back exactly once through `committed`, as Stored or Refused, in the order of `append`;
    what was refused and turns out to be in the log all the same comes as Found, once, before anything new. The offsets
    of one batch, and of batches in turn, strictly increase. Nothing is handed out before it would survive
    what the store promises to survive (memory: nothing; SQLite: a power cut).
    """

    epoch: str

    @property
    def head(self) -> int:
        """The highest offset ever given, 0 at first. Survives pruning."""
        ...

    @property
    def refusal(self) -> PartylineError | None:
        """Why nothing can be appended now, None while it can."""
        ...

    def start(self, committed: Committed) -> None:
        """Begin; `committed` is called on the loop, once per batch."""
        ...

    def append(self, *drafts: Draft) -> None:
        """Queue drafts; those of one call are stored together or refused together.

        Returns at once, does not raise: a refusal comes through `committed`.
        """
        ...

    async def read(self, view: View, after: int, limit: int) -> Page:
        """At most `limit` messages of a view with offsets above `after`, oldest first, without expired ones.

        `Page.next` is the last offset that was looked at, `Page.more` whether there are offsets of the log after it,
        `Page.oldest` the lowest offset from which on nothing of the view was pruned. Cancelling it loses nothing.
        """
        ...

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        """The newest `limit` messages of one room with offsets below `before`, oldest first, without expired ones.

        Fewer come where more would be too large. Cancelling it loses nothing.
        """
        ...

    async def close(self) -> None:
        """Commit what is queued, hand it out, and let go of the files. Afterwards appends are refused."""
        ...


class Adapter(Protocol):
    """Carries bytes between nodes (Socket.IO's word). What one node says reaches every other node at most once, in the
    order in which it was said; its own words may come back to it."""

    async def start(self, received: Callable[[bytes], None]) -> None:
        """Begin. `received` is called on the loop, never from within `publish`. Raises where the nodes cannot be
        reached."""
        ...

    def publish(self, data: bytes) -> None:
        """Say something to all nodes. Returns at once, does not raise; while nobody can be reached it may be lost."""
        ...

    async def close(self) -> None:
        """Send what was said, and let go. Afterwards nothing is received, and `publish` does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A Socket.IO session as it is kept. `pid_hash` is the SHA-256 of its private id, `start` a position up to which
    it has surely got everything."""

    pid_hash: bytes
    namespace: str
    sid: str
    rooms: tuple[str, ...]
    data: dict[str, Any]
    start: Position


class SessionTable(Protocol):
    """Where Socket.IO sessions outlive the process. Nothing here blocks; what is saved is written soon."""

    def load(self) -> Iterable[SessionRow]:
        """What an earlier process left. Raises ConfigError if it cannot be read."""
        ...

    def save(self, row: SessionRow) -> None:
        """Insert or replace."""
        ...

    def delete(self, pid_hash: bytes) -> None:
        """Remove, if it is there."""
        ...
