"""Server-sent events: one topic as a stream that a browser's EventSource resumes by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from partyline import log
from partyline.errors import PartylineError
from partyline.hub.history import Gap, catch_up, find_start
from partyline.hub.outbox import Outbox
from partyline.interfaces import Dialect, View
from partyline.models import Message, Payload, Position
from partyline.relay.line import LineServices
from partyline.server.site import Site
from partyline.trust.keys import Principal
from partyline.wire import relay as wire
from partyline.wire import sse
from partyline.wire.json import to_json
from partyline.wire.websocket.frames import utf8

_log = log.get("relay")

COMMENT_EVERY: Final = 15.0  # seconds: proxies and browsers give up on a stream that is silent for longer
_RETRY: Final = (1_000, 5_000)  # milliseconds, drawn at random: a thousand browsers must not come back at once


@dataclass(frozen=True, slots=True, eq=False)
class EventDialect:
    """Messages as events; `id:` is the position, an ephemeral message has none."""

    epoch: str

    def encode(self, message: Message) -> bytes:
        envelope = wire.envelope(message, self.epoch)
        return sse.event(to_json(envelope), id=envelope.position)


class EventStream:
    """One subscriber. An `interfaces.Connection` whose bytes a response takes from it one by one."""

    def __init__(
        self,
        services: LineServices,
        site: Site,
        principal: Principal,
        topic: str,
        limit: int,
        drop: Callable[[], None] | None = None,
    ) -> None:
        self.dialect: Dialect = _dialects.setdefault(services.store.epoch, EventDialect(services.store.epoch))
        self.user = principal.user
        self.rooms: tuple[str, ...] | set[str] = ()
        self._services = services
        self._site = site
        self._principal = principal
        self._topic = topic
        self._outbox = Outbox(limit)
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._drop = drop  # cuts the connection below, where the server can
        self._ending: bytes | None = None  # what is sent last, once the stream is to end
        self._over = False  # its token is: nothing is sent any more
        self._reader: asyncio.Task[None] | None = None
        self.timer_slot = 0
        self._advanced = services.hub.fanned_out

    # interfaces.Connection

    def offer(self, payload: Payload) -> None:
        if self._ending is None and not self._outbox.push(payload):
            self._site.counters.hit("outbox_bytes")
            self._outbox.clear()
            self._end()
            # A reader that stands still never comes to the end: its connection is cut.
            asyncio.get_running_loop().call_later(self._site.limits.close_timeout, self.abort)
        self._wake.set()

    def send(self, data: bytes) -> None:
        self.offer(Payload(data))

    def send_text(self, text: str) -> None:
        self.send(sse.event(utf8(text)))

    def close(self, code: int, reason: str = "") -> None:
        self._end()

    # server.site.Live

    def shutdown(self) -> None:
        """The server stops: the browser is told when to come back."""
        self._end()

    def abort(self) -> None:
        """Drop the connection as it is, if it is still there."""
        self._end()
        if self._drop is not None and self in self._site.live:
            self._drop()
            self._leave()  # the body of an answer that was cut is not run to its end

    async def stream(self, after: Position | str) -> AsyncIterator[bytes]:
        """The response's body. It ends when the client is too slow, the token is over or the server stops."""
        services = self._services
        hub, token = services.hub, self._principal.token
        if token is not None and not services.access.revoker.hold(token, self):
            return
        hub.add(self)
        self._site.live.add(self)
        self._arm()
        self._reader = asyncio.create_task(self._read(after))
        try:
            if self._site.draining:
                self._end()
            while not self._finished():
                if self._outbox:
                    yield self._outbox.pop().data
                    continue
                self._emptied.set()
                self._wake.clear()
                if self._ending is not None:
                    yield self._ending
                    return
                try:
                    async with asyncio.timeout(COMMENT_EVERY):
                        await self._wake.wait()
                except TimeoutError:
                    if not self._outbox and not self._finished():  # an id must not overtake its message
                        yield self._beat()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Be no subscriber any more. Doing it again does nothing."""
        if self._reader is None:
            return
        services, token = self._services, self._principal.token
        self._reader.cancel()
        self._reader = None
        self._site.live.discard(self)
        services.hub.remove(self)
        services.timers.cancel(self)
        if token is not None:
            services.access.revoker.release(token, self)

    # The token's end

    def _finished(self) -> bool:
        expires = self._principal.expires
        return self._over or (expires is not None and self._services.clock() >= expires)

    def on_deadline(self, now: float) -> None:
        """Its token may be over (`hub.timers.Timed`)."""
        if self._finished():
            self.revoked()
        else:
            self._arm()

    def revoked(self) -> None:
        """Its token counts no more (`relay.revocations.Holder`): not even what is queued is sent."""
        self._over = True
        self._outbox.clear()
        self._end()
        # A reader that stands still never comes to the end: its connection is cut.
        asyncio.get_running_loop().call_later(self._site.limits.close_timeout, self.abort)

    def _arm(self) -> None:
        services, expires = self._services, self._principal.expires
        if expires is not None:
            services.timers.set(self, services.timers.now() + max(0.0, expires - services.clock()))

    def _beat(self) -> bytes:
        """What a quiet stream sends: its position if that has moved on, so that it stays within retention."""
        head = self._services.hub.fanned_out
        if head > self._advanced and self.rooms:
            self._advanced = head
            return sse.event(None, id=f"{self._services.store.epoch}-{head}")
        return sse.COMMENT

    async def _read(self, after: Position | str) -> None:
        """Catch up, then join the topic."""
        services = self._services
        hub, store = services.hub, services.store
        view = View(frozenset((self._topic,)), user=self.user)

        def attach() -> None:
            hub.join(self, self._topic)
            self._wake.set()

        try:
            if after == "latest":
                attach()
                return
            start = await find_start(hub, store, view, after if isinstance(after, Position) else None)
            if not start.recovered:
                self._tell_gap(start.oldest, start.position)
            self._advanced = start.position.offset
            await catch_up(
                hub,
                store,
                view,
                start.position.offset,
                deliver=self._deliver,
                attach=attach,
            )
        except Gap as gap:
            self._tell_gap(Position(store.epoch, gap.oldest - 1), Position(store.epoch, hub.fanned_out))
            attach()
        except PartylineError as error:
            _log.warning("a stream could not be read from the log", code=error.code)
            self._end()
        except Exception:
            self._site.counters.errors += 1
            _log.exception("a stream failed")
            self._end()

    def _tell_gap(self, oldest: Position | None, going_on_at: Position) -> None:
        """Say that something was missed; the browser's position moves behind it."""
        told = {"recovered": False, "oldest": None if oldest is None else str(oldest)}
        self.send(b"event: gap\n" + sse.event(to_json(told), id=str(going_on_at)))

    async def _deliver(self, message: Message) -> None:
        while self._outbox and self._ending is None:
            self._emptied.clear()
            await self._emptied.wait()
        self.send(self.dialect.encode(message))

    def _end(self) -> None:
        if self._ending is None:
            self._ending = sse.retry(random.randint(*_RETRY))  # noqa: S311 - jitter, not a secret
        self._wake.set()


_dialects: dict[str, Dialect] = {}
