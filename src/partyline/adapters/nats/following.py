"""Following the stream: a consumer of JetStream that hands out messages as fast as they are taken."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from partyline.adapters.nats.line import GONE, LOST, Arrived
from partyline.adapters.nats.stream import Kept, Stream
from partyline.errors import StoreUnavailable

_AT_ONCE: Final = 512  # messages that JetStream is asked for at a time
_FEW: Final = 64  # so few that are left, and it is asked again
_SIZE: Final = 8 * 1024 * 1024  # bytes of them
_ROOM: Final = 64 * 1024  # that one message may have besides its data
_SECOND: Final = 1_000_000_000
_EXPIRES: Final = 30 * _SECOND  # of a request
_HEARTBEAT: Final = 1 * _SECOND
_TRIES: Final = 50  # for the servers of a cluster to tell each other of a new consumer
_AGAIN: Final = 0.01  # seconds between them
_DEAD: Final = 3.0  # seconds without a sign of life
_UNUSED: Final = 15 * _SECOND  # until JetStream removes the consumer of a node that is gone


class Following:
    """Reads the messages of a stream from one sequence on."""

    def __init__(self, stream: Stream) -> None:
        self.time = 0.0  # at which the newest one that was taken was written, by the server's clock
        self._stream = stream
        self._name = f"node-{secrets.token_hex(8)}"
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{self._name}".encode()
        # Messages come with their own subjects, so they need a subscription; the other inbox hears of a loss.
        self._inbox = f"_INBOX.{self._name}".encode()
        self._subscription = stream.line.subscribe(self._inbox, self._heard)
        self._lost = stream.line.inbox(self._heard)
        self._waiting: deque[tuple[Kept, int]] = deque()
        self._left = 0  # messages that JetStream has still been asked for
        self._more = 0  # messages that were in the stream, at last count, and have not come yet
        self._count = 0  # of the messages that have come
        self._tries = 0
        self._life = time.monotonic()
        self._news = asyncio.Event()
        self._error: StoreUnavailable | None = None
        self._size = max(_SIZE, stream.line.largest + _ROOM)

    async def begin(self, after: int | None, filters: Sequence[str]) -> None:
        """Begin after a sequence, or (None) with the last message of each subject. Raises StoreUnavailable."""
        start: dict[str, str | int] = {"deliver_policy": "last_per_subject"}
        if after is not None:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        config = {
            "name": self._name,
            **start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": filters,
            "inactive_threshold": _UNUSED,
            "num_replicas": 1,
            "mem_storage": True,
        }
        request = {"stream_name": self._stream.name, "config": config, "action": "create"}
        made = await self._stream.api("CONSUMER.CREATE", request, f".{self._name}")
        self._more = made["num_pending"]
        self._ask()

    async def take(self, limit: int, wait: float) -> list[Kept]:
        """The next messages. Where there are none it waits for some. Raises StoreUnavailable."""
        until = time.monotonic() + wait
        while not self._waiting:
            if self._error is not None:
                raise self._error
            now = time.monotonic()
            if now - self._life > _DEAD:
                raise StoreUnavailable("JetStream has stopped sending messages")
            if now >= until and not self._more:
                return []
            self._news.clear()
            try:
                async with asyncio.timeout(min(until - now, 1.0) if now < until else 1.0):
                    await self._news.wait()
            except TimeoutError:
                pass
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self.time = taken[-1][1] / _SECOND
        if not self._left and len(self._waiting) <= _FEW:
            self._ask()
        return [kept for kept, _ in taken]

    def end(self) -> None:
        """Let go of it."""
        line = self._stream.line
        line.forget(self._lost)
        if line.up:
            line.unsubscribe(self._subscription)
            line.publish(f"$JS.API.CONSUMER.DELETE.{self._stream.name}.{self._name}".encode(), b"")

    def _ask(self) -> None:
        if not self._stream.line.up:
            return
        self._left = _AT_ONCE
        request = {"batch": _AT_ONCE, "expires": _EXPIRES, "idle_heartbeat": _HEARTBEAT, "max_bytes": self._size}
        self._stream.line.publish(self._next, msgspec.json.encode(request), self._inbox)

    def _heard(self, arrived: Arrived) -> None:
        self._life = time.monotonic()
        status = arrived.status
        if status == b"409" and b"Batch Completed" in arrived.head:
            return
        if arrived is GONE:
            self._error = LOST
        elif not status:
            self._came(arrived)
        elif status == b"100":  # JetStream has nothing to send
            self._more = 0
        elif status == b"503" and not self._count and self._tries < _TRIES:  # made at a server that is not ours
            self._tries += 1
            asyncio.get_running_loop().call_later(_AGAIN, self._ask)
        elif status == b"408" or (status == b"409" and b"MaxBytes" in arrived.head):  # this request is over
            self._left = 0
            if len(self._waiting) <= _FEW:
                self._ask()
        else:
            said = arrived.head.partition(b"\r\n")[0].decode(errors="replace")
            self._error = StoreUnavailable(f"JetStream has stopped sending messages: {said[9:]}")
        self._news.set()

    def _came(self, arrived: Arrived) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<count>.<time>.<pending>; newer forms have a domain and an
        # account in front, and something behind.
        parts = arrived.reply.split(b".")
        at = 5 if len(parts) == 9 else 7
        sequence, count, written, more = map(int, parts[at : at + 4])
        self._count += 1
        if count != self._count:
            self._error = StoreUnavailable("JetStream has left out messages")
            return
        self._left -= 1
        self._more = more
        self._waiting.append((Kept(arrived.subject, sequence, arrived.data), written))
