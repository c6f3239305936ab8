"""The durable log under a namespace: what is published to its rooms, and, with recovery, everything that is emitted.

With recovery the events of a namespace pass one queue: while one waits for its commit everything behind it waits too,
so that nothing a client has seen is uncommitted, and `emit` never waits (guarantees, Mechanism). Whom an event goes to
is decided when it is emitted, as if there were no log.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from partyline import log
from partyline.errors import InvalidValue, PartylineError
from partyline.hub.hub import Hub
from partyline.interfaces import Store
from partyline.models import Audience, Draft, Message, Position, Receipt, message_id
from partyline.socketio.dialects import Emission
from partyline.topics import PRIVATE
from partyline.wire.socketio.attachments import put_in, take_out
from partyline.wire.socketio.values import UNWRITABLE, places, plain

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.socket import Socket

_log = log.get("socketio")

_MOST_READ: Final = 1_000  # entries of one page of history


@dataclass(frozen=True, slots=True)
class Entry:
    """A published event as it is kept. `time` is seconds since 1970, for people."""

    position: Position
    event: str
    arguments: tuple[Any, ...]
    time: float


class Record(msgspec.Struct, omit_defaults=True):
    """An event in the log."""

    values: list[Any]  # its name, and its arguments with placeholders for what is binary
    rooms: list[str] = []
    excluded: list[str] = []
    attachments: list[str] = []  # base64

    def audience(self) -> Audience:
        return Audience(frozenset(self.rooms), frozenset(self.excluded))

    def event(self) -> tuple[str, tuple[Any, ...]]:
        """Its name and its arguments."""
        values = list(self.values)
        if self.attachments:
            put_in(values, [base64.b64decode(text) for text in self.attachments])
        return values[0], tuple(values[1:])


_read = msgspec.json.Decoder(Record).decode
_write = msgspec.json.Encoder().encode


class _Waiting:
    """An event that waits for its commit. It is kept as it was emitted, whatever becomes of its arguments."""

    __slots__ = ("audience", "id", "members", "record", "refused")

    def __init__(self, record: bytes, audience: Audience, members: list[Socket], identifier: str) -> None:
        self.record = record
        self.audience = audience
        self.members = members  # who gets it, as it was emitted
        self.id = identifier
        self.refused = False


class Journal:
    """The log of one namespace. `recovery` says that everything emitted is kept, and delivered in order."""

    def __init__(self, namespace: Namespace, hub: Hub, store: Store, *, recovery: bool) -> None:
        self._namespace = namespace
        self._hub = hub
        self._store = store
        self._room = PRIVATE + namespace.name
        self.recovery = recovery
        self.waiting: deque[_Waiting | Callable[[], object]] = deque()
        hub.attend(namespace.name, self._deliver)

    def close(self) -> None:
        """The namespace is gone."""
        self._hub.attend(self._namespace.name, None)

    def room(self, name: str) -> str:
        """Where what is published to a room of the namespace is kept."""
        return self._room + PRIVATE + name

    def rooms(self, names: Sequence[str]) -> frozenset[str]:
        """All that may concern a member of these rooms."""
        return frozenset((self._room, *(self.room(name) for name in names)))

    # Out

    def emit(self, emission: Emission, audience: Audience) -> None:
        """Keep an event, and send it once it is kept. Raises InvalidValue."""
        self._keep(emission, audience, self._room, None)

    async def publish(self, emission: Emission, room: str) -> Position:
        """Keep an event for a room; its position. Raises InvalidValue, StoreUnavailable, Overloaded, TooManyTopics.

        Cancelled, it is published all the same.
        """
        answer: asyncio.Future[Receipt | PartylineError] = asyncio.get_running_loop().create_future()

        def done(outcome: Receipt | PartylineError) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self._keep(emission, Audience(frozenset((room,))), self.room(room), done)
        outcome = await answer
        if isinstance(outcome, PartylineError):
            raise outcome
        assert outcome.position is not None
        return outcome.position

    def _keep(
        self,
        emission: Emission,
        audience: Audience,
        room: str,
        told: Callable[[Receipt | PartylineError], None] | None,
    ) -> None:
        record = _record(emission, audience)
        draft = Draft(room, record, message_id(), durable=True, publisher="socket.io", chosen_id=False)
        if not self.recovery:
            self._hub.publish(draft, told)
            return
        waiting = _Waiting(record, audience, list(self._namespace.select(audience)), draft.id)
        self.waiting.append(waiting)

        def done(outcome: Receipt | PartylineError) -> None:
            if isinstance(outcome, PartylineError):
                self._refused(waiting, published=told is not None)
            if told is not None:
                told(outcome)

        self._hub.publish(draft, done)

    def behind(self, action: Callable[[], object]) -> None:
        """Do something behind all that waits now."""
        self.waiting.append(action)

    def joined(self, socket: Socket) -> None:
        """A session goes on: what has been emitted for it and waits is for it, too."""
        for waiting in self.waiting:
            if isinstance(waiting, _Waiting) and waiting.audience.reaches(socket.rooms):
                waiting.members.append(socket)

    def _deliver(self, message: Message) -> None:
        """The hub's turn: an event is kept, and so is everything before it."""
        if not self.recovery:
            audience = _read(message.draft.data).audience()
            self._send(message.draft.data, self._namespace.select(audience), message.offset, message.time)
            return
        first = self.waiting[0] if self.waiting else None
        if not isinstance(first, _Waiting) or first.id != message.draft.id:
            return  # its publisher was told that it is lost, and it went out without its place in the log
        self.waiting.popleft()
        self._send_waiting(first, message.offset, message.time)
        self._release()

    def _refused(self, waiting: _Waiting, *, published: bool) -> None:
        """The log does not take it. An emitted event goes out all the same; a published one does not."""
        waiting.refused = True
        if published:
            waiting.members = []
        else:
            self._hole()
            _log.warning("the log refused an event: sessions cannot go on over it", namespace=self._namespace.name)
        self._release()

    def _release(self) -> None:
        waiting = self.waiting
        while waiting:
            first = waiting[0]
            if isinstance(first, _Waiting):
                if not first.refused:
                    return
                waiting.popleft()
                self._send_waiting(first, None, 0.0)
                if first.members:
                    self._hole()  # again: what stood before it has got its places meanwhile
            else:
                waiting.popleft()
                first()
        self._namespace.vanish()  # if it has only waited for this

    def _send_waiting(self, waiting: _Waiting, offset: int | None, time: float) -> None:
        members = [member for member in waiting.members if member.reachable]
        self._send(waiting.record, members, offset, time)

    def _send(self, record: bytes, members: Collection[Socket], offset: int | None, time: float) -> None:
        if not members:
            return
        name, arguments = _read(record).event()
        try:
            self._namespace.deliver(Message(self._namespace.emission(name, arguments), offset, time), members)
        except InvalidValue as error:  # JSON has a form for it, and the parser has none
            _log.error("an event cannot be sent", namespace=self._namespace.name, event_name=name, error=error.message)

    def _hole(self) -> None:
        """An event goes out without a place in the log."""
        recovery = self._namespace.io.recovery
        if recovery is not None:
            recovery.broken(self._namespace)

    # Back

    async def history(self, room: str, before: Position | None, limit: int) -> list[Entry]:
        """The newest entries of a room before a position, oldest first. Raises StoreUnavailable."""
        if before is not None and before.epoch != self._store.epoch:
            return []
        offset = self._store.head + 1 if before is None else before.offset
        found = await self._store.newest(self.room(room), offset, min(limit, _MOST_READ))
        entries = []
        for message in found:
            name, arguments = _read(message.draft.data).event()
            assert message.offset is not None
            entries.append(Entry(Position(self._store.epoch, message.offset), name, arguments, message.time))
        return entries


def read_record(message: Message) -> Record:
    """What the log keeps of an event."""
    return _read(message.draft.data)


def _record(emission: Emission, audience: Audience) -> bytes:
    given = [emission.event, *emission.arguments]
    try:
        return _written(given, audience)
    except UNWRITABLE:
        return _written(plain(given, places(len(given), event=True)), audience)


def _written(given: list[Any], audience: Audience) -> bytes:
    values, attachments = take_out(given)
    kept = [base64.b64encode(data).decode("ascii") for data in attachments]
    return _write(Record(list(values), sorted(audience.rooms), sorted(audience.excluded), kept))
