"""Every interface in one file, with its promises. Methods are called on the loop's thread unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from partyline.errors import PartylineError
from partyline.models import Draft, Message, Page, Payload, Position
from partyline.topics import any_covers


class Dialect(Protocol):
    """One way to write a message. A process holds a handful; members with the same object share the bytes."""

    def encode(self, message: Message) -> bytes:
        """The bytes to write, framing included. Pure: the same message gives the same bytes."""


class Member(Protocol):
    """What rooms and the fan-out need of one live client.

    `rooms` belongs to the hub, which sets it (empty at first): others only read. `offer` never blocks and never raises;
    a message that does not fit the outbox is treated by its policy (guarantee 5). Messages leave in the order of the
    calls. After `close`, `offer` does nothing.
    """

    dialect: Dialect
    user: str | None
    rooms: tuple[str, ...] | set[str]

    def offer(self, payload: Payload) -> None:
        """Send a published message. It may be dropped or replaced while it waits, by its policy."""

    def close(self, code: int, reason: str = "") -> None:
        """Begin to close. Returns at once; calling it again does nothing."""


class Connection(Member, Protocol):
    """A client that may also be answered. Offered and sent data leave in the order of the calls."""

    def send(self, data: bytes) -> None:
        """Send an answer, framing included. It is never dropped alone: one that does not fit the outbox ends the
        connection."""

    def send_text(self, text: str) -> None:
        """Send an answer as a text message."""


class Session(Protocol):
    """Handles the messages of one connection. Called in order of arrival, one at a time.

    An exception costs the event, not the connection: it is logged and the next message goes on.
    """

    def opened(self, connection: Connection) -> None:
        """The handshake is answered; from now on the connection may be written to."""

    def text(self, text: str) -> None:
        """A whole text message."""

    def binary(self, data: bytes) -> None:
        """A whole binary message."""

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        """`message` was not handled, because of a limit: tell the client in its dialect."""

    def closed(self) -> None:
        """The connection is gone. Called exactly once if `opened` was."""


class HearsPongs(Protocol):
    """A session that also wants the answers to its own pings; those to heartbeats, which carry nothing, do not
    count."""

    def pong(self, payload: bytes) -> None:
        """The peer has read everything that was sent before a ping with this payload (RFC 6455 5.5.3)."""


class HearsClose(Protocol):
    """A session that also wants to know what the peer said when it closed."""

    def peer_closed(self, code: int, reason: str) -> None:
        """The peer's close frame has come; `closed` follows. `code` is 1005 where it carried none."""


@runtime_checkable
class Finishes(Protocol):
    """A session that may have work in hand when the server stops."""

    def finish(self, then: Callable[[], None]) -> None:
        """Answer the work in hand, begin nothing new, and call `then`, now or later, which closes the connection."""


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
    """A message in the log that nobody here waits for: another node's, or one whose publisher was told that it is not
    kept. It is delivered all the same."""


class Overrun(msgspec.Struct, frozen=True):
    """Retention was faster than this node: messages before `oldest` are gone, and it has not handed them out."""

    oldest: int


class Renewed(msgspec.Struct, frozen=True):
    """The log has lost its end, and has a new epoch: it goes on after `head`, and earlier positions are unknown.

    It is the first of its batch, and the store's `epoch` is the new one from this call on.
    """

    epoch: str
    head: int


Outcome = Stored | Refused
News = Found | Overrun | Renewed
"""Events of the log that are not an answer to anybody here."""
NEWS: Final = (Found, Overrun, Renewed)

Committed = Callable[[Sequence[Outcome | News]], None]


class Durability(IntEnum):
    """What an accepted message survives, weakest first."""

    NOTHING = 0  # it is gone with the process
    WINDOW = 1  # a crash loses the last second or two
    POWER_CUT = 2  # a power cut, but not the loss of the machine that has the log
    MACHINE = 3  # the loss of any one machine

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")

    @classmethod
    def named(cls, word: str) -> Durability:
        """The one that is written like this."""
        return cls[word.upper().replace("-", "_")]

    @property
    def survived(self) -> str:
        """The same for people."""
        return ("nothing: gone with this process", "all but its last seconds", "a power cut", "losing a machine")[self]


