"""Classic connections registered with `"resume": true`: at-least-once for any bare WebSocket client.

A ping with the position as its payload follows the messages, at most once a second; the pong that every WebSocket
library sends by itself confirms it (RFC 6455 5.5.3). A client that reconnects gets everything after the confirmed
position: nothing is missed, and messages of the last second may come twice.
"""

from __future__ import annotations

import asyncio
from typing import Final

from partyline import log
from partyline.errors import InvalidValue, PartylineError
from partyline.hub.history import Start, resume
from partyline.interfaces import Dialect, Member, View
from partyline.models import Message, Payload, Position
from partyline.relay.classic.registry import Registration
from partyline.relay.classic.session import ClassicSession
from partyline.relay.services import Services
from partyline.wire.json import to_json
from partyline.wire.websocket.frames import PING, frame

_log = log.get("relay")

_PING_EVERY: Final = 1.0  # seconds, at least, between two pings that ask for a confirmation


class ResumingSession(ClassicSession):
    """One such connection. It is its own hub member, since it has to know when something is sent."""

    __slots__ = (
        "_at",
        "_catching_up",
        "_pinged",
        "_pinged_at",
        "_unconfirmed",
        "dialect",
        "rooms",
        "timer_slot",
        "user",
    )

    dialect: Dialect

    def __init__(self, services: Services, registration: Registration) -> None:
        super().__init__(services, registration)
        self._catching_up: asyncio.Task[None] | None = None
        self._at = Position(services.store.epoch, 0)  # while it catches up: everything up to here was sent
        self._unconfirmed = False  # something was sent after the last ping
        self._pinged = 0  # the highest offset that a ping has carried
        self._pinged_at = -_PING_EVERY
        self.user: str | None = registration.user
        self.rooms: tuple[str, ...] | set[str] = ()
        self.timer_slot = 0

    # interfaces.Member

    def offer(self, payload: Payload) -> None:
        if self._connection is not None:
            self._connection.offer(payload)
            self._ask_soon()

    def send(self, data: bytes) -> None:
        """Write a frame, after what is queued."""
        if self._connection is not None:
            self._connection.send(data)

    # interfaces.HearsPongs

    def pong(self, payload: bytes) -> None:
        """The peer has read everything up to a position. Only positions that a ping carried count, and never
        backwards."""
        try:
            position = Position.parse(payload.decode("latin-1"))
        except InvalidValue:
            return
        if position.epoch == self._services.store.epoch and position.offset <= self._pinged:
            self._registration.registry.confirm(self._registration, position)

    # ClassicSession

    @property
    def member(self) -> Member:
        return self

    def follow(self, topics: tuple[str, ...]) -> None:
        if self._catching_up is None:
            super().follow(topics)
        else:  # from its position, with its current topics
            self._catching_up.cancel()
            self._resume(topics, self._at)

    def closed(self) -> None:
        self._services.timers.cancel(self)
        if self._catching_up is not None:
            self._catching_up.cancel()
        super().closed()

    def _begin(self, topics: tuple[str, ...]) -> None:
        assert self._connection is not None  # over ASGI no ping can be written, and nothing confirmed
        confirmed = self._registration.confirmed
        assert confirmed is not None
        self.dialect = self._connection.dialect
        self._services.timers.set(self, self._services.timers.now() + self._services.settings.ping_interval)
        if confirmed == Position(self._services.store.epoch, self._services.hub.fanned_out):
            self._join(topics)  # the log has not moved: there is nothing to look for
        else:
            self._resume(topics, confirmed)

    # Catching up (hub.history.Sink)

    def _resume(self, topics: tuple[str, ...], after: Position) -> None:
        self._at = after
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(topics, after))

    async def _catch_up(self, topics: tuple[str, ...], after: Position) -> None:
        try:
            await resume(self._services.hub, self._services.store, View(frozenset(topics), user=self.user), after, self)
        except PartylineError as error:
            _log.warning("a connection could not be resumed from the log", code=error.code)
            self.close(1013, "the log cannot be read: come back later")
        except Exception:
            self._services.hub.counters.errors += 1
            _log.exception("a connection could not be resumed")
            self.close(1011, "internal error")

    def began(self, start: Start) -> None:
        self._at = start.position
        if start.oldest is not None:
            self._tell_gap(start.oldest)

    async def deliver(self, message: Message) -> None:
        if self._connection is None:
            return
        await self._connection.drained()
        self.send(self.dialect.encode(message))
        assert message.offset is not None
        self._at = Position(self._at.epoch, message.offset)
        self._ask_soon()

    def gap(self, start: Start) -> None:
        self.began(start)

    def attach(self) -> None:
        self._catching_up = None
        self._join(self._registration.topics)

    def _tell_gap(self, oldest: Position) -> None:
        """No hole is silent (guarantee 3)."""
        error = {
            "code": "not_recovered",
            "message": f"messages were missed: {oldest} is the oldest position still kept",
        }
        if self._connection is not None:
            told = {"error": error, "recovered": False, "oldest": str(oldest)}
            self._connection.send_text(to_json(told).decode())
        self._ask_soon()

    # Confirmations

    def _ask_soon(self) -> None:
        if not self._unconfirmed:
            self._unconfirmed = True
            self._services.timers.set(self, max(self._services.timers.now(), self._pinged_at + _PING_EVERY))

    def on_deadline(self, now: float) -> None:
        epoch = self._services.store.epoch
        at = Position(epoch, self._services.hub.fanned_out) if self._catching_up is None else self._at
        if at.epoch == epoch and (self._unconfirmed or at.offset > self._pinged):
            self._unconfirmed = False
            self._pinged = at.offset
            self._pinged_at = now
            self.send(frame(PING, str(at).encode()))
        self._services.timers.set(self, now + self._services.settings.ping_interval)
