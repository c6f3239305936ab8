"""Resuming from a log in a real file across a restart: what is delivered, what is skipped, what is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from partyline import Settings, running
from partyline.hub.history import Start, catch_up
from partyline.hub.hub import Hub, RoomRules
from partyline.interfaces import Store, View
from partyline.models import Draft, Message
from partyline.stores.retention import Bounds, Retention
from tests.calls import call
from tests.hub.members import Taking

from .logs import LONG, hubbed, published

PRICES = RoomRules(conflate=("prices.*",))


def price(room: str, key: str | None, value: int, **rest: Any) -> Draft:
    return Draft(f"prices.{room}", b"%d" % value, f"{room}.{key}.{value}", key=key, **rest)


async def resumed(hub: Hub, store: Store, view: View, after: int = 0) -> list[Message]:
    """What a subscriber is given before it is live."""
    found: list[Message] = []

    async def deliver(message: Message) -> None:
        found.append(message)

    await catch_up(hub, store, view, after, Taking(deliver))
    return found


def offsets(messages: list[Message]) -> list[int]:
    return [message.offset or 0 for message in messages]


@pytest.mark.parametrize("count", [10, 255, 256, 257, 2_000])
def test_the_newest_of_each_key(path: Path, count: int) -> None:
    """A subscriber that resumes a conflating room gets the newest message of each key, once, in order, however long the
    log is, also after a restart; the log itself has all of them (guarantee 5)."""

    async def run() -> None:
        async with hubbed(path, rules=PRICES) as (hub, _):
            kept = await _publish_at_once(hub, [price("a", ("x", "y", None)[n % 3], n) for n in range(count)])
        async with hubbed(path, rules=PRICES) as (hub, store):
            for view in (View(frozenset(("prices.a",))), View(patterns=(">",))):
                assert offsets(await resumed(hub, store, view)) == kept[-3:]
                assert offsets(await resumed(hub, store, view, kept[-3])) == kept[-2:]
            page = await store.read(View(frozenset(("prices.a",))), 0, 10_000)
            assert offsets(list(page.messages)) == kept

    asyncio.run(run())


def test_other_rooms_keep_all(path: Path) -> None:
    """In a view of several rooms only the conflating ones leave messages out, each separately, and the order is that of
    the log (guarantee 2)."""

    async def run() -> None:
        async with hubbed(path, rules=PRICES) as (hub, store):
            drafts = []
            for number in range(300):
                drafts += [price("a", "k", number), price("b", "k", number), Draft("cats", b"1", f"c{number}")]
            kept = await _publish_at_once(hub, drafts)
            found = await resumed(hub, store, View(patterns=(">",)))
            assert offsets(found) == sorted(offsets(found))
            assert [one.offset for one in found if one.room == "cats"] == kept[2::3]
            for place, room in enumerate(("prices.a", "prices.b")):
                mine = [one.offset for one in found if one.room == room]
                assert mine[-1] == kept[-3 + place], "the newest comes in any case"
                assert len(mine) <= 5, "at most five of hundreds"

    asyncio.run(run())


def test_many_keys_are_bounded(path: Path) -> None:
    """With more keys than may wait, the newest of each is still delivered in order, and no more wait than allowed."""

    async def run() -> None:
        async with hubbed(path, rules=PRICES) as (hub, store):
            keys = [f"k{number % 700}" for number in range(2_100)]
            kept = await _publish_at_once(hub, [price("a", key, n) for n, key in enumerate(keys)])
            found = await resumed(hub, store, View(frozenset(("prices.a",))))
            assert offsets(found) == sorted(set(offsets(found)))
            assert offsets(found)[-700:] == kept[-700:]

    asyncio.run(run())


def test_what_comes_while_the_newest_are_delivered(path: Path) -> None:
    """A message published while the last waiting ones are delivered is delivered, too, before the subscriber is live
    (hostile 13)."""

    async def run() -> None:
        async with hubbed(path, rules=PRICES) as (hub, store):
            await _publish_at_once(hub, [price("a", "x", 1), price("a", "y", 2), price("a", "x", 3)])
            found: list[int] = []

            async def deliver(message: Message) -> None:
                found.append(message.offset or 0)
                if len(found) <= 3:
                    await published(hub, price("a", "x", 10 + len(found)))

            live_from: list[int] = []
            view = View(frozenset(("prices.a",)))
            await catch_up(hub, store, view, 0, Taking(deliver, lambda: live_from.append(hub.fanned_out)))
            assert live_from == [6]
            assert found == sorted(found)
            assert found[:2] == [2, 3]
            assert found[-1] == 6

    asyncio.run(run())


def test_a_gap_behind_what_waits(path: Path) -> None:
    """When retention overtakes a reader, the messages that waited are delivered before it is told of the gap, and the
    rest of the log after that."""

    async def run() -> None:
        retention = Retention(rules=(("prices.a", Bounds(max_messages=10)),))
        async with hubbed(path, retention, rules=PRICES) as (hub, store):
            await _publish_at_once(hub, [price("a", None, 1), price("a", "x", 2)])

            class Slow:
                """A store that prunes between two pages."""

                epoch = store.epoch

                async def read(self, view: View, after: int, limit: int) -> Any:
                    page = await store.read(view, after, 1)
                    if after == 0:
                        await _publish_at_once(hub, [price("a", "z", 100 + n) for n in range(50)])
                        async with asyncio.timeout(LONG):
                            while store._pruner.slices == 0:
                                await store._database.flush()
                    return page

            found: list[int] = []

            async def deliver(message: Message) -> None:
                found.append(message.offset or 0)

            view = View(frozenset(("prices.a",)))
            told: list[int] = []

            class Reader(Taking):
                def gap(self, start: Start) -> None:
                    super().gap(start)
                    told.append(len(found))

            reader = Reader(deliver)
            await catch_up(hub, Slow(), view, 0, reader)  # type: ignore[arg-type]
            (gap,) = reader.gaps
            assert told == [1]
            assert gap.position.offset > 2
            assert found == [1, hub.fanned_out]

    asyncio.run(run())


def test_what_has_expired_is_passed_over(path: Path) -> None:
    """Across a restart and by the log's own clock, an expired message is not delivered, and that is not a gap; a
    message superseded by an expired one is delivered (guarantee 2)."""

    async def run() -> None:
        now = [1_700_000_000.0]
        clocks: dict[str, Any] = {"clock": lambda: now[0], "monotonic": lambda: now[0]}
        view = View(frozenset(("cats", "prices.a")))
        async with hubbed(path, rules=PRICES, **clocks) as (hub, _):
            kept = await published(
                hub,
                Draft("cats", b"1", "short", ttl=10.0),
                Draft("cats", b"2", "long", ttl=100.0),
                price("a", "x", 3),
                price("a", "x", 4, ttl=10.0),
                Draft("cats", b"5", "last", ttl=10.0),
            )
            assert kept == [1, 2, 3, 4, 5]
        now[0] += 9.0
        async with hubbed(path, rules=PRICES, **clocks) as (hub, store):
            assert offsets(await resumed(hub, store, view)) == [1, 2, 4, 5]
            now[0] += 2.0
            assert offsets(await resumed(hub, store, view)) == [2, 3]
            assert (await store.read(view, 0, 1)).oldest == 1
        now[0] += 100.0
        async with hubbed(path, rules=PRICES, **clocks) as (hub, store):
            assert offsets(await resumed(hub, store, view)) == [3]

    asyncio.run(run())


@pytest.mark.parametrize("memory", [False, True])
def test_a_client_resumes_a_conflating_topic(path: Path, memory: bool) -> None:
    """Over v1, on either log, the subscriber is told that it recovered, and gets the newest message of each key."""

    async def run() -> None:
        db = ":memory:" if memory else str(path)
        async with running(Settings(port=0, db=db, conflate_topics=("prices.>",))) as (_, url):
            positions = []
            for number in range(9):
                body = {"data": number, "key": f"k{number % 3}"}
                status, answer = await call(f"{url}/v1/topics/prices.a/messages", "POST", body)
                assert status == 200
                positions.append(answer["position"])
            async with asyncio.timeout(LONG), connect(f"{url.replace('http', 'ws')}/v1/ws") as socket:
                await socket.send(json.dumps({"type": "subscribe", "topic": "prices.>", "after": positions[0]}))
                frames = [json.loads(await socket.recv()) for _ in range(5)]
                assert [frame["type"] for frame in frames] == ["welcome", "reply", "message", "message", "message"]
                assert frames[1]["recovered"]
                assert [frame["data"] for frame in frames[2:]] == [6, 7, 8]
                assert [frame["position"] for frame in frames[2:]] == positions[6:]

    asyncio.run(run())


async def _publish_at_once(hub: Hub, drafts: list[Draft]) -> list[int]:
    """Publish all at once; their offsets."""
    before = hub.fanned_out
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    hub.publish_all([*((draft, None) for draft in drafts[:-1]), (drafts[-1], answer.set_result)])
    await asyncio.wait_for(answer, LONG)
    assert hub.fanned_out == before + len(drafts)
    return list(range(before + 1, hub.fanned_out + 1))
