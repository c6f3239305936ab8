"""What a namespace sends, as parcels of hub/delivery.py, and the durable log beneath it.

Parcels are events for many, packets for one, and actions that follow these. A namespace is one lane: if a parcel waits
for the log or for a large audience, everything after it waits, too. Volatile events are in no lane.

The log keeps what is published to its rooms and, with recovery, everything that is emitted.
With recovery an event leaves when the log keeps it, and everything that the namespace says after it waits until then
(hub/delivery.py), so that nothing a client has seen is uncommitted, and `emit` never waits (guarantees, Mechanism).
The audience of an event is chosen when it is emitted, as if there were no log. It is encoded then, and these bytes are
both kept and sent. Where other nodes share the log, each of them chooses its part of the audience when the event comes
there.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec

from partyline import log
from partyline.errors import InvalidPacket, Overloaded, PartylineError
from partyline.hub.delivery import Lane, Parcel, message_id
from partyline.hub.hub import Hub
from partyline.interfaces import Member as AnyMember
from partyline.interfaces import Outcome, Refused, Store
from partyline.models import Audience, Draft, Message, Policy, Position, Receipt
from partyline.socketio.seams import Member, Space
from partyline.topics import PRIVATE
from partyline.wire.engineio.packets import BINARY_HEADS, MESSAGE
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Messages, Parser
from partyline.wire.websocket.frames import Frames

_log = log.get("socketio")

_MOST_READ: Final = 1_000  # entries of one page of history

Told = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A published event as it is kept. `time` is seconds since 1970, for people."""

    position: Position
    event: str
    arguments: tuple[Any, ...]
    time: float


class Record(msgspec.Struct, frozen=True, array_like=True):
    """An event in the log, in MessagePack: binary values stand unencoded beside its JSON. `only` is the one socket that
    it is for, `besides` one that it is not for; both may be empty. It was emitted on the node `origin`; if it is
    `local`, it is for sockets there."""

    rooms: list[str]
    excluded: list[str]
    only: str
    text: bool  # whether `data` is JSON
    data: bytes
    attachments: tuple[bytes, ...] = ()
    besides: str = ""
    origin: str = ""
    local: bool = False

    @classmethod
    def of(cls, body: Body, audience: Audience, origin: str = "", *, local: bool = False) -> Record:
        """An event for an audience."""
        text, data = True, body.data
        if isinstance(data, bytes):
            text = False
        else:
            data = data.encode()
        rooms, excluded = list(audience.rooms), list(audience.excluded)
        return cls(rooms, excluded, audience.only, text, data, body.attachments, audience.besides, origin, local)

    @property
    def body(self) -> Body:
        return Body(self.data.decode() if self.text else self.data, self.attachments)

    @property
    def audience(self) -> Audience:
        return Audience(frozenset(self.rooms), frozenset(self.excluded), self.only, self.besides)


class _OldRecord(msgspec.Struct):
    """A record as older versions wrote it: JSON."""

    values: msgspec.Raw
    rooms: list[str] = []
    excluded: list[str] = []
    attachments: list[str] = []  # base64


_read = msgspec.msgpack.Decoder(Record).decode
_write = msgspec.msgpack.Encoder().encode
_read_old = msgspec.json.Decoder(_OldRecord).decode


def read_record(message: Message) -> Record:
    """The record in a message of the log."""
    data = message.draft.data
    if data[:1] != b"{":
        return _read(data)
    old = _read_old(data)
    body = Body(bytes(old.values).decode(), tuple(base64.b64decode(text) for text in old.attachments))
    try:
        JSON.values(body)
    except InvalidPacket:  # a value only looked like a placeholder: it is sent as it is
        body = Body(body.data)
    return Record.of(body, Audience(frozenset(old.rooms), frozenset(old.excluded)))


class Emission(Message, frozen=True, kw_only=True):
    """An event on its way to many. `ack` is the id of the acknowledgement that each is asked for."""

    namespace: str
    body: Body
    ack: int | None = None


class EventDialect:
    """Events for clients with one parser and one version of Engine.IO; `place` writes the offsets that they carry."""

    __slots__ = ("_parser", "_place", "_protocol")

    def __init__(self, parser: Parser, protocol: int, place: Callable[[int], str] | None = None) -> None:
        self._parser = parser
        self._protocol = protocol
        self._place = place

    def encode(self, message: Message) -> Frames:
        assert isinstance(message, Emission)
        offset = None if message.offset is None or self._place is None else self._place(message.offset)
        return self._frames(self._parser.packet(message.namespace, message.body, message.ack, offset))

    def _frames(self, messages: Messages) -> Frames:
        """The Engine.IO packets of these messages, for any transport."""
        packets = [MESSAGE + one if isinstance(one, str) else one for one in messages]
        return Frames.of(packets, BINARY_HEADS[self._protocol])


