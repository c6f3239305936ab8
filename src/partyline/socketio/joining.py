"""Joining a cluster of other Socket.IO servers: they speak their own form, and only Redis knows how many there are.

A form defines the channels and the bytes; this file has what all forms share.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, cast

from partyline import log
from partyline.adapters.redis import Redis
from partyline.adapters.redis_ring import Ring
from partyline.adapters.redis_servers import Clustered, Servers, servers
from partyline.adapters.tail import Tail
from partyline.errors import ConfigError, InvalidValue
from partyline.hub.delivery import Delivery
from partyline.hub.questions import Question
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.socketio.seams import Space
from partyline.socketio.sessions import StreamSessions
from partyline.socketio.streaming import StreamJournal, StreamLog
from partyline.wire.cluster.classic import Classic
from partyline.wire.cluster.messages import (
    Answered,
    Emit,
    Missing,
    NodeMessage,
    Reached,
    Request,
    ServerSideAnswer,
    Sockets,
)
from partyline.wire.cluster.python import Python
from partyline.wire.cluster.shapes import UNREADABLE, Form, Read
from partyline.wire.cluster.sharded import MODES, Mode, Sharded
from partyline.wire.cluster.streams import Streams

_log = log.get("cluster")

_ANSWERS: Final = frozenset((Reached, Answered, Missing, Sockets, ServerSideAnswer))
_AGAIN: Final = 0.5  # seconds after which the nodes are counted again, while an answer is missing


class NodeCluster:
    """A running cluster of Node's Socket.IO servers, to join: `SocketIO(adapter=NodeCluster("redis://..."))`.

    `server` is the Redis that they use: an address (`redis://`, `rediss://`, `unix://`), or a redis-py client made with
    `protocol=3`. `form` is their protocol: "classic" or "sharded" (`createAdapter` or `createShardedAdapter` of
    @socket.io/redis-adapter), "streams" (@socket.io/redis-streams-adapter), or "python-socketio" for its servers and
    write-only managers. `key` is the prefix of their channels, or their one channel, if not the default. `mode` is the
    `subscriptionMode` of sharded, `stream` the `streamName` of streams. Raises ConfigError.
    """

    def __init__(
        self,
        server: Any,
        *,
        form: Literal["classic", "sharded", "streams", "python-socketio"] = "classic",
        key: str | None = None,
        mode: Mode = "dynamic",
        stream: str = "socket.io",
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode: {mode!r} must be one of {', '.join(MODES)}", field="mode")
        node = secrets.token_hex(16 if form == "python-socketio" else 8)
        key = key or ("socketio" if form == "python-socketio" else "socket.io")
        self._form: Form
        match form:
            case "classic":
                self._form = Classic(node, key)
            case "sharded":
                self._form = Sharded(node, key, mode)
            case "streams":
                self._form = Streams(node, key, stream)
            case "python-socketio":
                self._form = Python(node, key)
            case _:
                raise ConfigError(
                    f"form: {form!r} must be one of classic, sharded, streams, python-socketio", field="form"
                )
        self._servers = servers(server)
        probe, sharded = f"{key}-probe", self._form.sharded
        self._redis: Redis | Ring
        if isinstance(self._servers, Clustered):
            self._redis = Ring(self._servers, home=key, probe=probe, sharded=sharded)
        else:
            self._redis = Redis(self._servers, probe=probe, sharded=sharded)

    @property
    def keeps(self) -> bool:
        """Whether the cluster keeps its events for some time."""
        return isinstance(self._form, Streams)

    def join(self, timers: Timers, counters: Counters) -> Joined:
        """The others, as the peers of `Nodes`."""
        if isinstance(self._form, Streams):
            return Streaming(self._redis, self._servers, self._form, timers, counters)
        return Joined(self._redis, self._form, timers, counters)


class Joined:
    """The other servers of a cluster: `nodes.Peers` over Redis."""

    shows_handshakes = True

    def __init__(self, redis: Redis | Ring, form: Form, timers: Timers, counters: Counters) -> None:
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
        """Empty: they have no names."""
        return []

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        self._heard = heard
        for name, read in self._form.always().items():
            self._redis.listen(name, self._hearing(name, "/", read))
        await self._redis.start()

    async def close(self) -> None:
        self._timers.cancel(self)
        await self._redis.close()

    def opened(self, namespace: str) -> None:
        """Listen on the channels of a namespace: from now on the others wait for our answers, too."""
        patterns, channels = self._form.subscriptions(namespace)
        for name, read in patterns.items():
            self._redis.listen_pattern(name, self._hearing(name, namespace, read))
        for name, read in channels.items():
            self._redis.listen(name, self._hearing(name, namespace, read))

    def closed(self, namespace: str) -> None:
        patterns, channels = self._form.subscriptions(namespace)
        for name in patterns:
            self._redis.unlisten_pattern(name)
        for name in channels:
            self._redis.unlisten(name)

    def room(self, namespace: str, room: str, there: bool) -> None:
        channel = self._form.room(namespace, room)
        if channel and there:
            read = self._form.subscriptions(namespace)[1][self._form.counted(namespace)]  # as on the common channel
            self._redis.listen(channel, self._hearing(channel, namespace, read))
        elif channel:
            self._redis.unlisten(channel)

    # Out

    def send(self, message: NodeMessage, to: str = "") -> None:
        for channel, data in self._form.write(message, to):
            self._redis.publish(channel, data)

    def ask(self, question: Question, namespace: str) -> Request:
        request = secrets.token_hex(8)
        self._questions[request] = (question, namespace)
        if not self._form.counted(namespace):
            return request
        question.expected.unknown()
        self._count(question, namespace)  # in one write with the question itself
        if len(self._questions) == 1:
            self._timers.set(self, self._timers.now() + _AGAIN)
        return request

    def settle(self, request: Request) -> None:
        self._questions.pop(request, None)

    def on_deadline(self, now: float) -> None:
        """An answer is still missing: perhaps the server that owes it has gone."""
        for question, namespace in tuple(self._questions.values()):
            self._count(question, namespace)
        if self._questions:
            self._timers.set(self, now + _AGAIN)

    def _count(self, question: Question, namespace: str) -> None:
        def counted(nodes: int) -> None:
            question.expected.count(max(nodes - 1, 0))  # one is ourselves
            question.look()

        self._redis.count(counted, self._form.counted(namespace))

    # In

    def _hearing(self, name: str, namespace: str, read: Read) -> Callable[[bytes], None]:
        """A function for the messages of a subscription."""

        def heard(data: bytes) -> None:
            try:
                said = read(namespace, data)
            except UNREADABLE as error:
                self._unreadable(name, error)
            else:
                if said is not None:
                    self._take(name, *said)

        return heard

    def _take(self, where: str, node: str, message: NodeMessage) -> None:
        if type(message) in _ANSWERS:
            question = self._questions.get(cast("Sockets", message).request)  # each of them has one
            if question is not None:
                question[0].heard(node, message)
            return
        try:
            self._heard(node, message)
        except InvalidValue as error:  # a reserved name, or a value that cannot be sent to clients
            self._unreadable(where, error)

    def _unreadable(self, where: str, error: Exception) -> None:
        self._counters.unreadable += 1
        if not self._warned:  # once: a server that sends one sends many
            self._warned = True
            _log.warning("another server has sent something that cannot be read", where=where, error=str(error))


class Streaming(Joined):
    """The same for a cluster that uses a stream for most messages."""

    def __init__(self, redis: Redis | Ring, there: Servers, form: Streams, timers: Timers, counters: Counters) -> None:
        super().__init__(redis, form, timers, counters)
        self._streams = form
        self._tail = Tail(there, form.stream, self._entry, self._overrun)
        self._kept = StreamLog(redis, form, self._tail, timers, counters)
        self._journals: dict[str, StreamJournal] = {}  # of the namespaces that recover
        self._sessions: StreamSessions | None = None

    def recover(self, window: float) -> StreamSessions:
        """Let clients come back within `window` seconds."""
        self._sessions = StreamSessions(self._kept, window)
        return self._sessions

    @property
    def delivery(self) -> Delivery:
        """What sends in the order of the stream."""
        return self._kept.delivery

    def journal(self, namespace: Space) -> StreamJournal:
        """Let events of a namespace, here still without a journal, be sent in the order of the stream."""
        made = self._journals[namespace.name] = StreamJournal(namespace, self._kept)
        return made

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        await super().start(heard)
        await self._tail.start()

    async def close(self) -> None:
        await self._tail.close()
        await super().close()

    def closed(self, namespace: str) -> None:
        self._journals.pop(namespace, None)
        super().closed(namespace)

    def send(self, message: NodeMessage, to: str = "") -> None:
        for command in self._streams.entries(message, self._kept.number() if self._journals else 0):
            self._redis.command(*command)
        super().send(message, to)

    def _entry(self, identifier: str, fields: Sequence[bytes]) -> None:
        try:
            number = self._streams.number(fields, self._streams.node) if self._journals else 0
            if number:
                self._kept.own(number, identifier)
                return
            said = self._streams.read_entry(fields)
            if said is None:
                return
            message = said[1]
            journal = self._journals.get(message.namespace)
            if journal is not None and isinstance(message, Emit) and not message.volatile:
                self._kept.found(identifier, message, journal)
                return
        except UNREADABLE as error:
            self._unreadable(identifier, error)
        else:
            self._take(identifier, *said)
        finally:
            self._kept.moved()

    def _overrun(self) -> None:
        if self._sessions is not None:
            self._sessions.overrun()