@dataclass(frozen=True, slots=True)
class View:
    """What a subscriber sees of the log: exact rooms, rooms by pattern, and messages addressed to its user."""

    rooms: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    user: str | None = None

    def covers(self, room: str) -> bool:
        """Whether the messages of `room` belong to it."""
        return room in self.rooms or any_covers(self.patterns, room)

    def sees(self, draft: Draft) -> bool:
        """Whether a message belongs to it: in a covered room, and for everybody or this user."""
        return (draft.user is None or draft.user == self.user) and self.covers(draft.room)


class Store(Protocol):
    """The durable log. One log numbers everything: offsets grow by commit order over all rooms (guarantee 2).

    Every appended draft comes back exactly once through `committed`, as Stored or Refused, in the order of `append`;
    a message of the log that is not an answer comes as Found, once. The offsets handed out strictly increase, within
    a batch and from batch to batch, for own and others' messages alike: a duplicate is answered when the message that
    it repeats has been handed out. Nothing is handed out before it survives what `durability` says.

    Where several nodes share the log (`Follows`), each is handed all messages of all nodes. An append whose outcome is
    unknown, because the connection to the log broke, is settled by its message ids before anything after it is
    answered, or is refused and comes as Found if it is there.
    """

    epoch: str
    durability: Durability

    @property
    def head(self) -> int:
        """The highest offset known to be given, 0 at first. Survives pruning."""

    @property
    def refusal(self) -> PartylineError | None:
        """Why nothing can be appended now, None while it can."""

    def start(self, committed: Committed) -> None:
        """Begin; `committed` is called on the loop, once per batch."""

    def append(self, *drafts: Draft) -> None:
        """Queue drafts; those of one call are stored together or refused together.

        Returns at once, does not raise: a refusal comes through `committed`.
        """

    async def read(self, view: View, after: int, limit: int) -> Page:
        """At most `limit` messages of a view with offsets above `after`, oldest first, without expired ones.

        `Page.next` is the last offset scanned, `Page.more` says whether the log goes on after it, and from
        `Page.oldest` on nothing of the view was pruned. Cancelling this loses nothing.
        """

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        """The newest `limit` messages of one room with offsets below `before`, oldest first, without expired ones.

        Fewer come if more would be too large. Cancelling this loses nothing.
        """

    async def close(self) -> None:
        """Commit what is queued, hand it out, and close the files. Afterwards appends are refused."""


@runtime_checkable
class Follows(Protocol):
    """A Store whose log other nodes write to, too: it may have messages that have not been handed out here."""

    async def reach(self, offset: int) -> bool:
        """Wait until everything up to `offset` has been handed out, 2 s at most. False if it has not, or if the log
        does not go that far."""


class Fenced(Exception):
    """The log has another epoch than the one that was named: nothing was appended or read."""


class Standing(msgspec.Struct, frozen=True):
    """The state of a shared log. `last` is the identity of the message at the offset that was asked for, None if there
    is none."""

    epoch: str
    head: int
    durability: Durability
    last: tuple[str, str, str] | None = None


class Stretch(msgspec.Struct, frozen=True):
    """A piece of a shared log, in order. From `oldest` on, nothing was lost to retention. `refusal` says why nothing
    can be appended at the moment, if the log knows."""

    messages: Sequence[Message]
    oldest: int
    refusal: str = ""


class SharedLog(Protocol):
    """One node's access to a log that several nodes share; `stores.shared.SharedStore` makes a Store of it.

    Everything raises StoreUnavailable if the log cannot be reached, and may be cancelled. After an `append` that ends
    in either way it is unknown whether the drafts are in the log, and they may still get there later.
    """

    async def connect(self, offset: int) -> Standing:
        """Connect or reconnect. `offset` says which message `Standing.last` is about.

        A log that can tell that it may have lost its end, as by the promotion of a replica, has a new epoch by then.
        """

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        """Number and keep each group whole or not at all, in this order; one outcome for each draft.

        Returns when they survive what `durability` says. A draft whose id is in the log is a duplicate, with the
        message that is there, whoever put it there. Raises Fenced.
        """

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        """At most `limit` messages after an offset, of all rooms and nodes, expired ones too.

        Where there are none it waits for some, `wait` seconds at most. It never gives a message while one with a lower
        offset may still come. Raises Fenced.
        """

    async def head(self) -> int:
        """The highest offset ever given."""

    async def renew(self, epoch: str) -> None:
        """Give the log a new epoch, unless it has another than `epoch` already: of several nodes one succeeds."""

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        """As `Store.read`. Raises Fenced."""

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        """As `Store.newest`. Raises Fenced."""

    async def close(self) -> None:
        """Let go of the connections."""


