"""A Bus in PostgreSQL. NOTIFY is a doorbell without content; messages are rows, which need not survive a crash.

Each node reads what stands there after the last that it has read, on the subjects that it listens to. So what is said
while a node is away for less than a minute still reaches it, though a bus does not promise that.
"""

from __future__ import annotations

import asyncio
from typing import Final

from partyline import log
from partyline.adapters.postgres import connecting
from partyline.adapters.postgres.connecting import Address, Bell, Connection, Line
from partyline.errors import StoreUnavailable
from partyline.hub.envelopes import Envelopes, node_name
from partyline.interfaces import Heard
from partyline.metrics import Counters

_log = log.get("cluster")

_PATIENCE: Final = 2.0  # seconds until a PostgreSQL that does not answer counts as gone
_AGAIN: Final = 0.5  # seconds between tries while it is gone
_PIECE: Final = 1_000  # messages that are read at a time
_MOST: Final = 1_000  # messages that are said at a time
_MOST_BYTES: Final = 16 * 1024 * 1024  # that wait to be said; what comes then is lost
_TO: Final = "@"  # with a node's name: the subject of messages to that node; published ones begin with ":"

_SAY: Final = "SELECT partyline.say($1, $2)"
_HEAD: Final = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM partyline.said_number"
_HEAR: Final = """
SELECT head.number, s.number, s.subject, s.message FROM (SELECT max(number) AS number FROM partyline.said) AS head
LEFT JOIN (
  SELECT * FROM partyline.said WHERE number > $1 AND subject = ANY ($2) ORDER BY number LIMIT $3
) AS s ON true ORDER BY s.number
"""


def open_bus(url: str, field: str) -> PostgresBus:
    """The bus that a setting names, not started. Raises ConfigError."""
    return PostgresBus(url, field=field)


class PostgresBus:
    """A Bus in a PostgreSQL of an address as a log has it, `postgres://user:password@host:port/database?schema=...`.

    Raises ConfigError. If PostgreSQL cannot be reached, `start` returns nevertheless, and messages are lost and counted
    until it can.
    """

    def __init__(self, address: str, *, field: str = "bus") -> None:
        self.node = node_name()
        self.counters = Counters()
        self._address = Address(address, field)
        self._bell = Bell()
        self._saying = Line(self._address)
        self._hearing = Line(self._address, self._bell.ring, "bus")
        self._envelopes = Envelopes(self.node)
        self._listeners: dict[bytes, tuple[str, Heard]] = {}  # by subject, as it is sent
        self._waiting: list[tuple[bytes, bytes]] = []
        self._size = 0  # bytes of these
        self._wanted = asyncio.Event()
        self._said = asyncio.Event()  # nothing waits to be said
        self._read: int | None = None  # the last message that was read
        self._up = asyncio.Event()
        self._tried = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._statements = [self._address.sql(one) for one in (_SAY, _HEAD, _HEAR)]

    @property
    def connected(self) -> bool:
        return self._up.is_set() and not self._closed

    async def start(self, received: Heard) -> None:
        own = _TO + self.node
        self._listeners[_bytes(own)] = own, received
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._hear()), loop.create_task(self._say_all())]
        await self._tried.wait()

    def publish(self, subject: str, data: bytes) -> None:
        self._say(":" + subject, data)

    def send(self, node: str, data: bytes) -> None:
        self._say(_TO + node, data)

    def listen(self, subject: str, heard: Heard) -> None:
        subject = ":" + subject
        self._listeners[_bytes(subject)] = subject, heard

    def unlisten(self, subject: str) -> None:
        subject = ":" + subject
        self._listeners.pop(_bytes(subject), None)
        self._envelopes.unlisten(subject)

    async def ready(self) -> None:
        if not self._closed:
            await self._up.wait()  # every reading asks for the subjects of that moment

    def lost(self) -> int:
        return self._envelopes.lost

    async def close(self) -> None:
        if self._up.is_set() and self._waiting:
            self._said.clear()
            self._closed = True
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._said.wait()
            except TimeoutError:
                self.counters.unsent += len(self._waiting)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in (self._saying, self._hearing):
            line.drop()

    # Out

    def _say(self, subject: str, data: bytes) -> None:
        if self._closed:
            return
        message = self._envelopes.wrap(subject, data)
        if not self._up.is_set() or self._size + len(message) > _MOST_BYTES:
            self.counters.unsent += 1
            return
        self._waiting.append((_bytes(subject), message))
        self._size += len(message)
        self._wanted.set()

    async def _say_all(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                some, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                self._size -= sum(len(message) for _, message in some)
                try:
                    async with asyncio.timeout(_PATIENCE), self._saying.use() as connection:
                        await connection.execute(
                            self._statements[0], [subject for subject, _ in some], [message for _, message in some]
                        )
                except (StoreUnavailable, TimeoutError) as error:
                    self.counters.unsent += len(some)
                    _log.debug("what was said on the bus may be lost", count=len(some), error=str(error))
            self._said.set()

    # In

    async def _hear(self) -> None:
        told = ""
        while True:
            try:
                await self._follow()
            except (StoreUnavailable, TimeoutError) as error:
                said = str(error) or "PostgreSQL does not answer"
                if said != told:
                    told = said
                    _log.warning("the bus cannot be reached", error=said)
            except Exception:
                _log.exception("the bus cannot be followed")
            self._up.clear()
            self._hearing.drop()
            self._tried.set()
            await asyncio.sleep(_AGAIN)

    async def _follow(self) -> None:
        async with asyncio.timeout(_PATIENCE), self._hearing.use() as connection:
            await connecting.prepare(self._address, connection)
            head = await connection.fetchval(self._statements[1])
            # After a failover the numbers may begin anew below those that were read.
            self._read = head if self._read is None else min(self._read, head)
        rung = True
        while True:
            async with asyncio.timeout(_PATIENCE), self._hearing.use() as connection:
                heard = await self._some(connection)
            if not self._up.is_set():
                self._up.set()
                self._tried.set()
                _log.info("the bus can be used", node=self.node)
            if heard and not rung:
                self._bell.not_heard()
            if heard < _PIECE:
                rung = await self._bell.rings()

    async def _some(self, connection: Connection) -> int:
        """Hear the next messages; how many they are."""
        rows = await connection.fetch(self._statements[2], self._read, list(self._listeners), _PIECE)
        head, *_ = rows[0]
        messages = [row for row in rows if row[1] is not None]
        if len(messages) == _PIECE:
            self._read = messages[-1][1]
        elif head is not None:
            self._read = head
        for _, _, subject, message in messages:
            found = None if self._closed else self._listeners.get(subject)
            if found is not None and (said := self._envelopes.unwrap(found[0], message)) is not None:
                try:
                    found[1](*said)
                except Exception:
                    _log.exception("a message from another node could not be handled", subject=found[0])
        return len(messages)


def _bytes(subject: str) -> bytes:
    """Any text, lone surrogates included."""
    return subject.encode("utf-8", "surrogatepass")
