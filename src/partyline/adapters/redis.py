"""One connection to Redis for publications, subscriptions and questions, which comes back by itself.

redis-py opens it (`redis_servers.py`), with its addresses, passwords, TLS, Sentinel and Cluster. From then on hiredis
packs and reads the bytes, and everything sent in one turn of the loop leaves in one write: a publication costs a
hundredth of `await publish(...)`.
Whatever is published while there is no connection is lost, and counted.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from partyline import log
from partyline.adapters.redis_servers import Servers, servers
from partyline.metrics import Counters

if TYPE_CHECKING:
    from partyline.adapters.redis_servers import Server

_log = log.get("cluster")

Heard = Callable[[bytes], None]
"""Called with each message of a subscription."""
Replied = Callable[[Any], None]
"""Called with Redis' reply, which may be an Exception; GONE if the connection was lost."""
GONE: Final = ConnectionError("the connection to Redis is lost")

_MOST: Final = 8 * 1024 * 1024  # bytes that may wait for Redis
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.8
_PROBE: Final = 5.0  # seconds between signs of life
_STARTING: Final = 10.0  # seconds that a server that starts waits for Redis
_SUBSCRIBED: Final = frozenset((b"subscribe", b"psubscribe", b"ssubscribe"))
_UNSUBSCRIBED: Final = frozenset((b"unsubscribe", b"punsubscribe", b"sunsubscribe"))
SLICE: Final = 0.002
"""Seconds of work in one turn of the loop for what one read has brought; the rest waits for the next turns."""
_ELSEWHERE: Final = ("MOVED ", "READONLY ", "CLUSTERDOWN ")  # refusals of a server that was the right one
_UNFINISHED: Final = object()
_SUBSCRIBING: Final = cast("Replied", object())  # among the expected replies: this one comes as a push


