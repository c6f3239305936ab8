"""Server-sent events: one topic as a stream that a browser's EventSource resumes by itself.

It is a v1 session with one subscription, whose values become events.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import msgspec

from partyline import log
from partyline.errors import PartylineError
from partyline.hub.outbox import SLOW, Outbox, end_slow
from partyline.interfaces import Dialect, Member
from partyline.models import Message, Payload
from partyline.relay.services import Services
from partyline.relay.v1.session import Asked, V1Session
from partyline.relay.values import Missed, Reached, Subscribed
from partyline.server.site import Site
from partyline.server.websocket import CUT_OFF
from partyline.trust.keys import Principal
from partyline.wire import relay as wire
from partyline.wire import sse
from partyline.wire.json import to_json

_log = log.get("relay")

COMMENT_EVERY: Final = 15.0  # seconds: proxies and browsers give up on a stream that is silent for longer
_PATIENCE: Final = 2  # heartbeats that one event may take: an ASGI server waits for its client for ever
_RETRY: Final = (1_000, 5_000)  # milliseconds, drawn at random: a thousand browsers must not come back at once


@dataclass(frozen=True, slots=True, eq=False)
class EventDialect:
    """Messages as events; `id:` is the position, which an ephemeral message does not have."""

    epoch: str

    def encode(self, message: Message) -> bytes:
        envelope = wire.envelope(message, self.epoch)
        return sse.event(to_json(envelope), id=envelope.position)


@lru_cache(maxsize=8)
def _dialect(epoch: str) -> Dialect:
    return EventDialect(epoch)


class EventStream(V1Session):
    """One subscriber. It is its own member (`interfaces.Member`); a response takes its events one by one."""

    __slots__ = (
        "_drop",
        "_emptied",
        "_ending",
        "_outbox",
        "_site",
        "_stood_still",
        "_taking",
        "_wake",
        "dialect",
        "rooms",
        "user",
    )

    def __init__(
        self,
        services: Services,
        site: Site,
        principal: Principal,
        address: str,
        drop: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(services, principal, address)
        self.dialect = _dialect(services.store.epoch)
        self.user: str | None = None
        self.rooms: tuple[str, ...] | set[str] = ()
        self._site = site
        self._outbox = Outbox(site.limits.outbox_bytes)
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._drop = drop  # cuts the connection, if the server can
        self._ending: bytes | None = None  # the last event, once the stream is to end
        self._taking = False  # an event is on its way to the client
        self._stood_still = 0  # heartbeats since then

    async def stream(self, topic: str, after: str) -> AsyncIterator[bytes]:
        """The response's body. It ends when the client is too slow, its token expires or the server stops."""
        self._site.live.add(self)
        try:
            self.begin()
            if self._site.draining:
                self.shutdown()
            self.do(wire.Subscribe(topic, after), None)
            while not self.expired:
                if self._outbox:
                    self._taking, self._stood_still = True, 0
                    yield self._outbox.pop().data
                    self._taking = False
                    continue
                self._emptied.set()
                self._wake.clear()
                if self._ending is not None:
                    if self._ending:
                        yield self._ending
                    return
                await self._wake.wait()
        finally:
            self._leave()

    # interfaces.Member

    def offer(self, payload: Payload) -> None:
        if self._ending is not None:
            return
        if not self._outbox.push(payload):
            end_slow(self, self._site.counters)
        self._wake.set()

    def close(self, code: int, reason: str = "") -> None:
        """End the stream. A client that has lost its rights does not get what is queued."""
        if code in CUT_OFF:
            self._cut(b"")
        elif code == SLOW:
            self._cut(sse.retry(_retry()))
        else:
            self._end(sse.retry(_retry()))

    # server.site.Live

    def shutdown(self) -> None:
        """The server stops: the browser is told when to come back."""
        self._end(sse.retry(_retry()))

    def abort(self) -> None:
        """Drop the connection as it is, if it is still there."""
        self._end(b"")
        if self in self._site.live:
            if self._drop is not None:
                self._drop()
            self._leave()  # the body of a cut answer does not run to its end

    # V1Session

    @property
    def member(self) -> Member:
        return self

    @property
    def heartbeat(self) -> float:
        return COMMENT_EVERY

    def on_deadline(self, now: float) -> None:
        queued, advanced = len(self._outbox), self._advanced
        super().on_deadline(now)
        self._stood_still += self._taking
        if self._stood_still > _PATIENCE and self._ending is None:
            end_slow(self, self._site.counters, "a reader that stands still")
            return
        if len(self._outbox) == queued and self._advanced == advanced:
            self.offer(Payload(sse.COMMENT))

    def reply(self, asked: Asked, value: msgspec.Struct) -> None:
        if not isinstance(value, Subscribed):
            return
        if value.recovered:
            # A browser that is cut off before the first event must come back with an id, or it would begin anew.
            self._tell_position(value.position)
        else:
            self._tell_gap(value.position, value.oldest)

    def refuse(self, asked: Asked, error: PartylineError) -> None:
        _log.warning("a stream ends", code=error.code)
        self._end(sse.retry(_retry()))

    def tell(self, kind: str, value: msgspec.Struct) -> None:
        if isinstance(value, Missed):
            self._tell_gap(value.position, value.oldest)
        elif isinstance(value, Reached):
            self._tell_position(value.position)

    async def drained(self) -> None:
        while self._outbox and self._ending is None:
            self._emptied.clear()
            await self._emptied.wait()

    def _tell_position(self, position: str) -> None:
        """Move the browser's position without an event."""
        self.offer(Payload(sse.event(None, id=position)))

    def _tell_gap(self, position: str, oldest: str | msgspec.UnsetType) -> None:
        """Report a gap; the browser's position moves to where the stream goes on."""
        self.offer(Payload(b"event: gap\n" + sse.event(to_json({"recovered": False, "oldest": oldest}), id=position)))

    # The end

    def _end(self, last: bytes) -> None:
        if self._ending is None:
            self._ending = last
        self._emptied.set()
        self._wake.set()

    def _cut(self, last: bytes) -> None:
        """End without sending what is queued."""
        self._site.counters.dropped += len(self._outbox)
        self._outbox.clear()
        self._ending = last
        self._end(last)
        # A client that does not read never gets to the end: its connection is cut.
        asyncio.get_running_loop().call_later(self._site.limits.close_timeout, self.abort)

    def _leave(self) -> None:
        """Stop being a subscriber. Doing it again does nothing."""
        self._site.live.discard(self)
        self.end()


def _retry() -> int:
    return random.randint(*_RETRY)  # noqa: S311 - jitter, not a secret
