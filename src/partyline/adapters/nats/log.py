"""A log that several nodes share, in a stream of JetStream. `subjects` describes what is in it.

The stream numbers: the sequence of a message is its offset. With several replicas, reads are answered by whichever is
nearest, and may be late: a page is complete only when it has what the stream's last messages say (`reading`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from partyline import log
from partyline.adapters.nats import reading
from partyline.adapters.nats.address import LOG_OPTIONS, Address, number, parse
from partyline.adapters.nats.durability import durability
from partyline.adapters.nats.following import Following
from partyline.adapters.nats.line import Line
from partyline.adapters.nats.placing import Placing
from partyline.adapters.nats.pruning import Pruner
from partyline.adapters.nats.stream import NEWEST, OTHER, Declined, Stream, seconds, version
from partyline.adapters.nats.subjects import STREAM, Epoch, Subjects, message
from partyline.errors import PartylineError, StoreUnavailable, TooManyTopics
from partyline.interfaces import Durability, Fenced, Outcome, Standing, Stretch, View
from partyline.models import Draft, Message, Page
from partyline.stores.retention import Retention

_log = log.get("store")

_PATIENCE: Final = 6.0  # seconds for a connection to be made and greeted
_SOON: Final = 0.02  # seconds until an epoch is looked up that another node has just given
_SPARED: Final = 30.0  # seconds for which every message stays, so that all nodes can read it
_COUNTED: Final = 100_000  # rooms that are known to be there; beyond that they are forgotten and looked up again
_RECOUNT: Final = 5.0  # seconds between two counts of all rooms

_T = TypeVar("_T")


class NatsLog:
    """A SharedLog on the JetStream (NATS 2.12 or later) of an address, `nats://one:4222,two:4222?replicas=3`.

    `clock` gives messages their times. Raises ConfigError.
    """

    def __init__(
        self,
        address: str,
        retention: Retention | None = None,
        *,
        idempotency_window: float = 86400.0,
        spared: float = _SPARED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._address: Address = parse(address, "log", LOG_OPTIONS)
        self._replicas = number(self._address, "replicas", 1)
        self._monitor = number(self._address, "monitor", 0)
        self._retention = retention or Retention()
        self._window = max(1, round(idempotency_window))
        self._spared = spared
        self._clock = clock
        self._subjects = Subjects(self._address.prefix)
        self._stream: Stream | None = None  # on the connection that appends and follows
        self._reading: Stream | None = None  # on the one for pages
        self._following: Following | None = None
        self._place = -1  # where it goes on
        self._fence = 0  # the sequence of the epoch's record
        self._epoch = ""
        self._top = 0  # the highest offset known to be given
        self._floor: int | None = None  # the same before the first try of an append whose outcome is unknown
        self._late = False  # replicas may be
        self._ahead = 0.0  # of our clock, the server's
        self._rooms: set[bytes] = set()  # known to be there
        self._others = 0  # rooms that may be there besides
        self._counted = 0.0
        self._pruning: asyncio.Task[None] | None = None

    # interfaces.SharedLog

    async def connect(self, offset: int) -> Standing:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._greet(offset)
        except BaseException as error:
            await self._leave()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f"JetStream at {self._address.shown} does not answer: has it a leader?"
                ) from None
            raise

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        stream = self._of(epoch)
        if self._floor is None:
            self._floor = self._top
        placing = Placing(stream, self._subjects, self._fence, self._floor, self._clock(), groups, self._window)
        await self._admit(stream, placing)
        outcomes = await placing.run()
        self._floor = None
        self._top = max(self._top, placing.newest)
        return outcomes

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        stream = self._of(epoch)
        if self._following is None or self._place != after:
            await self._follow(stream, after)
        assert self._following is not None
        self._place = -1  # whatever is raised, the next call begins anew
        written = self._following.time
        found = await self._following.take(limit, wait)
        messages: list[Message] = []
        for kept in found:
            if self._subjects.is_room(kept.subject):
                messages.append(message(kept))
            elif kept.sequence > self._fence:
                raise Fenced
        oldest = 0
        if found:
            self._top = max(self._top, found[-1].sequence)
            # Nothing is pruned in its first seconds: after a message that is this new nothing was left out.
            new = -self._spared / 2 <= time.time() + self._ahead - written < self._spared / 2
            pruned = None if new else await stream.last(self._subjects.pruned)
            oldest = 0 if pruned is None else int(pruned.data) + 1
        self._place = (messages[-1].offset or 0) if messages else after
        return Stretch(messages, oldest)

    async def head(self) -> int:
        info = await self._connected().api("STREAM.INFO")
        self._top = max(self._top, _head(info))
        return self._top

    async def renew(self, epoch: str) -> None:
        stream = self._connected()
        last = await stream.last(self._subjects.epoch)
        if last is not None and msgspec.json.decode(last.data, type=Epoch).epoch == epoch:
            await self._give_epoch(stream, await stream.api("STREAM.INFO"), last.sequence)

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        return await self._look(epoch, lambda reader: reading.read(reader, view, after, limit))

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        if before > self._top + 1:
            before = min(before, await self.head() + 1)
        return await self._look(epoch, lambda reader: reading.newest(reader, room, before, limit))

    async def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait([self._pruning])
            self._pruning = None
        await self._leave()
        pages, self._reading = self._reading, None
        if pages is not None:
            await pages.line.close()

    async def prune(self, epoch: str) -> None:
        """Apply retention once. Raises Fenced and StoreUnavailable."""
        stream = self._of(epoch)
        await self._pruner(stream).round(self._fence)

    # Connecting

    async def _greet(self, offset: int) -> Standing:
        await self._leave()
        line = await Line.open(self._address, lambda line: None)
        stream = self._stream = Stream(line, self._subjects.stream)
        if version(line) < NEWEST:
            raise StoreUnavailable(
                f"NATS {line.info.get('version')} is too old for the log: it needs {NEWEST[0]}.{NEWEST[1]}, which "
                "keeps batches whole or not at all"
            )
        wanted = {"subjects": [self._subjects.everything], **STREAM}
        info = await stream.ensure(wanted, self._replicas)
        kept = await durability(self._address, self._monitor, info)
        await self._know_epoch(stream, info, kept)
        self._late = info["config"]["num_replicas"] > 1
        self._ahead = seconds(info["ts"]) - time.time()
        state = info["state"]
        self._rooms.clear()
        self._others = state.get("num_subjects", 0)
        self._counted = 0.0
        head = self._top = _head(await stream.api("STREAM.INFO"))
        if self._reading is None or not self._reading.line.up:
            self._reading = Stream(await Line.open(self._address, lambda line: None), self._subjects.stream)
        last = await stream.at(offset)
        known = message(last).draft.identity if last is not None and self._subjects.is_room(last.subject) else None
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().create_task(self._prune_on())
        return Standing(self._epoch, head, kept, known)

    async def _know_epoch(self, stream: Stream, info: dict[str, Any], kept: Durability) -> None:
        """Learn the epoch, or give the log one if it has none, or if it may have lost its end."""
        for _ in range(3):
            last = await stream.last(self._subjects.epoch)
            if last is None:
                await self._give_epoch(stream, info, 0)
                continue
            record = msgspec.json.decode(last.data, type=Epoch)
            # A server that is alone and has not written everything to its disk may have lost the end in a power cut.
            server = _alone(stream, info)
            restarted = server and record.server != server
            if record.created != info["created"] or (restarted and kept < Durability.POWER_CUT):
                _log.error("the stream was restored, or may have lost its end: the log has a new epoch")
                await self._give_epoch(stream, info, last.sequence)
                continue
            self._epoch, self._fence = record.epoch, last.sequence
            return
        raise StoreUnavailable("the log's epoch changes all the time")

    async def _give_epoch(self, stream: Stream, info: dict[str, Any], last: int) -> None:
        """Give the log a new epoch, unless another node was faster."""
        record = msgspec.json.encode(Epoch(secrets.token_hex(8), info["created"], _alone(stream, info)))
        head = b"Nats-Rollup:sub\r\nNats-Expected-Last-Subject-Sequence:%d\r\n" % last
        try:
            await stream.publish(self._subjects.epoch.encode(), record, head)
        except Declined as error:
            if error.number not in OTHER:
                raise
            await asyncio.sleep(_SOON)

    async def _leave(self) -> None:
        stream, self._stream = self._stream, None
        self._following = None
        if stream is not None:
            stream.line.abort()
            await stream.line.close()

    def _connected(self) -> Stream:
        if self._stream is None:
            raise StoreUnavailable("the log is not connected")
        return self._stream

    def _of(self, epoch: str) -> Stream:
        """The stream, if the log has this epoch as far as is known here. Raises Fenced and StoreUnavailable."""
        stream = self._connected()
        if epoch != self._epoch:
            raise Fenced
        return stream

    # Appending

    async def _admit(self, stream: Stream, placing: Placing) -> None:
        """Refuse what would make rooms that are too many."""
        most = self._retention.max_rooms
        rooms = placing.rooms
        fresh = rooms - self._rooms
        if fresh and len(self._rooms) + self._others + len(fresh) > most:
            if time.monotonic() >= self._counted:
                self._counted = time.monotonic() + _RECOUNT
                self._rooms, self._others = await reading.rooms(stream, self._subjects), 0
                fresh = rooms - self._rooms
            if fresh and len(self._rooms) + self._others + len(fresh) > most:
                error = TooManyTopics(f"the log keeps {most} topics (max_rooms)", limit="max_rooms")
                placing.refuse(fresh, error)
                return
        if len(self._rooms) > _COUNTED:
            self._others += len(self._rooms)
            self._rooms.clear()
        self._rooms |= rooms

    # Following

    async def _follow(self, stream: Stream, after: int) -> None:
        if self._following is not None:
            old, self._following = self._following, None
            old.end()
        following = Following(stream)
        await following.begin(after, [self._subjects.rooms, self._subjects.epoch])
        self._following = following

    # Reading

    async def _look(self, epoch: str, read: Callable[[reading.Reader], Awaitable[_T]]) -> _T:
        """A page, on the reading connection; if that is replaced meanwhile, on its successor."""
        stream = self._reading
        if stream is None:
            raise StoreUnavailable("the log is not connected")
        try:
            return await read(self._reader(stream, epoch))
        except StoreUnavailable:
            if stream is self._reading or self._reading is None:
                raise
            return await self._look(epoch, read)

    def _reader(self, stream: Stream, epoch: str) -> reading.Reader:
        if epoch != self._epoch:
            raise Fenced
        return reading.Reader(stream, self._subjects, self._fence, self._top, late=self._late, clock=self._clock)

    # Retention

    def _pruner(self, stream: Stream) -> Pruner:
        return Pruner(stream, self._subjects, self._retention, self._spared, self._clock)

    async def _prune_on(self) -> None:
        pruner: Pruner | None = None
        while True:
            await asyncio.sleep(Pruner.PAUSE * (0.5 + secrets.randbelow(1000) / 1000))
            stream = self._reading
            if stream is None or not stream.line.up:
                continue
            if pruner is None or pruner.stream is not stream:
                pruner = self._pruner(stream)
            try:
                await pruner.round(self._fence)
            except (StoreUnavailable, Fenced) as error:
                _log.debug("nothing is pruned now", error=str(error))
            except PartylineError as error:
                _log.error("retention failed", error=error.message)


def open_log(url: str, retention: Retention, idempotency_window: float) -> NatsLog:
    """The log that a setting names. Raises ConfigError."""
    return NatsLog(url, retention, idempotency_window=idempotency_window)


def _alone(stream: Stream, info: dict[str, Any]) -> str:
    """The process of the server that has the stream; empty where there are several servers."""
    cluster = info.get("cluster") or {}
    return "" if "name" in cluster else str(stream.line.info.get("server_id", ""))


def _head(info: dict[str, Any]) -> int:
    """The highest offset given, as far as the stream's last sequence says: the first one is that of an epoch."""
    last: int = info["state"]["last_seq"]
    return last if last > 1 else 0
