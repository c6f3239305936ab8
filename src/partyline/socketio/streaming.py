"""The stream of a cluster of Node's servers as a log: events take their places there, and are sent in its order.

Node's servers send their own events when Redis has taken them, and those of others when they have read them; so what a
client has got is not always all that stands before its offset. Here everything is sent when the stream brings it, our
own events too. An event that the stream does not bring is sent all the same, without an offset: its namespace's clients
cannot recover over it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import Any, Final

from partyline import log
from partyline.adapters.redis import GONE, Redis
from partyline.adapters.redis_ring import Ring
from partyline.adapters.tail import Tail
from partyline.errors import Overloaded, StoreUnavailable
from partyline.hub.delivery import Delivery, Parcel
from partyline.hub.timers import Timers
from partyline.interfaces import Refused, Stored
from partyline.metrics import Counters
from partyline.models import Audience, Draft, Message
from partyline.socketio.journal import EventParcel, KeptEvent
from partyline.socketio.seams import Member, Space
from partyline.wire.cluster.messages import Emit
from partyline.wire.cluster.streams import Streams, offset_number
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.values import in_messagepack, places

_log = log.get("socketio")

_PATIENCE: Final = 2.0  # seconds that an event waits to come back


class StreamLog:
    """What this server has added to the stream and not read yet, and how far it has read."""

    def __init__(self, redis: Redis | Ring, form: Streams, tail: Tail, timers: Timers, counters: Counters) -> None:
        self.redis = redis
        self.form = form
        self.counters = counters
        self.delivery = Delivery(counters, lambda found: Parcel())
        self.hole = -1  # the newest one when an event went out without a place, or was missed
        self.timer_slot = 0
        self._tail = tail
        self._timers = timers
        self.numbers = 0  # the newest of our own entries
        self._pending: deque[_Pending] = deque()
        self._coming: deque[FoundEvent] = deque()  # events of others that have come and are not served yet
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def read(self) -> int:
        """The newest entry that has been read, as a number; 0 before it is known where the stream ends."""
        return offset_number(self._tail.last or "0-0")

    @property
    def covered(self) -> int:
        """Up to this entry everything has been sent, and nothing after it. It goes back while something is being sent:
        wait until it is over."""
        return self.read if self.delivery.idle else self.delivery.reached

    async def moves(self) -> None:
        """Return when `covered` may have changed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def moved(self) -> None:
        """`covered` may have changed."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # Out

    def number(self) -> int:
        """The number of the next entry."""
        self.numbers += 1
        return self.numbers

    def keep(self, parcel: StreamEvent, message: Emit) -> None:
        """Add an event to the stream; it is sent when it comes back. Raises Overloaded, and what encoders raise."""
        draft = Draft(message.namespace, b"", "")
        (command,) = in_messagepack(
            lambda values: self.form.entries(
                Emit(message.namespace, message.event, values, message.rooms, message.excluded), self.numbers + 1
            ),
            message.arguments,
            lambda: places(len(message.arguments), event=False),
        )
        if not self.delivery.reserve((parcel,)):
            self.counters.unsent += 1
            parcel.answered(Refused(draft, Overloaded("the stream takes no more")))
            self.delivery.post(parcel)
            return
        one = _Pending(self.number(), draft, self._timers.now() + _PATIENCE)
        self._pending.append(one)
        if len(self._pending) == 1:
            self._timers.set(self, one.until)
        self.redis.ask(partial(self._added, one), *command)

    def _added(self, one: _Pending, reply: Any) -> None:
        if not isinstance(reply, Exception):
            return
        if reply is not GONE:
            _log.error("Redis does not take an event", error=str(reply))
        self.counters.unsent += 1  # perhaps: the connection may have been lost after Redis had it
        one.refused = True
        self._settle()

    def on_deadline(self, now: float) -> None:
        """An event has not come back in time, or the one that was to has."""
        for one in self._pending:
            if one.until > now:
                break
            one.refused = True
        self._settle()

    def _settle(self) -> None:
        while self._pending and self._pending[0].refused:
            self._refuse()
        if self._pending:
            self._timers.set(self, self._pending[0].until)

    def _refuse(self) -> None:
        error = StoreUnavailable("the stream has not brought the event back")
        self.delivery.committed((Refused(self._pending.popleft().draft, error),))

    def beside(self) -> None:
        """An event is missing in the stream, or here: nobody can go on from where we are now, or from before."""
        self.hole = max(self.hole, self.read)

    # In

    def own(self, number: int, identifier: str) -> None:
        """An entry of our own has come. Those before it that have not come are not in the stream."""
        while self._pending and self._pending[0].number < number:
            self._refuse()
        if self._pending and self._pending[0].number == number:
            draft = self._pending.popleft().draft
            self.delivery.committed((Stored(draft, _message(draft, identifier)),))

    def found(self, identifier: str, message: Emit, journal: StreamJournal) -> None:
        """Another server's event has come. Raises InvalidValue."""
        parcel = FoundEvent(self, journal, message)
        parcel.found(_message(Draft(message.namespace, b"", ""), identifier))
        self._coming.append(parcel)
        self.delivery.found(parcel)

    def served(self, parcel: StreamEvent) -> None:
        """An event has been sent."""
        if self._coming and self._coming[0] is parcel:
            self._coming.popleft()
        self.moved()

    def unserved(self, namespace: Space) -> list[EventParcel]:
        """The events of a namespace that are not sent yet."""
        return [
            parcel
            for parcel in (*namespace._lane.parcels, *self._coming)
            if isinstance(parcel, EventParcel) and parcel.namespace is namespace
        ]


