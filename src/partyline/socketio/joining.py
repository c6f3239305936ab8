"""Joining a cluster of Socket.IO servers of others: they speak a form of their own, and Redis alone knows how many.

Which channels there are, and what bytes mean, is a form's matter; here is what all of them have in common.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol

from partyline import log
from partyline.adapters.redis import Redis
from partyline.errors import ConfigError, InvalidValue
from partyline.hub.questions import Question
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.wire.cluster.classic import Classic
from partyline.wire.cluster.messages import (
    Answered,
    Missing,
    NodeMessage,
    Reached,
    Request,
    ServerSideAnswer,
    Sockets,
)
from partyline.wire.cluster.shapes import UNREADABLE, Read

_log = log.get("cluster")

_AGAIN: Final = 0.5  # seconds after which the nodes are counted again, while an answer is missing


class Form(Protocol):
    """One way to speak over Redis."""

    def subscriptions(self, namespace: str) -> tuple[dict[str, Read], dict[str, Read]]:
        """The patterns and the channels of a namespace, and what reads what comes there. A reader raises UNREADABLE."""
        ...

    def write(self, message: NodeMessage) -> list[tuple[str, bytes]]:
        """Channels, and what to publish there. Raises what encoders raise."""
        ...

    def counted(self, namespace: str) -> str:
        """The channel whose subscribers are those that answer."""
        ...


_FORMS: Final[dict[str, Callable[[str, str], Form]]] = {"classic": Classic}


class NodeCluster:
    """A running cluster of Socket.IO servers of Node, to be joined: `SocketIO(adapter=NodeCluster("redis://..."))`.

    `server` is the Redis that they use: an address (`redis://`, `rediss://`, `unix://`), or a client of redis-py made
    with `protocol=3`. `form` is how they speak: "classic" (`createAdapter` of @socket.io/redis-adapter). `key` is the
    prefix of their channels, "socket.io" unless they were told another. Raises ConfigError.
    """

    def __init__(self, server: Any, *, form: str = "classic", key: str = "socket.io") -> None:
        if form not in _FORMS:
            raise ConfigError(f"form: {form!r} must be one of {', '.join(_FORMS)}", field="form")
        self._form = form
        self._key = key
        self._redis = Redis(server, probe=f"{key}-probe")

    def join(self, timers: Timers, counters: Counters) -> Joined:
        """The others, as `Nodes` knows them."""
        return Joined(self._redis, _FORMS[self._form](secrets.token_hex(8), self._key), timers, counters)


class Joined:
    """The other servers of a cluster: `nodes.Peers` over Redis."""

    shows_handshakes = True

    def __init__(self, redis: Redis, form: Form, timers: Timers, counters: Counters) -> None:
        self.timer_slot = 0
        self._redis = redis
        self._form = form
        self._timers = timers
        self._counters = redis.counters = counters
        self._heard: Callable[[str, NodeMessage], None] = lambda node, message: None
        self._questions: dict[Request, tuple[Question, str]] = {}
        self._warned = False

    @property
    def others(self) -> list[str]:
        """None has a name."""
        return []

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        self._heard = heard
        await self._redis.start()

    async def close(self) -> None:
        self._timers.cancel(self)
        await self._redis.close()

    def opened(self, namespace: str) -> None:
        """Listen to what is said about it: from now on we are one of those that are waited for."""
        patterns, channels = self._form.subscriptions(namespace)
        for name, read in patterns.items():
            self._redis.listen_pattern(name, self._hearing(namespace, read))
        for name, read in channels.items():
            self._redis.listen(name, self._hearing(namespace, read))

    def closed(self, namespace: str) -> None:
        patterns, channels = self._form.subscriptions(namespace)
        for name in patterns:
            self._redis.unlisten_pattern(name)
        for name in channels:
            self._redis.unlisten(name)

    # Out

    def send(self, message: NodeMessage, to: str = "") -> None:
        for channel, data in self._form.write(message):
            self._redis.publish(channel, data)

    def ask(self, question: Question, namespace: str) -> Request:
        request = secrets.token_hex(8)
        self._questions[request] = (question, namespace)
        question.expected.unknown()
        self._count(question, namespace)  # in one write with the question itself
        if len(self._questions) == 1:
            self._timers.set(self, self._timers.now() + _AGAIN)
        return request

    def settle(self, request: Request) -> None:
        self._questions.pop(request, None)

    def on_deadline(self, now: float) -> None:
        """Some answer is still missing: perhaps whoever should give it has gone."""
        for question, namespace in tuple(self._questions.values()):
            self._count(question, namespace)
        if self._questions:
            self._timers.set(self, now + _AGAIN)

    def _count(self, question: Question, namespace: str) -> None:
        def counted(reply: Any) -> None:
            if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], int):
                question.expected.count(max(reply[1] - 1, 0))  # one is ourselves
                question.look()

        self._redis.ask(counted, "PUBSUB", "NUMSUB", self._form.counted(namespace))

    # In

    def _hearing(self, namespace: str, read: Read) -> Callable[[str, bytes], None]:
        def heard(channel: str, data: bytes) -> None:
            try:
                said = read(namespace, data)
            except UNREADABLE as error:
                self._unreadable(channel, error)
                return
            if said is not None:
                try:
                    self._take(*said)
                except InvalidValue as error:  # a reserved name, a value that clients cannot be sent
                    self._unreadable(channel, error)

        return heard

    def _take(self, node: str, message: NodeMessage) -> None:
        if isinstance(message, Reached | Answered | Missing | Sockets | ServerSideAnswer):
            question = self._questions.get(message.request)
            if question is not None:
                question[0].heard(node, message)
        else:
            self._heard(node, message)

    def _unreadable(self, channel: str, error: Exception) -> None:
        self._counters.unreadable += 1
        if not self._warned:  # once: whoever sends such things sends many
            self._warned = True
            _log.warning("another server has sent something that cannot be read", channel=channel, error=str(error))