class EventParcel(Parcel):
    """An event for sockets of a namespace, chosen when it was emitted."""

    __slots__ = ("namespace", "sockets")

    def __init__(
        self, namespace: Space, lane: Lane | None, sockets: Collection[Member], message: Emission | None, size: int
    ) -> None:
        self.lane, self.message, self.size = lane, message, size
        self.policy, self.waited, self.then = Policy.CLOSE, False, None
        self.namespace = namespace
        self.sockets = sockets

    def waits(self) -> None:
        if not self.waited:
            self.waited = True
            self.sockets = list(self.sockets)

    def members(self) -> Collection[AnyMember]:
        return self.still(self.sockets) if self.waited else self.sockets

    def still(self, members: Collection[AnyMember]) -> Collection[AnyMember]:
        sockets = cast("Collection[Member]", members)
        if self.lane is None:  # volatile
            return [socket for socket in sockets if socket._reachable and socket.writable]
        return [socket for socket in sockets if socket._reachable]

    def served(self) -> None:
        if self.namespace._watched:
            assert isinstance(self.message, Emission)
            self.namespace._tell_outgoing(self.message.body, self.sockets)
        if self.namespace._is_dynamic:
            self.namespace._vanish()

    def joined(self, socket: Member) -> None:
        """A session goes on: this is for it, too, if it would be among what it missed."""


class PacketParcel(Parcel):
    """A packet for one socket that keeps its place among the events. While it waits it counts as a waiting event:
    nothing more is read from a client whose answers do not leave."""

    __slots__ = ("_messages", "_namespace", "_socket")

    def __init__(self, namespace: Space, socket: Member, messages: Messages) -> None:
        super().__init__(namespace._lane, None, sum(map(len, messages)))
        self._namespace = namespace
        self._socket = socket
        self._messages = messages

    def waits(self) -> None:
        if not self.waited:
            self.waited = True
            self._socket._waits(self.size)

    def served(self) -> None:
        socket = self._socket
        if socket._reachable:
            socket._write(self._messages)
        if self.waited:
            socket._waited(self.size)
        if self._namespace._is_dynamic:
            self._namespace._vanish()


class ActionParcel(Parcel):
    """Something that is done once everything before it in a namespace has been served."""

    __slots__ = ("_action", "_namespace")

    def __init__(self, namespace: Space, action: Callable[[], object]) -> None:
        super().__init__(namespace._lane)
        self._namespace = namespace
        self._action = action

    def served(self) -> None:
        try:
            self._action()
        finally:
            self._namespace._vanish()


class Keeping(Protocol):
    """The log of one namespace, for an event that it is asked to keep."""

    namespace: Space
    recovery: bool

    def beside(self) -> None:
        """An event goes out without a place in the log: sessions cannot go on over it."""
        ...


class KeptEvent(EventParcel):
    """An event that the log is asked to keep."""

    __slots__ = ("_audience", "_body", "_journal", "_told")

    def __init__(
        self,
        journal: Keeping,
        body: Body,
        audience: Audience,
        sockets: Collection[Member],
        *,
        size: int = 0,
        told: Told | None = None,
    ) -> None:
        space = journal.namespace
        super().__init__(space, space._lane if journal.recovery else None, sockets, None, size)
        self._journal = journal
        self._audience = audience
        self._body = body
        self._told = told

    def answered(self, outcome: Outcome) -> bool:
        if not isinstance(outcome, Refused):
            self.message = self._emission(outcome.message)
        elif self._told is not None:
            self.sockets = ()  # only its publisher hears of it
        else:  # an emitted event goes out all the same
            self.message = self._emission(Message(outcome.draft, None, 0.0))
            self._journal.beside()
        return True

    def _emission(self, message: Message) -> Emission:
        name = self.namespace.name
        return Emission(message.draft, message.offset, message.time, namespace=name, body=self._body)

    def found(self, message: Message) -> KeptEvent:
        """It is in the log, though nobody here waits for it: it is for whoever is there when its turn comes."""
        self.lane = None
        self.message = self._emission(message)
        return self

    def members(self) -> Collection[AnyMember]:
        if self.lane is None:
            self.sockets = () if self.message is None else self.namespace._select(self._audience)
            return self.sockets
        if self.message is not None and self.message.offset is None and self.sockets:
            self.namespace._broken()  # again: parcels before it have got their places meanwhile
        return self.still(self.sockets)

    def still(self, members: Collection[AnyMember]) -> Collection[AnyMember]:
        return [socket for socket in cast("Collection[Member]", members) if socket._reachable]

    def tell(self, outcome: Outcome) -> None:
        if self._told is not None:
            self._told(outcome)

    def joined(self, socket: Member) -> None:
        if self._audience.reaches(socket.id, socket.rooms):
            self.sockets = [*self.sockets, socket]
            crowd = self.namespace.io._delivery.crowd
            if crowd is not None and crowd.message is self.message:
                crowd.joined(socket)


