"""Catching up: everything behind a position once, in order, and then live, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

import pytest

from partyline.hub.history import Gap, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.interfaces import Committed, Outcome, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page, Position
from partyline.stores.memory import MemoryStore, Retention

from .members import Member

CATS = View(frozenset(("cats",)))


class LateStore(MemoryStore):
    """A log whose commits are fanned out late, and whose pages take their time: as a disk's."""

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


def publish(hub: Hub, *numbers: int, room: str = "cats", user: str | None = None) -> None:
    for number in numbers:
        hub.publish(Draft(room, b"%d" % number, f"id{number}", user))


async def caught_up(hub: Hub, store: MemoryStore, after: int, view: View = CATS) -> list[int]:
    """The offsets that catching up delivers."""
    got: list[int] = []

    async def deliver(message: Message) -> None:
        assert message.offset is not None
        got.append(message.offset)

    await catch_up(hub, store, view, after, deliver=deliver, attach=lambda: got.append(0))
    assert got.pop() == 0, "attaching comes last, and once"
    return got


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_everything_behind_the_position_is_delivered(after: int) -> None:
    """Catching up delivers each message behind the position, once and in order, and then attaches."""

    async def run() -> None:
        store = MemoryStore()
        hub = Hub(store, Counters())
        publish(hub, *range(5))
        assert await caught_up(hub, store, after) == list(range(after + 1, 6))

    asyncio.run(run())


def test_only_the_views_messages_are_delivered() -> None:
    """What is of other rooms, or for other users, is skipped."""

    async def run() -> None:
        store = MemoryStore()
        hub = Hub(store, Counters())
        publish(hub, 1)
        publish(hub, 2, room="dogs")
        publish(hub, 3, user="1")
        publish(hub, 4, user="2")
        publish(hub, 5, room="news.eu")
        assert await caught_up(hub, store, 0) == [1]
        assert await caught_up(hub, store, 0, View(frozenset(("cats",)), ("news.*",), "1")) == [1, 3, 5]

    asyncio.run(run())


def test_what_is_not_fanned_out_yet_comes_live() -> None:
    """A message that is committed and not fanned out yet is not read from the log: it comes live, once."""

    async def run() -> None:
        store = LateStore()
        hub = Hub(store, Counters())
        publish(hub, 1, 2, 3)
        store.release(2)
        member = Member()
        got: list[int | None] = []

        async def deliver(message: Message) -> None:
            got.append(message.offset)

        await catch_up(hub, store, CATS, 0, deliver=deliver, attach=lambda: hub.join(member, "cats"))
        assert (got, member.got) == ([1, 2], [])
        store.release()
        assert (got, member.got) == ([1, 2], [b"3"])

    asyncio.run(run())


def test_no_interleaving_makes_a_hole_or_a_double() -> None:
    """Hundreds of times: publishers, late commits and slow pages and consumers in random order, and each subscriber,
    wherever it resumes, gets every message of its view once and in order (hostile 12, 13)."""

    async def once(seed: int) -> None:
        chance = random.Random(seed)
        store = LateStore()
        store.pauses = chance
        hub = Hub(store, Counters())
        total = 30

        async def publisher() -> None:
            for number in range(1, total + 1):
                publish(hub, number, room=chance.choice(("cats", "cats", "dogs")))
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

            await catch_up(hub, store, CATS, after, deliver=deliver, attach=lambda: hub.join(member, "cats"))
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


def test_retention_that_overtakes_is_a_gap() -> None:
    """When what comes next is pruned while a subscriber catches up, it is told so with the oldest that is left, and
    does not go on as if nothing were missing."""

    async def run() -> None:
        store = MemoryStore(Retention(max_messages=3))
        hub = Hub(store, Counters())
        publish(hub, *range(10))
        for after in (0, 2, 6):
            with pytest.raises(Gap) as caught:
                await caught_up(hub, store, after)
            assert caught.value.oldest == 8
        assert await caught_up(hub, store, 7) == [8, 9, 10]

    asyncio.run(run())


def test_cancelled_is_not_attached() -> None:
    """A subscriber that goes away while it catches up is in no room afterwards."""

    async def run() -> None:
        store = MemoryStore()
        hub = Hub(store, Counters())
        publish(hub, 1, 2)
        attached: list[bool] = []
        stuck = asyncio.Event()

        async def deliver(message: Message) -> None:
            stuck.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(catch_up(hub, store, CATS, 0, deliver=deliver, attach=lambda: attached.append(True)))
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert attached == []

    asyncio.run(run())


def starts(store: MemoryStore, hub: Hub, positions: Sequence[Position | None], view: View = CATS) -> list[object]:
    async def run() -> list[object]:
        found = [await find_start(hub, store, view, position) for position in positions]
        return [(start.position.offset, start.recovered, start.oldest and start.oldest.offset) for start in found]

    return asyncio.run(run())


def test_a_position_that_is_kept_is_recovered() -> None:
    """From the oldest kept position to the head, a subscriber begins where it says; none stands for the oldest."""
    store = MemoryStore(Retention(max_messages=3))
    hub = Hub(store, Counters())
    publish(hub, *range(5))
    positions = [Position(store.epoch, offset) for offset in (2, 3, 5)]
    assert starts(store, hub, [*positions, None]) == [
        (2, True, None),
        (3, True, None),
        (5, True, None),
        (2, True, None),
    ]


def test_what_is_not_kept_is_not_recovered() -> None:
    """A pruned position, one of another epoch, and one ahead of the log begin at the head and are told the oldest
    position still kept (guarantee 3)."""
    store = MemoryStore(Retention(max_messages=3))
    hub = Hub(store, Counters())
    publish(hub, *range(5))
    positions = [Position(store.epoch, 1), Position(store.epoch, 0), Position("0" * 16, 3), Position(store.epoch, 6)]
    assert starts(store, hub, positions) == [(5, False, 2)] * 4


def test_a_rollback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A subscriber ahead of the log means that the log was rolled back: the log says so; another epoch does not."""
    store = MemoryStore()
    hub = Hub(store, Counters())
    logger = logging.getLogger("partyline.hub")
    logger.addHandler(caplog.handler)
    try:
        starts(store, hub, [Position("0" * 16, 9)])
        assert caplog.records == []
        starts(store, hub, [Position(store.epoch, 9)])
    finally:
        logger.removeHandler(caplog.handler)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert all("rolled back" in record.getMessage() for record in caplog.records)