class Redis:
    """A connection that is restored after a loss, with all its subscriptions.

    `server` is an address (`redis://`, `rediss://`, `unix://`), or a client of redis-py made with `protocol=3`, for
    example a Sentinel's `master_for(...)`. In a Redis Cluster it is a connection to the server that has the key `at`.
    `probe` names a channel of its own, on which the connection hears itself:
    one that has been deaf for five seconds is given up. If it is empty, the owner has to check the connection. Needs
    Redis 6 or Valkey. Raises ConfigError without redis-py and hiredis.
    """

    def __init__(
        self,
        server: Server | Servers,
        *,
        at: str = "",
        probe: str = "partyline-probe",
        sharded: bool = False,
        field: str = "adapter",
    ) -> None:
        self._servers = servers(server, field) if not isinstance(server, Servers) else server
        self._at = at
        self._pack = packer()
        self.counters = Counters()
        self.quiet = False  # that it comes and goes is no news for the operator
        self.when_up: Callable[[], None] | None = None  # called when it is connected and subscribed
        self.when_down: Callable[[], None] | None = None  # called when the connection is lost
        self._count = "SHARDNUMSUB" if sharded else "NUMSUB"
        self._subscribe, self._unsubscribe, self._publish = (
            ("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH")
        )
        self._channels: dict[bytes, Heard] = {}
        self._patterns: dict[bytes, Heard] = {}
        self._line: Line | None = None
        self._out: list[bytes] = []  # written in this turn of the loop
        self._size = 0
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._closed = False
        self._told = ""  # why it is down, as logged last
        self._old = ""  # a lost connection that Redis may not have noticed yet
        self._me = ""
        self._probing: asyncio.TimerHandle | None = None
        self._probe_channel = f"{probe}#{secrets.token_hex(8)}#" if probe else ""
        self._heard_probe = True

    @property
    def connected(self) -> bool:
        """Whether a publication would be sent now."""
        return self._line is not None

    async def start(self) -> None:
        """Connect. Returns after the first attempt; if that failed, further ones follow."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            async with asyncio.timeout(_STARTING):
                await self._tried.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Send everything written, and close the connection."""
        self._closed = True
        self._flush()
        if self._probing is not None:
            self._probing.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._servers.close()

    # Out

    def publish(self, channel: str, data: bytes) -> None:
        """Publish on a channel. Lost and counted if there is no connection, or too much waits for Redis."""
        self.command(self._publish, channel, data)

    def command(self, *parts: str | bytes) -> None:
        """Any other command whose reply does not matter; an error is logged."""
        if self._line is None:
            self.counters.unsent += 1
        elif self._full():
            self.counters.unsent += 1
            self.counters.hit("max_redis_bytes")
        else:
            self._send(parts, self._done)

    def ask(self, replied: Replied, *parts: str | bytes) -> None:
        """A command whose reply is wanted. Replies come in the order of the commands."""
        if self._line is None or self._full():
            asyncio.get_running_loop().call_soon(replied, GONE)
        else:
            self._send(parts, replied)

    def answer(self, *parts: str | bytes) -> asyncio.Future[Any]:
        """The reply to such a command, to be awaited."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def replied(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.ask(replied, *parts)
        return answer

    def count(self, counted: Callable[[int], None], channel: str) -> None:
        """How many subscribe to a channel, if there is an answer."""

        def replied(reply: Any) -> None:
            if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], int):
                counted(reply[1])

        self.ask(replied, "PUBSUB", self._count, channel)

    def listen(self, channel: str, heard: Heard) -> None:
        """Subscribe to a channel, now and after every reconnect."""
        self._channels[channel.encode()] = heard
        if self._line is not None:
            self._send((self._subscribe, channel), _SUBSCRIBING)

    def unlisten(self, channel: str) -> None:
        """Subscribe no longer."""
        if self._channels.pop(channel.encode(), None) is not None and self._line is not None:
            self._send((self._unsubscribe, channel), _SUBSCRIBING)

    def listen_pattern(self, pattern: str, heard: Heard) -> None:
        """Subscribe to all channels of a pattern."""
        self._patterns[pattern.encode()] = heard
        if self._line is not None:
            self._send(("PSUBSCRIBE", pattern), _SUBSCRIBING)

    def unlisten_pattern(self, pattern: str) -> None:
        """Subscribe no longer."""
        if self._patterns.pop(pattern.encode(), None) is not None and self._line is not None:
            self._send(("PUNSUBSCRIBE", pattern), _SUBSCRIBING)

    def give_up(self) -> None:
        """The connection is dead or deaf: make a new one, and have Redis close the old one."""
        if self._line is not None:
            _log.error("the connection to Redis is deaf: it is made anew")
            self._old = self._me
            self._line.transport.abort()

    def _full(self) -> bool:
        assert self._line is not None
        return self._size + self._line.transport.get_write_buffer_size() > _MOST

    def _send(self, parts: tuple[str | bytes, ...], replied: Replied) -> None:
        assert self._line is not None
        data = self._pack(parts)
        self._line.replies.append(replied)
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)
        self._size += len(data)

    def _flush(self) -> None:
        if self._line is not None and self._out:
            self._line.transport.write(b"".join(self._out))
        self._out.clear()
        self._size = 0

    def _done(self, reply: Any) -> None:
        if reply is GONE:
            self.counters.unsent += 1  # perhaps: the connection was lost before Redis acknowledged it
        elif isinstance(reply, Exception):
            _log.error("Redis refuses a command", error=str(reply))

    # The connection

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                line = await self._connect()
            except Exception as error:  # of the network, TLS or Redis: any of them may pass
                if self._told != str(error):
                    self._told = str(error)
                    self._say(_log.error, "Redis cannot be reached: trying again until it can", error=self._told)
                self._tried.set()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a pause is no secret
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            try:
                if not line.gone.is_set():
                    self._up(line)
                    await line.gone.wait()
            finally:
                await line.connection.disconnect(nowait=True)

    async def _connect(self) -> Line:
        return Line(self, await self._servers.connect(self._at))

    def _up(self, line: Line) -> None:
        self._line = line
        if self._old:
            self._send(("CLIENT", "KILL", *self._old.split()), lambda reply: None)
            self._old = ""
        self._me = ""
        self._send(("CLIENT", "INFO"), self._named)
        if self._probe_channel:
            self._send(("SUBSCRIBE", self._probe_channel), _SUBSCRIBING)
        for channel in self._channels:
            self._send((self._subscribe, channel), _SUBSCRIBING)
        for pattern in self._patterns:
            self._send(("PSUBSCRIBE", pattern), _SUBSCRIBING)
        self.ask(self._subscribed, "PING")
        self._heard_probe = True
        if self._probe_channel:
            self._probe()

    def _subscribed(self, reply: Any) -> None:
        if reply is GONE:
            return
        if self._told:
            self._told = ""
            self._say(_log.warning, "Redis is connected again")
        self._tried.set()
        if self.when_up is not None:
            self.when_up()

    def _named(self, reply: Any) -> None:
        text = reply.decode() if isinstance(reply, bytes) else str(reply)
        fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
        if "id" in fields and "addr" in fields:  # both, since a restarted Redis numbers clients anew
            self._me = f"ID {fields['id']} ADDR {fields['addr']}"

    def down(self, line: Line) -> None:
        if self._line is line:
            self._line = None
        self._out.clear()
        self._size = 0
        if self._probing is not None:
            self._probing.cancel()
        replies, line.replies = line.replies, deque()
        for replied in replies:
            if replied is not _SUBSCRIBING:
                replied(GONE)
        if self.when_down is not None:
            self.when_down()
        if not self._told and not self._closed:
            self._told = "lost"
            self._say(_log.error, "the connection to Redis is lost: what is published now does not reach other servers")

    def _say(self, how: Callable[..., object], what: str, **values: str) -> None:
        if not self.quiet:
            how(what, **values)

    def _probe(self) -> None:
        """Publish to ourselves. If that is not heard, the connection is deaf or dead."""
        if self._line is None:
            return
        if not self._heard_probe:
            self.give_up()
            return
        self._heard_probe = False
        self._send(("PUBLISH", self._probe_channel, b"1"), lambda reply: None)
        self._probing = asyncio.get_running_loop().call_later(_PROBE, self._probe)

    # In

    def push(self, kind: bytes, values: list[bytes]) -> bool:
        """Handle a push message; True if it answers a command."""
        if kind == b"pmessage":
            heard = self._patterns.get(values[1])
        elif kind == b"message" or kind == b"smessage":
            heard = self._channels.get(values[1])
        else:
            return self._answers(kind, values)
        if heard is None:
            self._heard_probe = True  # the only other subscription, if it is not one that has just ended
            return False
        try:
            heard(values[-1])
        except Exception:
            self.counters.errors += 1
            _log.exception("a message from another server could not be handled")
        return False

    def _answers(self, kind: bytes, values: list[bytes]) -> bool:
        if kind == b"sunsubscribe" and values[1] in self._channels and self._line is not None:
            self._line.transport.abort()  # its slot has moved; nobody asked for this
            return False
        return kind in _SUBSCRIBED or kind in _UNSUBSCRIBED


def packer() -> Callable[[tuple[str | bytes | int, ...]], bytes]:
    """What writes a command as it goes over the wire."""
    import hiredis

    return cast("Callable[[tuple[str | bytes | int, ...]], bytes]", hiredis.pack_command)


class Talks(Protocol):
    """Whose a line is."""

    def push(self, kind: bytes, values: list[bytes]) -> bool:
        """Something that Redis sends by itself; True if it answers a command."""

    def down(self, line: Line) -> None:
        """The connection is lost."""


class Line(asyncio.Protocol):
    """One connection, as long as it lasts."""

    def __init__(self, owner: Talks, connection: Any) -> None:
        """`connection` is redis-py's, connected; what it has connected is read and written by us from here on."""
        import hiredis

        self.connection = connection
        self.transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self.gone = asyncio.Event()
        self.replies: deque[Replied] = deque()
        self._owner = owner
        self._reader = hiredis.Reader(notEnoughData=_UNFINISHED)
        self._push = hiredis.PushNotification
        self._refusal = hiredis.ReplyError
        self._broken = hiredis.HiredisError
        self._paused = False  # a slice is used up: the rest has its turn before more is read
        self.transport.set_protocol(self)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._paused and self._work() and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """The turn of the rest has come."""
        if self.transport.is_closing():
            return
        if self._work():
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._paused = False
            self.transport.resume_reading()

    def _work(self) -> bool:
        """Handle what has been read, for a slice of time; True if some is left."""
        until = monotonic() + SLICE
        try:
            while (reply := self._reader.gets()) is not _UNFINISHED:
                if type(reply) is not self._push:
                    self._take(reply)
                elif self._owner.push(reply[0], reply) and self.replies:
                    self.replies.popleft()
                if monotonic() > until:
                    return True
        except self._broken as error:
            _log.error("Redis sent an invalid reply", error=str(error))
            self.transport.abort()
        return False

    def _take(self, reply: Any) -> None:
        if not self.replies:
            return
        replied = self.replies.popleft()
        if isinstance(reply, self._refusal) and str(reply).startswith(_ELSEWHERE):
            self.transport.abort()  # another server has it now: the next connection is to that one
        if replied is _SUBSCRIBING:  # only a refusal comes this way
            _log.error("Redis refuses a subscription", error=str(reply))
        else:
            replied(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.down(self)
        self.gone.set()
