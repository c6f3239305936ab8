"""Tables in a key-value bucket of JetStream: the last message of a subject is the value of a key.

`$KV.<prefix>.<table>.<key>` has the deadline (0 if the value was taken), the key after its length, and the value. A
value is taken by putting a mark in its place, on condition that it is still the last message. JetStream removes both
when their time is over. A watcher that was away is told again of all that there is, and of what is not there any more.

A watcher always gets the newest value of a key. If a key changes faster than JetStream's replicas pass it on, a value
in between may be left out: only the last one is kept.
"""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Callable, Coroutine
from struct import Struct
from typing import Any, Final, TypeVar

from partyline import log
from partyline.adapters.nats.address import LOG_OPTIONS, number, parse
from partyline.adapters.nats.client import Nats
from partyline.adapters.nats.following import Following
from partyline.adapters.nats.line import Line
from partyline.adapters.nats.stream import OTHER, Declined, Kept, Stream, seconds
from partyline.errors import StoreUnavailable
from partyline.interfaces import Changed

_log = log.get("store")

_PATIENCE: Final = 3.0  # seconds until a JetStream that does not answer counts as gone
_SOON: Final = 0.002  # seconds until a value is looked at again that somebody else has just changed
_AGAIN: Final = 0.1  # seconds between tries to watch
_HEAD: Final = Struct(">dI")  # deadline, length of the key
_MARK: Final = 60  # seconds that a mark stays: watchers that were away for longer compare
_AT_ONCE: Final = 500
_WAIT: Final = 5.0
_SWEEP: Final = 1_000
_REST: Final = 1_024  # bytes that a message has besides its value
_TABLES: Final = ("registrations", "sessions", "revocations")
_BUCKET: Final[dict[str, Any]] = {
    "storage": "file",
    "max_msgs_per_subject": 1,
    "max_age": 0,
    "allow_direct": True,
    "allow_msg_ttl": True,
}

_T = TypeVar("_T")


def open_tables(url: str) -> NatsTables:
    """The tables beside the log at `url`, not connected yet. Raises ConfigError."""
    return NatsTables(url)


class NatsTables:
    """Tables on the JetStream (NATS 2.12 or later) of an address, `nats://one:4222,two:4222?replicas=3`.

    `clock` None counts lives by the clock of NATS, which is the same one for all nodes. Raises ConfigError.
    """

    def __init__(self, address: str, *, clock: Callable[[], float] | None = None) -> None:
        where = parse(address, "log", LOG_OPTIONS)
        self._nats = Nats(where)
        self._nats.quiet = True  # whoever asks hears of it, and the log beside has a line
        self._started = False
        self._replicas = number(where, "replicas", 1)
        self._name = f"KV_{where.prefix}"
        self.prefix = f"$KV.{where.prefix}"
        self._clock = clock
        self._ahead = 0.0  # of our clock, that of NATS
        self._greeted: Line | None = None
        self.registrations, self.sessions, self.revocations = (NatsTable(self, name) for name in _TABLES)

    async def start(self) -> None:
        """Connect, or go on trying: returns after the first attempt. Idempotent."""
        if not self._started:
            self._started = True
            await self._nats.start()

    async def close(self) -> None:
        for table in (self.registrations, self.sessions, self.revocations):
            await table.close()
        await self._nats.close()

    @property
    def now(self) -> float:
        """The time that lives are counted by."""
        return self._clock() if self._clock is not None else time.time() + self._ahead

    async def stream(self) -> Stream:
        """The bucket, which is made if it is not there. Raises StoreUnavailable."""
        line = self._nats.line()
        stream = Stream(line, self._name)
        if self._greeted is not line:
            info = await stream.ensure({"subjects": [f"{self.prefix}.>"], **_BUCKET}, self._replicas)
            self._ahead = seconds(info["ts"]) - time.time()
            self._greeted = line
        return stream


