"""A Bus on the channels of Redis or Valkey.

A subject's hash gives it one of 256 channels, so a node has at most that many subscriptions. Other subjects on these
channels are ignored. Each node has its own channel for messages to it alone. A message is the length of the subject in
four bytes, the subject, and the envelope.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from partyline.adapters.redis import GONE, Redis
from partyline.adapters.redis_servers import named, servers
from partyline.hub.envelopes import Envelopes, node_name
from partyline.interfaces import Heard
from partyline.metrics import Counters

if TYPE_CHECKING:
    from partyline.adapters.redis_servers import Server

_BUCKETS: Final = 256
_AGAIN: Final = 0.05  # seconds between checks for a connection
_LENGTH: Final = Struct(">I")
_TO: Final = "@"  # with a node's name: the subject of messages to that node; published ones begin with ":"


def open_bus(url: str, field: str) -> RedisBus:
    """The bus that a setting names: an address, perhaps with `?prefix=...`. Raises ConfigError."""
    server, prefix = named(url)
    return RedisBus(server, prefix=prefix, field=field)


class RedisBus:
    """A Bus on the Redis (6 or later) or Valkey of an address, or of a client of redis-py with `protocol=3`.

    `prefix` tells deployments on one Redis from each other. Raises ConfigError. If Redis cannot be reached, `start`
    returns nevertheless, and messages are lost and counted until it can.
    """

    def __init__(self, server: Server, *, prefix: str = "partyline", field: str = "bus") -> None:
        self.node = node_name()
        self._prefix = f"{{{prefix}}}"
        there = servers(server, field)
        self._redis = Redis(there, at=self._prefix, probe=f"{self._prefix}:probe", sharded=there.clustered)
        self._envelopes = Envelopes(self.node)
        self._listeners: dict[bytes, tuple[str, Heard]] = {}  # by subject, as it is sent
        self._subjects: dict[str, set[str]] = {}  # listened to, by channel
        self._closed = False

    @property
    def counters(self) -> Counters:
        """Counters, among others of messages that were not sent."""
        return self._redis.counters

    @counters.setter
    def counters(self, counters: Counters) -> None:
        self._redis.counters = counters

    @property
    def connected(self) -> bool:
        return self._redis.connected and not self._closed

    async def start(self, received: Heard) -> None:
        own = _TO + self.node
        self._listeners[_bytes(own)] = own, received
        self._redis.listen(self._channel(own), self._arrived)
        await self._redis.start()

    def publish(self, subject: str, data: bytes) -> None:
        self._say(":" + subject, data)

    def send(self, node: str, data: bytes) -> None:
        self._say(_TO + node, data)

    def listen(self, subject: str, heard: Heard) -> None:
        subject = ":" + subject
        self._listeners[_bytes(subject)] = subject, heard
        channel = self._channel(subject)
        subjects = self._subjects.setdefault(channel, set())
        if not subjects:
            self._redis.listen(channel, self._arrived)
        subjects.add(subject)

    def unlisten(self, subject: str) -> None:
        subject = ":" + subject
        self._listeners.pop(_bytes(subject), None)
        self._envelopes.unlisten(subject)
        channel = self._channel(subject)
        if subjects := self._subjects.get(channel):
            subjects.discard(subject)
            if not subjects:
                del self._subjects[channel]
                self._redis.unlisten(channel)

    async def ready(self) -> None:
        while not self._closed:
            if await self._redis.answer("PING") is not GONE:  # then Redis has done everything asked before
                return
            await asyncio.sleep(_AGAIN)

    def lost(self) -> int:
        return self._envelopes.lost

    async def close(self) -> None:
        self._closed = True
        await self._redis.close()

    def _channel(self, subject: str) -> str:
        """The channel of a subject."""
        if subject.startswith(_TO):
            return f"{self._prefix}:node:{subject[1:]}"
        return f"{self._prefix}:bus:{crc32(_bytes(subject)) % _BUCKETS}"

    def _say(self, subject: str, data: bytes) -> None:
        if not self._closed:
            name = _bytes(subject)
            message = _LENGTH.pack(len(name)) + name + self._envelopes.wrap(subject, data)
            self._redis.publish(self._channel(subject), message)

    def _arrived(self, message: bytes) -> None:
        """Handle a message, perhaps on a subject that nobody here listens to, perhaps from a stranger."""
        start = _LENGTH.size
        end = start + (_LENGTH.unpack_from(message)[0] if len(message) >= start else 0)
        found = None if self._closed else self._listeners.get(message[start:end])
        if found is not None:
            subject, heard = found
            if (said := self._envelopes.unwrap(subject, message[end:])) is not None:
                heard(*said)


def _bytes(subject: str) -> bytes:
    """Any text, lone surrogates included."""
    return subject.encode("utf-8", "surrogatepass")