class Adapter(Protocol):
    """Carries bytes between nodes (Socket.IO's word). A node's messages reach every other node at most once, in order;
    they may also come back to the node."""

    async def start(self, received: Callable[[bytes], None]) -> None:
        """Begin. `received` is called on the loop, never from within `publish`. Raises where the nodes cannot be
        reached."""

    def publish(self, data: bytes) -> None:
        """Send to all nodes. Returns at once, does not raise; while nobody can be reached the data may be lost."""

    async def close(self) -> None:
        """Send everything published, and disconnect. Afterwards nothing is received, and `publish` does nothing."""


@runtime_checkable
class KnowsNodes(Protocol):
    """An Adapter that notices itself when a node is gone."""

    node: str  # the name of this one, which it has for the others, too
    lost: Callable[[str], None]  # set by whoever uses it: is told of a node that is gone


Heard = Callable[[str, bytes], None]
"""Called with the name of the sending node, and its data."""


@runtime_checkable
class Bus(Protocol):
    """Carries bytes between named nodes, at most once: anything that must not get lost goes through the log.

    A node's messages on one subject come in order, and do not come back to the node. Subjects are any text, without a
    meaning here. No callback is called from within a method of this class, and a listener's exception affects nobody
    else. `hub.envelopes` has the numbers by which a loss is noticed.
    """

    node: str

    @property
    def connected(self) -> bool:
        """Whether a message would go out now."""

    async def start(self, received: Heard) -> None:
        """Begin; `received` gets what is sent to this node alone. Where nobody can be reached it goes on trying."""

    def publish(self, subject: str, data: bytes) -> None:
        """Send to all nodes that listen. Returns at once, does not raise; a message that cannot go out is lost, and
        counted."""

    def send(self, node: str, data: bytes) -> None:
        """Send to one node, likewise."""

    def listen(self, subject: str, heard: Heard) -> None:
        """Listen on a subject, from soon on and across lost connections. One listener for each subject."""

    def unlisten(self, subject: str) -> None:
        """Stop listening, at once."""

    async def ready(self) -> None:
        """Return when every `listen` so far has taken effect."""

    def lost(self) -> int:
        """How many of the others' messages on these subjects are known to be lost."""

    async def close(self) -> None:
        """Send what was said, and let go. Afterwards nothing is heard, and nothing goes out. May be called again."""


Changed = Callable[[str, bytes | None], None]
"""Called with a key and its value, None if it was taken."""


class Table(Protocol):
    """Values that all nodes share, by key. Each method raises StoreUnavailable if they cannot be reached; after that,
    or a cancellation, it is unknown whether the call took effect."""

    async def get(self, key: str) -> bytes | None:
        """The value, None if there is none."""

    async def put(self, key: str, value: bytes, life: float) -> None:
        """Set it, for `life` seconds from now. Returns when every node gets it, and as durably as the log keeps."""

    async def take(self, key: str) -> bytes | None:
        """Remove it; if several take it at once, on any nodes, one gets the value."""

    async def watch(self, changed: Changed) -> None:
        """Call `changed` for every present value, and then for each change on any node, in order for each key. Returns
        after the present values. The end of a life is not reported."""


class Tables(Protocol):
    """The tables that nodes share besides the log."""

    registrations: Table
    sessions: Table
    revocations: Table

    async def close(self) -> None:
        """Let go; watchers are told nothing more."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A Socket.IO session as it is kept. `pid_hash` is the SHA-256 of its private id, `start` a position up to which
    its client certainly has everything."""

    pid_hash: bytes
    namespace: str
    sid: str
    rooms: tuple[str, ...]
    data: dict[str, Any]
    start: Position


class SessionTable(Protocol):
    """Keeps Socket.IO sessions beyond the process. Nothing here blocks; rows are written soon."""

    def load(self) -> Iterable[SessionRow]:
        """The sessions of an earlier process. Raises ConfigError if they cannot be read."""

    def save(self, row: SessionRow) -> None:
        """Insert or replace."""

    def delete(self, pid_hash: bytes) -> None:
        """Remove, if it is there."""