class _Pending:
    """An event of our own that has not come back yet."""

    __slots__ = ("draft", "number", "refused", "until")

    def __init__(self, number: int, draft: Draft, until: float) -> None:
        self.number = number
        self.draft = draft
        self.until = until
        self.refused = False


class StreamJournal:
    """The stream for one namespace (`seams.EventLog`)."""

    recovery = True
    shared = True

    def __init__(self, namespace: Space, stream: StreamLog) -> None:
        self.namespace = namespace
        self._stream = stream

    def emit(
        self,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        socket: Member | None = None,
        *,
        local: bool = False,
    ) -> None:
        space = self.namespace
        body = space.io.parser.body(event, arguments)
        sockets = list(space._select(audience)) if socket is None else [socket]
        rooms = [audience.only] if audience.only else list(audience.rooms)
        excluded = [*audience.excluded, *([audience.besides] if audience.besides else [])]
        self._stream.keep(
            StreamEvent(self._stream, self, body, audience, sockets),
            Emit(space.name, event, list(arguments), rooms, excluded),
        )

    def beside(self) -> None:
        """An event goes out without a place in the stream."""
        _log.warning("an event is not in the stream: sessions cannot go on over it", namespace=self.namespace.name)
        self._stream.beside()


class StreamEvent(KeptEvent):
    """An event that the stream brings."""

    __slots__ = ("_stream",)

    def __init__(
        self, stream: StreamLog, journal: StreamJournal, body: Body, audience: Audience, sockets: Collection[Member]
    ) -> None:
        super().__init__(journal, body, audience, sockets, size=len(body.data))
        self._stream = stream

    def served(self) -> None:
        self._stream.served(self)
        super().served()


class FoundEvent(StreamEvent):
    """Another server's event. It takes its turn when the stream brings it, whatever of ours has yet to come back, and
    its audience is chosen then."""

    __slots__ = ()

    def __init__(self, stream: StreamLog, journal: StreamJournal, message: Emit) -> None:
        body = journal.namespace.io.parser.body(message.event, tuple(message.arguments))
        super().__init__(stream, journal, body, Audience(frozenset(message.rooms), frozenset(message.excluded)), ())
        self.lane = None

    def waits(self) -> None:
        self.waited = True


def _message(draft: Draft, identifier: str) -> Message:
    offset = offset_number(identifier)
    return Message(draft, offset, (offset >> 64) / 1000)
