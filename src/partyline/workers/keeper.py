"""The keeper: one process that has the log, its numbers and the tables, for all workers of a machine.

It numbers what they append, in the order in which it comes, gives each of them the log from wherever that one is, and
carries what they say to each other. It knows nothing of HTTP or of topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, assert_never

import msgspec

from partyline import log
from partyline.errors import PartylineError, StoreUnavailable
from partyline.interfaces import Fenced, Found, News, Outcome, Refused, Standing, Store, Stored, Stretch
from partyline.metrics import Counters
from partyline.models import Draft, Message
from partyline.wire import keeper as wire
from partyline.wire.keeper import Placed, decode_worker, encode
from partyline.workers.line import Line
from partyline.workers.recent import Recent
from partyline.workers.shelf import Shelf

_log = log.get("workers")

_PAGE: Final = 1024 * 1024  # bytes of a page of a table
_UNREAD: Final = 16 * 1024 * 1024  # bytes that wait for a worker until it misses what others say on the bus


class Kept(Store, Protocol):
    """A log of this process, which can be read over all rooms."""

    async def stretch(self, after: int, limit: int) -> Stretch:
        """As `SharedLog.tail`, without waiting."""

    async def renew(self) -> None:
        """Take a new epoch."""


class Keeper:
    """Serves workers on a Unix socket."""

    def __init__(self, store: Kept, shelves: Mapping[str, Shelf], counters: Counters) -> None:
        self.store = store
        self.shelves = shelves
        self.counters = counters
        self.recent = Recent(store.head)
        self.workers: set[Worker] = set()
        self._asked: deque[_Asked] = deque()  # appended and not answered, in this order
        self._tails: list[_Tail] = []
        self._news: list[asyncio.Future[None]] = []
        self._server: asyncio.Server | None = None
        store.start(self._committed)

    async def listen(self, path: str) -> None:
        """Listen for workers, in place of an earlier keeper that has gone. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Worker(self).line, path)

    async def left(self) -> None:
        """Return when no worker is there any more."""
        while self.workers:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Let workers go; what they have appended is committed."""
        if self._server is not None:
            self._server.close()
        await self.store.close()
        for worker in tuple(self.workers):
            worker.line.close()

    # The log

    def append(self, worker: Worker, number: int, groups: Sequence[Sequence[Draft]], known: _Known) -> None:
        """Append what a worker asks for, except what is `known` to be in the log."""
        asked = _Asked(worker, number)
        self._asked.append(asked)
        calls: list[Sequence[Draft]] = []
        for group in groups:
            there = [known.get(draft.identity) for draft in group]
            whole = not any(there)  # a group is in the log whole, or not at all
            if whole:
                calls.append(group)
            for draft, message in zip(group, there, strict=True):
                if message is None:
                    asked.open.append(len(asked.places))
                    if not whole:
                        calls.append((draft,))
                asked.places.append(None if message is None else Placed.of(Stored(draft, message, duplicate=True)))
        for call in calls:
            self.store.append(*call)
        self._answer()

    async def append_again(self, worker: Worker, ask: wire.Append, since: int) -> None:
        """The same for an append of unknown outcome: what is in the log by now is not appended twice.

        Ids that were drawn at random are not remembered by the log, so they are looked for.
        """
        while any(asked.worker.node == worker.node for asked in self._asked):
            await self.news()  # until what it asked on an earlier line is answered
        identities = {draft.identity for group in ask.groups for draft in group}
        known: dict[tuple[str, str, str], Message] = {}
        at = since
        while at < self.recent.since:
            stretch = await self.store.stretch(at, 512)
            if not stretch.messages:
                break
            known.update((one.draft.identity, one) for one in stretch.messages if one.draft.identity in identities)
            at = stretch.messages[-1].offset or at
        known.update((one.draft.identity, one) for one in self.recent.find(at, identities))
        self.check(ask.epoch)
        self.append(worker, ask.number, ask.groups, known)

    def tail(self, worker: Worker, ask: wire.Tail) -> None:
        """Answer when there is something, or the time is over."""
        tail = _Tail(self, worker, ask)
        if not tail.answer(late=False):
            tail.wait()
            self._tails.append(tail)

    async def at(self, offset: int) -> Message | None:
        """The message at an offset, if there is one."""
        if offset > self.recent.since or offset <= 0:
            return self.recent.at(offset)
        stretch = await self.store.stretch(offset - 1, 1)
        return next((one for one in stretch.messages if one.offset == offset), None)

    async def renew(self, epoch: str) -> None:
        if epoch == self.store.epoch:
            await self.store.renew()
            self._ring()

    def check(self, epoch: str) -> None:
        """Raises Fenced."""
        if epoch != self.store.epoch:
            raise Fenced

    def forget(self, worker: Worker) -> None:
        """A line has gone."""
        self.workers.discard(worker)
        content = encode(wire.Left(worker.node))
        for other in self.workers:
            other.line.send(content)
        for tail in self._tails:
            if tail.worker is worker:
                tail.cancel()
        self._tails = [tail for tail in self._tails if tail.worker is not worker]

    async def news(self) -> None:
        """Return when something was committed or refused."""
        waiting = asyncio.get_running_loop().create_future()
        self._news.append(waiting)
        await waiting

    def _committed(self, batch: Sequence[Outcome | News]) -> None:
        for outcome in batch:
            if isinstance(outcome, Stored) and not outcome.duplicate:
                self.recent.add(outcome.message)
            if not isinstance(outcome, Found) and isinstance(outcome, Stored | Refused):
                asked = next(one for one in self._asked if one.open)
                asked.places[asked.open.popleft()] = Placed.of(outcome)
        self._answer()
        self._ring(late=self.store.refusal is not None)  # workers hear that it refuses

    def _answer(self) -> None:
        while self._asked and not self._asked[0].open:
            asked = self._asked.popleft()
            asked.worker.answer(asked.number, asked.places)

    def _ring(self, *, late: bool = False) -> None:
        self._tails = [tail for tail in self._tails if not tail.answer(late=late)]
        news, self._news = self._news, []
        for waiting in news:
            if not waiting.done():
                waiting.set_result(None)

    # The bus

    def say(self, sender: Worker, subject: str, message: bytes) -> None:
        """Send it to all others that listen. It is lost, and counted, for one that does not read."""
        content = b""
        for worker in self.workers:
            if worker is not sender and subject in worker.subjects:
                content = content or encode(wire.Heard(subject, message))
                worker.hear(content)

    # The tables

    async def put(self, table: str, key: str, value: bytes, life: float) -> None:
        putting = self.shelves[table].put(key, value, life)
        self._changed(table, key, value)
        await putting

    async def take(self, table: str, key: str) -> bytes | None:
        if self.shelves[table].get(key) is not None:
            self._changed(table, key, None)
        return await self.shelves[table].take(key)

    def _changed(self, table: str, key: str, value: bytes | None) -> None:
        content = encode(wire.Changed(table, key, value))
        for worker in self.workers:
            if table in worker.watched:
                if worker.line.unsent > _UNREAD:
                    worker.line.abort()  # when it is back, it asks for everything again
                else:
                    worker.line.send(content)


_Known = Mapping[tuple[str, str, str], Message]


class _Asked:
    """An append on its way. `open` are the places that the log has not filled."""

    __slots__ = ("number", "open", "places", "worker")

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker = worker
        self.number = number
        self.places: list[Placed | None] = []
        self.open: deque[int] = deque()


class _Tail:
    """A worker that waits for the log to go on."""

    __slots__ = ("_ask", "_keeper", "_timer", "worker")

    def __init__(self, keeper: Keeper, worker: Worker, ask: wire.Tail) -> None:
        self._keeper = keeper
        self.worker = worker
        self._ask = ask
        self._timer: asyncio.TimerHandle | None = None

    def answer(self, *, late: bool) -> bool:
        """Answer if there is something to say, or it is `late`."""
        ask, recent = self._ask, self._keeper.recent
        if ask.epoch != self._keeper.store.epoch:
            self.worker.fail(ask.number, Fenced())
        elif ask.after < recent.since:
            self.worker.work(ask.number, self._read())
        elif recent.head > ask.after or late:
            refusal = self._keeper.store.refusal
            why = "" if refusal is None else refusal.message
            self.worker.answer(ask.number, wire.Piece(recent.after(ask.after, ask.limit), 0, why))
        else:
            return False
        self.cancel()
        return True

    async def _read(self) -> Stretch:
        stretch = await self._keeper.store.stretch(self._ask.after, self._ask.limit)
        self._keeper.check(self._ask.epoch)
        return stretch

    def wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._ask.wait, self._late)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _late(self) -> None:
        self._keeper._tails.remove(self)  # noqa: SLF001
        self.answer(late=True)


class Worker:
    """A worker's line."""

    def __init__(self, keeper: Keeper) -> None:
        self.line = Line(self._received, self._lost)
        self.node = ""
        self.subjects: set[str] = set()
        self.watched: set[str] = set()
        self._keeper = keeper
        self._listed: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, number: int, value: object) -> None:
        """Answer a question."""
        if self in self._keeper.workers:
            self.line.send(encode(wire.Answer(number, msgspec.Raw(encode(value)))))

    def fail(self, number: int, error: PartylineError | Fenced) -> None:
        """Answer a question with an error."""
        if self in self._keeper.workers:
            failure = None if isinstance(error, Fenced) else wire.Failure.of(error)
            self.line.send(encode(wire.Failed(number, failure)))

    def work(self, number: int, work: Coroutine[Any, Any, object]) -> None:
        """Answer a question with the result of this coroutine."""
        task = asyncio.get_running_loop().create_task(self._answer(number, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hear(self, content: bytes) -> None:
        """Send something that may be lost."""
        if self.line.unsent > _UNREAD:
            self._keeper.counters.unsent += 1
        else:
            self.line.send(content)

    async def _answer(self, number: int, work: Coroutine[Any, Any, object]) -> None:
        try:
            value = await work
        except (PartylineError, Fenced) as error:
            self.fail(number, error)
        except Exception:
            _log.exception("a worker's question could not be answered")
            self.fail(number, StoreUnavailable("the keeper failed; its log says why"))
        else:
            if value is not _ANSWERED:
                self.answer(number, value)

    def _lost(self) -> None:
        self._keeper.forget(self)
        for task in self._tasks:
            task.cancel()

    def _received(self, content: bytes) -> None:
        said = decode_worker(content)
        keeper = self._keeper
        match said:
            case wire.Say():
                keeper.say(self, said.subject, said.message)
            case wire.Append():
                self._append(said)
            case wire.Tail():
                keeper.tail(self, said)
            case wire.Hello():
                self.node = said.node
                keeper.workers.add(self)
            case wire.Listen():
                self.subjects.add(said.subject)
            case wire.Unlisten():
                self.subjects.discard(said.subject)
            case wire.Ready():
                self.answer(said.number, None)
            case wire.Count():
                self.answer(said.number, (keeper.counters.totals(), keeper.counters.limits))
            case wire.Head():
                self.answer(said.number, keeper.recent.head)
            case wire.Get():
                self.answer(said.number, keeper.shelves[said.table].get(said.key))
            case wire.Watch():
                self.watched.add(said.table)
                self.answer(said.number, None)
            case wire.List():
                self.answer(said.number, self._page(keeper.shelves[said.table], said.after))
            case wire.Put():
                self.work(said.number, keeper.put(said.table, said.key, said.value, said.life))
            case wire.Take():
                self.work(said.number, keeper.take(said.table, said.key))
            case wire.Connect():
                self.work(said.number, self._connect(said.offset))
            case wire.Renew():
                self.work(said.number, keeper.renew(said.epoch))
            case wire.Read() | wire.Newest():
                self.work(said.number, self._read(said))
            case _:
                assert_never(said)

    def _page(self, shelf: Shelf, after: str | None) -> list[tuple[str, bytes]]:
        """A page of the keys that were there when the first page was asked for, with their current values."""
        if after is None:
            self._listed = shelf.keys()
        at = 0 if after is None else bisect_right(self._listed, after)
        page: list[tuple[str, bytes]] = []
        size = 0
        while at < len(self._listed) and size < _PAGE:
            key = self._listed[at]
            at += 1
            if (value := shelf.get(key)) is not None:
                page.append((key, value))
                size += len(key) + len(value)
        if not page:
            self._listed = []
        return page

    def _append(self, said: wire.Append) -> None:
        if said.since is not None:
            self.work(said.number, self._append_again(said, said.since))
        elif said.epoch != self._keeper.store.epoch:
            self.fail(said.number, Fenced())
        else:
            self._keeper.append(self, said.number, said.groups, {})

    async def _append_again(self, said: wire.Append, since: int) -> object:
        await self._keeper.append_again(self, said, since)
        return _ANSWERED

    async def _connect(self, offset: int) -> Standing:
        last = await self._keeper.at(offset)
        store = self._keeper.store
        identity = None if last is None else last.draft.identity
        return Standing(store.epoch, self._keeper.recent.head, store.durability, identity)

    async def _read(self, said: wire.Read | wire.Newest) -> object:
        self._keeper.check(said.epoch)
        if isinstance(said, wire.Read):
            return await self._keeper.store.read(said.view, said.after, said.limit)
        return await self._keeper.store.newest(said.room, said.before, said.limit)


_ANSWERED: Final = object()  # the answer is on its way already