class NatsTable:
    """One of them."""

    def __init__(self, tables: NatsTables, name: str) -> None:
        self._tables = tables
        self._prefix = f"{tables.prefix}.{name}."
        self._name = name
        self._watching: list[asyncio.Task[None]] = []

    async def get(self, key: str) -> bytes | None:
        return await _in_time(self._get(key))

    async def put(self, key: str, value: bytes, life: float) -> None:
        await _in_time(self._put(key, value, life))

    async def take(self, key: str) -> bytes | None:
        return await _in_time(self._take(key))

    async def watch(self, changed: Changed) -> None:
        watcher = _Watcher(self._tables, f"{self._prefix}>", self._name, changed)
        following = await _in_time(watcher.begin())
        self._watching.append(asyncio.get_running_loop().create_task(watcher.run(following)))

    async def close(self) -> None:
        """Tell nobody of this node any more."""
        watching, self._watching = self._watching, []
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    async def _get(self, key: str) -> bytes | None:
        kept = await (await self._tables.stream()).last(self._subject(key))
        return None if kept is None else self._living(kept)

    async def _put(self, key: str, value: bytes, life: float) -> None:
        stream = await self._tables.stream()
        if len(value) + len(_bytes(key)) > stream.line.largest - _REST:
            raise StoreUnavailable(f"a value of {len(value)} bytes is larger than NATS takes (max_payload there)")
        head = b"Nats-TTL:%d\r\n" % max(1, math.ceil(life))
        await stream.publish(self._subject(key).encode(), _packed(self._tables.now + life, key, value), head)

    async def _take(self, key: str) -> bytes | None:
        stream = await self._tables.stream()
        subject = self._subject(key)
        while True:
            kept = await stream.last(subject)
            value = None if kept is None else self._living(kept)
            if kept is None or value is None:
                return None
            head = b"Nats-TTL:%d\r\nNats-Expected-Last-Subject-Sequence:%d\r\n" % (_MARK, kept.sequence)
            try:
                await stream.publish(subject.encode(), _packed(0.0, key, b""), head)
            except Declined as error:
                if error.number not in OTHER:
                    raise
                await asyncio.sleep(_SOON)
            else:
                return value

    def _living(self, kept: Kept) -> bytes | None:
        _, deadline, value = _unpacked(kept.data)
        return value if self._tables.now < deadline else None

    def _subject(self, key: str) -> str:
        return self._prefix + (base64.urlsafe_b64encode(_bytes(key)).rstrip(b"=").decode() or "=")


class _Watcher:
    """Somebody who watches a table, across lost connections."""

    def __init__(self, tables: NatsTables, subjects: str, name: str, changed: Changed) -> None:
        self._tables = tables
        self._subjects = subjects
        self._name = name
        self._changed = changed
        self._known: dict[str, float] = {}  # keys that it was told of, and their deadlines
        self._sweep = _SWEEP  # so many of them are looked through for those whose life is over

    async def begin(self) -> Following:
        """Tell all that there is, and what is not there any more. Raises StoreUnavailable."""
        following = Following(await self._tables.stream())
        try:
            await following.begin(None, [self._subjects])
            await self._tell_all(following)
        except BaseException:
            following.end()
            raise
        return following

    async def _tell_all(self, following: Following) -> None:
        missed = dict(self._known)
        while found := await following.take(_AT_ONCE, 0.0):
            for kept in found:
                key, deadline, value = _unpacked(kept.data)
                if self._tables.now < deadline:
                    missed.pop(key, None)
                    self._tell(key, deadline, value)
        for key, deadline in missed.items():
            if self._tables.now < deadline:
                self._tell(key, 0.0, b"")

    async def run(self, following: Following) -> None:
        """Tell each change from now on."""
        while True:
            try:
                while True:
                    for kept in await following.take(_AT_ONCE, _WAIT):
                        self._tell(*_unpacked(kept.data))
            except StoreUnavailable as error:
                _log.debug("a table cannot be watched", table=self._name, error=error.message)
            finally:
                following.end()
            following = await self._again()

    async def _again(self) -> Following:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                return await _in_time(self.begin())
            except StoreUnavailable as error:
                _log.debug("a table cannot be watched", table=self._name, error=error.message)

    def _tell(self, key: str, deadline: float, value: bytes) -> None:
        if deadline:
            self._known[key] = deadline
            if len(self._known) > self._sweep:
                now = self._tables.now
                self._known = {one: until for one, until in self._known.items() if until > now}
                self._sweep = max(_SWEEP, 2 * len(self._known))
        else:
            self._known.pop(key, None)
        try:
            self._changed(key, value if deadline else None)
        except Exception:
            _log.exception("a change of a table could not be taken in", table=self._name)


async def _in_time(call: Coroutine[Any, Any, _T]) -> _T:
    """What a call gives. Raises StoreUnavailable if that takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await call
    except TimeoutError:
        raise StoreUnavailable("NATS does not answer: try again in a moment") from None


def _bytes(key: str) -> bytes:
    """Any text, half characters included."""
    return key.encode("utf-8", "surrogatepass")


def _packed(deadline: float, key: str, value: bytes) -> bytes:
    name = _bytes(key)
    return _HEAD.pack(deadline, len(name)) + name + value


def _unpacked(data: bytes) -> tuple[str, float, bytes]:
    """Key, deadline and value."""
    deadline, size = _HEAD.unpack_from(data)
    start = _HEAD.size
    return data[start : start + size].decode("utf-8", "surrogatepass"), deadline, data[start + size :]