class Journal:
    """The log of one namespace (`seams.EventLog`). `recovery`: everything emitted is kept, and delivered in order."""

    def __init__(self, namespace: Space, hub: Hub, store: Store, *, recovery: bool, node: str = "") -> None:
        """`node` is the name of this node, where others share the log."""
        self.namespace = namespace
        self.node = node
        self.recovery = recovery
        self.shared = False
        self._hub = hub
        self._store = store
        self._key = namespace._key
        self._room = PRIVATE + self._key
        hub.own(self._key, self._found)

    def close(self) -> None:
        """The namespace is gone."""
        self._hub.own(self._key, None)

    def room(self, name: str) -> str:
        """The log's room for what is published to a room of the namespace."""
        return self._room + PRIVATE + name

    def rooms(self, names: Sequence[str]) -> frozenset[str]:
        """The log's rooms for everything that may concern a member of these rooms."""
        return frozenset((self._room, *(self.room(name) for name in names)))

    # Out

    def emit(
        self,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        socket: Member | None = None,
        *,
        local: bool = False,
    ) -> None:
        body = self.namespace.io.parser.body(event, arguments)
        sockets = list(self.namespace._select(audience)) if socket is None else [socket]
        data = _write(Record.of(body, audience, self.node, local=local))
        draft = Draft(self._room, data, message_id(), durable=True, publisher="socket.io", chosen_id=False)
        kept = KeptEvent(self, body, audience, sockets, size=len(data))
        if not self._hub.delivery.keep((draft,), (kept,)):
            kept.answered(Refused(draft, Overloaded("the log takes no more")))
            self._hub.delivery.post(kept)

    async def publish(self, body: Body, room: str) -> Position:
        """Keep an event for a room; its position. Raises StoreUnavailable, Overloaded, TooManyTopics.

        If cancelled, it is published all the same.
        """
        answer: asyncio.Future[Receipt | PartylineError] = asyncio.get_running_loop().create_future()

        def told(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(self.answer(outcome))

        audience = Audience(frozenset((room,)))
        data = _write(Record.of(body, audience, self.node))
        draft = Draft(self.room(room), data, message_id(), durable=True, publisher="socket.io", chosen_id=False)
        sockets = list(self.namespace._select(audience)) if self.recovery else ()
        kept = KeptEvent(self, body, audience, sockets, size=len(data), told=told)
        if not self._hub.delivery.keep((draft,), (kept,)):
            raise Overloaded("more messages wait for the log than it can take: publish again in a moment")
        outcome = await answer
        if isinstance(outcome, PartylineError):
            raise outcome
        assert outcome.position is not None
        return outcome.position

    def answer(self, outcome: Outcome) -> Receipt | PartylineError:
        """The answer to a publisher."""
        if isinstance(outcome, Refused):
            return outcome.error
        return self._hub.receipt(outcome.draft, outcome.message)

    def joined(self, socket: Member) -> None:
        """A session goes on: events that were emitted for it and still wait are for it, too."""
        parcels = [*self.namespace._lane.parcels]
        if (in_hand := self._hub.delivery.in_hand) is not None and in_hand.lane is None:
            parcels.append(in_hand)  # another node's, perhaps
        for parcel in parcels:
            if isinstance(parcel, EventParcel) and parcel.namespace is self.namespace:
                parcel.joined(socket)

    def beside(self) -> None:
        """An event goes out without a place in the log: sessions cannot go on over it."""
        _log.warning("the log refused an event: sessions cannot go on over it", namespace=self.namespace.name)
        if self.node:
            self.namespace.io.counters.unsent += 1  # for the other nodes
        self.namespace._broken()

    def _found(self, message: Message) -> Parcel:
        """An event of another node, or one whose publisher was told that it is not kept. An emitted one of this node
        has gone out already, without its place."""
        record = read_record(message)
        if message.room == self._room and (record.local or record.origin == self.node):
            return Parcel(None, message)
        return KeptEvent(self, record.body, record.audience, ()).found(message)

    # Back

    def body(self, record: Record) -> Body:
        """A record's event for the clients of this server, whatever parser the server had when it was kept."""
        parser, body = self.namespace.io.parser, record.body
        if record.text == parser.text:
            return body
        name, *arguments = _values(body)
        return parser.body(name, arguments)

    async def history(self, room: str, before: Position | None, limit: int) -> list[Entry]:
        """The newest entries of a room before a position, oldest first. Raises StoreUnavailable."""
        if before is not None and before.epoch != self._store.epoch:
            return []
        offset = self._store.head + 1 if before is None else before.offset
        found = await self._store.newest(self.room(room), offset, min(limit, _MOST_READ))
        entries = []
        for message in found:
            name, *arguments = _values(read_record(message).body)
            assert message.offset is not None
            entries.append(Entry(Position(self._store.epoch, message.offset), name, tuple(arguments), message.time))
        return entries


def _values(body: Body) -> list[Any]:
    return JSON.values(body) if isinstance(body.data, str) else MSGPACK.values(body)
