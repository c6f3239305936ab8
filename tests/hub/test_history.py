"""Where a subscription begins, and how it catches up with the log: no gap, no duplicate, in order."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from partyline.errors import StoreUnavailable
from partyline.hub import history
from partyline.hub.history import PAGE, Start, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.interfaces import Committed, Outcome, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page, Position
from partyline.stores.memory import MemoryStore, Retention
from tests.simulator.hub import SimulatedStore

from .members import Member, Taking

CATS = View(frozenset({"cats"}))


def kept(count: int, **retention: Any) -> tuple[Hub, MemoryStore]:
    """A hub whose log has this many messages in `cats`; their data are their offsets."""
    store = MemoryStore(Retention(**retention))
    hub = Hub(store, Counters())
    say(hub, count)
    return hub, store


def say(hub: Hub, count: int = 1, room: str = "cats", **rest: Any) -> None:
    for _ in range(count):
        number = hub.counters.published + 1
        hub.publish(Draft(room, b"%d" % number, f"m{number}", **rest))


class Reader:
    """A member that catches up; it keeps what it was given, by `deliver` or live, in order."""

    def __init__(self, hub: Hub, store: Any, view: View = CATS) -> None:
        self.member = Member(view.user)
        self.hub, self.store, self.view = hub, store, view
        self.attached = 0
        self.gaps: list[Start] = []
        self.before: Callable[[Message], Awaitable[None]] | None = None
        hub.add(self.member)

    async def deliver(self, message: Message) -> None:
        if self.before is not None:
            await self.before(message)
        self.member.send(message.draft.data)

    def began(self, start: Start) -> None:
        self.gaps.append(start)

    def gap(self, start: Start) -> None:
        self.gaps.append(start)

    def attach(self) -> None:
        self.attached += 1
        for room in self.view.rooms:
            self.hub.join(self.member, room)
        for pattern in self.view.patterns:
            self.hub.join_pattern(self.member, pattern)

    async def catch_up(self, after: int) -> None:
        await catch_up(self.hub, self.store, self.view, after, self)

    @property
    def got(self) -> list[int]:
        return [int(data) for data in self.member.got]


class Log:
    """A MemoryStore whose reads do something first, and take a turn of the loop."""

    def __init__(self, store: MemoryStore, before: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self.before = before
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, view: View, after: int, limit: int) -> Page:
        self.reads += 1
        self.before()
        page = await self._store.read(view, after, limit)
        await asyncio.sleep(0)
        return page


class LateStore(MemoryStore):
    """A log whose commits are fanned out late and whose pages take time, like those of a disk."""

    def __init__(self, retention: Retention | None = None) -> None:
        super().__init__(retention)
        self.late: list[Outcome] = []
        self._fan_out: Committed | None = None
        self.pauses = random.Random(0)

    def start(self, committed: Committed) -> None:
        self._fan_out = committed
        super().start(self.late.extend)

    def release(self, count: int | None = None) -> None:
        """Fan out the oldest `count` of what is committed."""
        batch, self.late[:] = self.late[:count], self.late[len(self.late[:count]) :]
        assert self._fan_out is not None
        self._fan_out(batch)

    async def read(self, view: View, after: int, limit: int) -> Page:
        await pause(self.pauses)
        page = await super().read(view, after, min(limit, 3))
        await pause(self.pauses)
        return page


async def pause(chance: random.Random) -> None:
    for _ in range(chance.randrange(3)):
        await asyncio.sleep(0)


# find_start


@pytest.mark.parametrize("view", [CATS, View(patterns=("*",)), View(frozenset({"cats"}), user="ann")])
def test_where_a_subscription_begins(view: View) -> None:
    """A kept position is recovered. A pruned one begins at the oldest kept, a foreign or too high one at the head; both
    are told the oldest."""
    hub, store = kept(10, max_messages=4)

    def at(offset: int) -> Position:
        return Position(store.epoch, offset)

    head, oldest = at(10), at(6)
    for after, expected in (
        (None, Start(oldest, recovered=True)),
        (at(6), Start(at(6), recovered=True)),
        (at(9), Start(at(9), recovered=True)),
        (at(10), Start(head, recovered=True)),
        (at(5), Start(oldest, recovered=False, oldest=oldest)),
        (at(0), Start(oldest, recovered=False, oldest=oldest)),
        (at(11), Start(head, recovered=False, oldest=oldest)),
        (at(2**53 - 1), Start(head, recovered=False, oldest=oldest)),
        (Position("f" * 16, 8), Start(head, recovered=False, oldest=oldest)),
        (Position("f" * 16, 0), Start(head, recovered=False, oldest=oldest)),
    ):
        assert asyncio.run(find_start(hub, store, view, after)) == expected, after


def test_an_empty_log_begins_at_nothing() -> None:
    """In an empty log the first position is both the oldest and the head."""
    hub, store = kept(0)
    zero = Position(store.epoch, 0)
    for after in (None, zero):
        assert asyncio.run(find_start(hub, store, CATS, after)) == Start(zero, recovered=True)


def test_a_position_ahead_of_the_log_is_logged_as_a_rollback(caplog: pytest.LogCaptureFixture) -> None:
    """A position ahead of the log means a rollback, which is logged; an unknown epoch or a pruned position is not."""
    hub, store = kept(3, max_messages=1)
    logger = logging.getLogger("partyline.hub")
    logger.addHandler(caplog.handler)
    try:
        for after in (Position("f" * 16, 99), Position(store.epoch, 0), Position(store.epoch, 3)):
            asyncio.run(find_start(hub, store, CATS, after))
        assert caplog.records == []
        asyncio.run(find_start(hub, store, CATS, Position(store.epoch, 4)))
    finally:
        logger.removeHandler(caplog.handler)
    caplog.records[:] = caplog.records[:1]  # two handlers may have recorded it
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "partyline.hub")
    assert vars(record)["position"] == f"{store.epoch}-4"


def test_a_log_that_cannot_be_read_begins_nowhere() -> None:
    """If the log cannot be read, the caller gets the error, and nothing is reported as recovered."""
    hub, store = kept(3)

    def fail() -> None:
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        asyncio.run(find_start(hub, Log(store, fail), CATS, None))  # type: ignore[arg-type]


def test_nobody_begins_ahead_of_what_is_fanned_out() -> None:
    """After a position that is committed but not fanned out yet, nothing is delivered again, live or from the log."""

    async def main() -> None:
        store = SimulatedStore(random.Random(1))
        hub = Hub(store, Counters())
        say(hub)
        store._write()
        store._commit()
        seen = Position(store.epoch, store.head)  # as a page of history shows it
        reader = Reader(hub, store)
        start = await find_start(hub, store, CATS, seen)
        await reader.catch_up(start.position.offset)
        store._hand_out()
        assert not start.recovered or reader.got == []

    asyncio.run(main())


# catch_up


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_all_pages_in_order(count: int) -> None:
    """Everything after the position is delivered once, in order, over any number of pages; then the reader is live."""
    hub, store = kept(count)
    reader = Reader(hub, store)
    asyncio.run(reader.catch_up(0))
    say(hub)
    assert reader.got == list(range(1, count + 2))
    assert reader.attached == 1


def test_a_view_is_delivered_and_nothing_else() -> None:
    """Other rooms, messages for others and expired ones are skipped, and the reader is live after them."""
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    hub = Hub(store, Counters())
    say(hub)  # 1
    say(hub, room="dogs")
    say(hub, user="ann")  # 3
    say(hub, user="eve")
    say(hub, ttl=5.0)
    say(hub)  # 6
    now = 5.0
    for view, expected in (
        (CATS, [1, 6]),
        (View(frozenset({"cats"}), user="ann"), [1, 3, 6]),
        (View(patterns=(">",), user="eve"), [1, 2, 4, 6]),
        (View(frozenset({"birds"})), []),
    ):
        reader = Reader(hub, store, view)
        asyncio.run(reader.catch_up(0))
        assert reader.got == expected
        assert reader.attached == 1


def test_hostile_13_between_the_last_page_and_live_nothing_is_lost() -> None:
    """Messages published at any moment while pages are read and delivered arrive once, in order."""

    async def main(read: int, delivered: int) -> None:
        hub, memory = kept(2 * PAGE)
        log = Log(memory, lambda: say(hub) if log.reads <= read else None)
        reader = Reader(hub, log)

        async def before(message: Message) -> None:
            if len(reader.got) % 50 == 0 and len(reader.got) < delivered:
                say(hub)
            await asyncio.sleep(0)

        reader.before = before
        await reader.catch_up(0)
        say(hub)
        assert reader.got == list(range(1, memory.head + 1))
        assert hub.fanned_out == memory.head

    for read in (0, 1, 2, 5):
        for delivered in (0, 100, 10_000):
            asyncio.run(main(read, delivered))


def test_no_interleaving_makes_a_hole_or_a_double() -> None:
    """In hundreds of runs with publishers, late commits, slow pages and slow consumers in random order, each
    subscriber, wherever it resumes, gets every message of its view once and in order (hostile 12, 13)."""

    async def once(seed: int) -> None:
        chance = random.Random(seed)
        store = LateStore()
        store.pauses = chance
        hub = Hub(store, Counters())
        total = 30

        async def publisher() -> None:
            for _ in range(total):
                say(hub, room=chance.choice(("cats", "cats", "dogs")))
                await pause(chance)

        async def disk() -> None:
            while hub.fanned_out < total:
                store.release(chance.randrange(4))
                await asyncio.sleep(0)

        async def subscriber() -> tuple[int, list[int], Member]:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            after = chance.randrange(hub.fanned_out + 1)
            member, got = Member(), []

            async def deliver(message: Message) -> None:
                await pause(chance)
                assert message.offset is not None
                got.append(message.offset)

            await catch_up(hub, store, CATS, after, Taking(deliver, lambda: hub.join(member, "cats")))
            assert member.got == []
            return after, got, member

        async with asyncio.TaskGroup() as group:
            group.create_task(publisher())
            group.create_task(disk())
            subscribers = [group.create_task(subscriber()) for _ in range(4)]
        everything = (await MemoryStore.read(store, CATS, 0, 1_000)).messages
        for task in subscribers:
            after, got, member = task.result()
            offsets = [message.offset for message in everything if (message.offset or 0) > after]
            live = [int(data) for data in member.got]  # a message's number is its offset
            assert [*got, *live] == offsets, f"seed {seed}"

    async def run() -> None:
        for seed in range(500):
            await once(seed)

    asyncio.run(run())


def test_what_is_not_fanned_out_yet_is_left_to_come_live() -> None:
    """Catching up stops at the fanned-out head; what is committed beyond it arrives once, when it is fanned out."""

    async def main() -> None:
        store = SimulatedStore(random.Random(3))
        hub = Hub(store, Counters())
        say(hub)
        store._write()
        store._commit()
        store._hand_out()
        say(hub)
        store._write()
        store._commit()
        assert (hub.fanned_out, store.head) == (1, 2)
        reader = Reader(hub, store)
        await reader.catch_up(0)
        assert (reader.got, reader.attached) == ([1], 1)
        store._hand_out()
        assert reader.got == [1, 2]

    asyncio.run(main())


def test_catching_up_waits_for_its_reader() -> None:
    """A message is delivered when the one before it was taken, and the next page is read when the reader has room."""

    async def main() -> None:
        hub, memory = kept(PAGE + 1)
        log = Log(memory)
        reader = Reader(hub, log)
        room = asyncio.Semaphore(0)

        async def before(message: Message) -> None:
            await room.acquire()

        reader.before = before
        task = asyncio.create_task(reader.catch_up(0))
        for taken in range(PAGE + 1):
            for _ in range(3):
                await asyncio.sleep(0)
            assert (len(reader.got), log.reads) == (taken, 1 if taken < PAGE else 2)
            room.release()
        await task
        assert reader.attached == 1

    asyncio.run(main())


def test_hostile_14_retention_that_overtakes_a_reader_is_a_gap() -> None:
    """A reader whose next messages are pruned meanwhile is told and goes on from the oldest kept: the rest of the log
    arrives in order, then live messages."""

    async def main() -> None:
        hub, memory = kept(300, max_messages=300)
        log = Log(memory, lambda: say(hub, 290) if log.reads == 2 else None)
        reader = Reader(hub, log)
        await reader.catch_up(0)
        oldest = Position(memory.epoch, 290)
        assert reader.gaps == [Start(oldest, recovered=False, oldest=oldest)]
        say(hub)
        assert reader.got == [*range(1, PAGE + 1), *range(291, 592)]
        assert reader.attached == 1

    asyncio.run(main())


def test_a_reader_that_kept_up_sees_no_gap() -> None:
    """Pruning what a reader already has is not a gap."""

    async def main() -> None:
        hub, memory = kept(300, max_messages=300)
        log = Log(memory, lambda: say(hub, PAGE) if log.reads == 2 else None)
        reader = Reader(hub, log)
        await reader.catch_up(0)
        assert reader.got == list(range(1, 300 + PAGE + 1))

    asyncio.run(main())


@pytest.mark.parametrize("failing_read", [1, 2])
def test_an_error_or_a_cancellation_attaches_nobody(failing_read: int) -> None:
    """If the log fails or the reader leaves, what was delivered is in order and no room is joined."""

    async def main() -> None:
        hub, memory = kept(PAGE + 10)

        def fail() -> None:
            if log.reads == failing_read:
                raise StoreUnavailable("gone")

        log = Log(memory, fail)
        reader = Reader(hub, log)
        with pytest.raises(StoreUnavailable):
            await reader.catch_up(0)
        assert reader.got == list(range(1, (failing_read - 1) * PAGE + 1))
        assert reader.attached == 0

        stuck, at = asyncio.Event(), asyncio.Event()

        async def before(message: Message) -> None:
            if message.offset == failing_read * 100:
                at.set()
                await stuck.wait()

        log = Log(memory)
        reader = Reader(hub, log)
        reader.before = before
        task = asyncio.create_task(reader.catch_up(0))
        await at.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reader.got == list(range(1, failing_read * 100))
        assert reader.attached == 0
        assert not hub.rooms.names()

    asyncio.run(main())


def test_who_is_at_the_head_reads_nothing() -> None:
    """A reader that has everything is attached without touching the log."""
    hub, memory = kept(5)
    log = Log(memory)
    reader = Reader(hub, log)
    asyncio.run(reader.catch_up(5))
    assert (log.reads, reader.attached, reader.got) == (0, 1, [])


def test_a_page_is_bounded() -> None:
    """Pages hold at most 256 messages, so that catching up costs a bounded amount of memory."""
    assert history.PAGE <= 256
