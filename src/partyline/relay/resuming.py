"""Classic connections registered with `"resume": true`: at-least-once for any bare WebSocket client.

Behind what was sent goes a ping whose payload is the position, at most once a second; the pong that every WebSocket
library answers by itself confirms it (RFC 6455 5.5.3). Who reconnects gets everything behind the confirmed position:
nothing is missed, what was sent in the last second may come twice.
"""

from __future__ import annotations

import asyncio
from typing import Final

from partyline import log
from partyline.errors import InvalidValue, PartylineError
from partyline.hub.history import Gap, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Connection, Dialect, Store, View
from partyline.models import Message, Payload, Position
from partyline.relay.classic import ClassicRules, ClassicSession
from partyline.relay.registry import Registration, Registry
from partyline.wire.json import to_json
from partyline.wire.websocket.frames import PING, frame

_log = log.get("relay")

_PING_EVERY: Final = 1.0  # seconds, at least, between two pings that ask for a confirmation


class ResumingSession(ClassicSession):
    """One such connection. It is itself what the hub knows as a member: it has to hear when something is sent."""

    __slots__ = (
        "_catching_up",
        "_pinged",
        "_pinged_at",
        "_sent",
        "_store",
        "_timers",
        "_unconfirmed",
        "dialect",
        "rooms",
        "timer_slot",
        "user",
    )

    dialect: Dialect

    def __init__(
        self,
        hub: Hub,
        store: Store,
        timers: Timers,
        registry: Registry,
        registration: Registration,
        rules: ClassicRules,
    ) -> None:
        super().__init__(hub, registry, registration, rules)
        self._store = store
        self._timers = timers
        self._catching_up: asyncio.Task[None] | None = None
        self._sent = 0  # while it catches up: the offset up to which everything was sent
        self._unconfirmed = False  # something was sent behind the last ping
        self._pinged = 0  # the highest offset that a ping has carried
        self._pinged_at = -_PING_EVERY
        self.user: str | None = registration.user
        self.rooms: tuple[str, ...] | set[str] = ()
        self.timer_slot = 0

    # interfaces.Connection, for the hub

    def offer(self, payload: Payload) -> None:
        if self._connection is not None:
            self._connection.offer(payload)
            self._ask_soon()

    def send(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.send(data)

    def send_text(self, text: str) -> None:
        if self._connection is not None:
            self._connection.send_text(text)

    # interfaces.HearsPongs

    def pong(self, payload: bytes) -> None:
        """The peer has read everything up to a position. Only what a ping has carried counts, and never backwards."""
        try:
            position = Position.parse(payload.decode("latin-1"))
        except InvalidValue:
            return
        if position.epoch == self._store.epoch and position.offset <= self._pinged:
            self._registry.confirm(self._registration, position)

    # ClassicSession

    @property
    def member(self) -> Connection:
        return self

    def follow(self, topics: tuple[str, ...]) -> None:
        if self._catching_up is None:
            super().follow(topics)
        else:  # from where it is, with the topics it has now
            self._catching_up.cancel()
            self._resume(topics, Position(self._store.epoch, self._sent))

    def closed(self) -> None:
        self._timers.cancel(self)
        if self._catching_up is not None:
            self._catching_up.cancel()
        super().closed()

    def _begin(self, topics: tuple[str, ...]) -> None:
        assert self._connection is not None  # over ASGI no ping can be written: then nothing is confirmed
        confirmed = self._registration.confirmed
        assert confirmed is not None
        self.dialect = self._connection.dialect
        self._timers.set(self, self._timers.now() + self._rules.heartbeat)
        if confirmed == Position(self._store.epoch, self._hub.fanned_out):
            self._join(topics)  # the log has not moved: there is nothing to look for
        else:
            self._resume(topics, confirmed)

    # Catching up

    def _resume(self, topics: tuple[str, ...], after: Position) -> None:
        self._sent = after.offset if after.epoch == self._store.epoch else 0
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(topics, after))

    async def _catch_up(self, topics: tuple[str, ...], after: Position) -> None:
        hub, store = self._hub, self._store
        view = View(frozenset(topics), user=self.user)

        def attach() -> None:
            self._catching_up = None
            self._join(topics)

        try:
            start = await find_start(hub, store, view, after)
            self._sent = start.position.offset
            if start.oldest is not None:
                # Pruned: what is left is more than nothing. Of another epoch, or ahead of the log: nobody knows.
                if after.epoch == store.epoch and after.offset < start.oldest.offset:
                    self._sent = start.oldest.offset
                self._tell_gap(start.oldest)
            while self._catching_up is not None:
                try:
                    await catch_up(hub, store, view, self._sent, deliver=self._deliver, attach=attach)
                except Gap as gap:  # retention overtook this reader
                    self._sent = gap.oldest - 1
                    self._tell_gap(Position(store.epoch, self._sent))
        except PartylineError as error:
            _log.warning("a connection could not be resumed from the log", code=error.code)
            self.close(1013, "the log cannot be read: come back later")
        except Exception:
            hub.counters.errors += 1
            _log.exception("a connection could not be resumed")
            self.close(1011, "internal error")

    async def _deliver(self, message: Message) -> None:
        if self._connection is None:
            return
        await self._connection.drained()
        self._connection.send(self.dialect.encode(message))
        assert message.offset is not None
        self._sent = message.offset
        self._ask_soon()

    def _tell_gap(self, oldest: Position) -> None:
        """No hole is silent (guarantee 3)."""
        error = {
            "code": "not_recovered",
            "message": f"messages were missed: {oldest} is the oldest position still kept",
        }
        self.send_text(to_json({"error": error, "recovered": False, "oldest": str(oldest)}).decode())
        self._ask_soon()

    # Confirmations

    def _ask_soon(self) -> None:
        if not self._unconfirmed:
            self._unconfirmed = True
            self._timers.set(self, max(self._timers.now(), self._pinged_at + _PING_EVERY))

    def on_deadline(self, now: float) -> None:
        reached = self._hub.fanned_out if self._catching_up is None else self._sent
        if self._unconfirmed or reached > self._pinged:
            self._unconfirmed = False
            self._pinged = reached
            self._pinged_at = now
            self.send(frame(PING, str(Position(self._store.epoch, reached)).encode()))
        self._timers.set(self, now + self._rules.heartbeat)
