"""The server's side of strangers, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

import partyline
from partyline import chat
from partyline.chat.rooms import person
from partyline.chat.strangers import REPORTS, Strangers
from tests.server.servers import eventually, partyline_server

from .guests import Guest, guest, guests

NUMBERS = itertools.count()


@asynccontextmanager
async def strangers(count: int, *keys: str) -> AsyncIterator[tuple[Strangers, list[Guest]]]:
    """The server's side, and clients of it, the first of them with keys."""
    io = partyline.SocketIO()
    side = Strangers(io.namespace("/stranger"))
    async with partyline_server(extras=[io]) as (_, url), guests(url, "/stranger", count, *keys) as found:
        yield side, found


async def pair(one: Guest, other: Guest) -> None:
    """Two who talk while nobody else waits."""
    before = len(one.all("paired")) + 1, len(other.all("paired")) + 1
    assert await one.call("start") == {}
    assert await other.call("start") == {}
    await one.hears("paired", before[0])
    await other.hears("paired", before[1])


def saying(text: str) -> dict[str, str]:
    return {"id": f"message {next(NUMBERS):06}", "text": text}


def test_two_talk() -> None:
    """Two people who press start are paired; each gets the other's messages and typing, and nobody else does."""

    async def main() -> None:
        async with strangers(3) as (_, (one, other, third)):
            await pair(one, other)
            await third.call("start")
            assert await one.call("start") == {}  # the talk goes on
            assert await one.call("say", saying("hello")) == {}
            (said,) = await other.hears("said")
            assert said["text"] == "hello"
            assert set(said) == {"text", "time"}  # nothing that identifies anybody
            other.emit("typing", True)
            assert await one.hears("typing") == [True]
            assert await other.call("say", saying("hello back")) == {}
            await one.hears("said")
            assert third.all("said") == third.all("typing") == third.all("paired") == []
            assert one.all("paired") == other.all("paired") == [[]]

    asyncio.run(main())


def test_a_retry_is_said_once() -> None:
    """A repeated id is answered and not sent again, even when the talk is over; in the next talk it is another
    message."""

    async def main() -> None:
        async with strangers(2) as (_, (one, other)):
            await pair(one, other)
            hello = saying("hello")
            assert [await one.call("say", hello) for _ in range(20)] == [{}] * 20  # the rate ignores them, too
            await other.call("stop")
            assert await one.call("say", hello) == {}
            await pair(one, other)
            assert await one.call("say", hello) == {}
            await other.hears("said", 2)
            assert len(other.all("said")) == 2
            assert (await one.call("say", {"id": "short", "text": "x"}))["error"] == "invalid_id"
            assert (await one.call("say", "no id"))["error"] == "invalid_arguments"

    asyncio.run(main())


def test_leaving_is_told() -> None:
    """Whoever stops, presses next or leaves ends the talk, and the other one is told once."""

    async def main() -> None:
        async with strangers(2) as (side, (one, other)):
            for count, leave in enumerate(("stop", "next"), 1):
                await pair(one, other)
                assert await one.call(leave) == {}
                await other.hears("left", count)
                assert (await other.call("say", saying("still there?")))["error"] == "no_partner"
                await one.call("stop")
            await pair(one, other)
            one.leave()
            await other.hears("left", 3)
            assert len(other.all("left")) == 3
            await eventually(lambda: len(side.matching) == 1, "whoever has left is forgotten")

    asyncio.run(main())


def test_next_does_not_bring_back_the_one_just_left() -> None:
    """If somebody else waits, next pairs with them; if nobody does, it waits, and may pair with the same one again."""

    async def main() -> None:
        async with strangers(3) as (side, (one, other, third)):
            await pair(one, other)
            await third.call("start")
            await one.call("next")
            assert side.matching.partner(one.id) == third.id
            await one.call("stop")
            await third.call("stop")
            await other.call("start")
            await one.call("next")
            assert side.matching.partner(one.id) == other.id

    asyncio.run(main())


def test_block() -> None:
    """A blocked person is not met again, even if nobody else is there."""

    async def main() -> None:
        async with strangers(2) as (side, (one, other)):
            await pair(one, other)
            assert await one.call("block") == {}
            await other.hears("left")
            for who in (one, other):
                await who.call("start")
            assert len(side.matching.waiting) == 2

    asyncio.run(main())


@asynccontextmanager
async def reported(networks: int = REPORTS) -> AsyncIterator[tuple[Strangers, str, list[Guest]]]:
    """A person whose key is "bad", and three who can report them, from so many networks."""
    io = partyline.SocketIO()
    side = Strangers(io.namespace("/stranger"))
    async with partyline_server(extras=[io]) as (_, url):
        others = [await guest(url, "/stranger", source=f"127.0.0.{2 + number % networks}") for number in range(REPORTS)]
        yield side, url, others
        for other in others:
            other.leave()


async def shut_out(url: str) -> bool:
    """Whether another page of the person is refused."""
    page = await guest(url, "/stranger", key="bad")
    answer = await page.call("start")
    page.leave()
    return bool(answer.get("error") == "reported")


def test_reports_are_for_the_person() -> None:
    """A person reported from three networks is not paired any more, whichever page they open."""

    async def main() -> None:
        async with reported() as (_, url, others):
            for other in others:
                assert not await shut_out(url)
                bad = await guest(url, "/stranger", key="bad")
                await pair(bad, other)
                assert await other.call("report") == {}
                assert await other.call("report") == {}  # the same once more
                await bad.hears("left")
                bad.leave()
            assert await shut_out(url)

    asyncio.run(main())


def test_a_report_may_come_after_the_end() -> None:
    """Whoever says something bad and leaves at once is reported all the same."""

    async def main() -> None:
        async with reported() as (side, url, others):
            for other in others:
                bad = await guest(url, "/stranger", key="bad")
                await pair(bad, other)
                if other is others[0]:
                    assert await bad.call("next") == {}
                    await bad.call("stop")
                else:
                    bad.leave()
                await other.hears("left")
                assert await other.call("report") == {}
                bad.leave()
            await eventually(lambda: len(side.visitors) == REPORTS, "they are gone")
            assert await shut_out(url)

    asyncio.run(main())


def test_one_network_reports_once() -> None:
    """Several keys at one address are not several people who report: nobody can shut out others alone."""

    async def main() -> None:
        async with reported(networks=2) as (_, url, others):
            bad = await guest(url, "/stranger", key="bad")
            for other in others:
                await pair(bad, other)
                assert await other.call("report") == {}
            assert await bad.call("start") == {}
            bad.leave()

    asyncio.run(main())


def test_reports_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more reported people than are remembered, the one who was reported least recently is forgotten."""
    monkeypatch.setattr("partyline.chat.strangers.MOST_REPORTED", 2)

    async def main() -> None:
        async with reported() as (side, url, others):
            for key in ("one", "two", "one", "three"):
                bad = await guest(url, "/stranger", key=key)
                await pair(bad, others[0])
                await others[0].call("report")
                bad.leave()
                side.matching._blocked.clear()
            assert list(side.reports) == [person("one"), person("three")]

    asyncio.run(main())


def test_one_person_in_several_windows() -> None:
    """Two pages with the same key are never paired; the newest one searches, and the other is told so."""

    async def main() -> None:
        key = "the key of one"
        async with strangers(3, key, key) as (side, (one, again, other)):
            assert await one.call("start") == {}
            assert await again.call("start") == {}
            await one.hears("elsewhere")
            assert side.matching.waiting == [again.id]
            await other.call("start")
            await again.hears("paired")
            assert await one.call("start") == {}  # while the other window talks
            assert side.matching.waiting == [one.id]
            assert await again.call("start") == {}  # the talk goes on
            assert await again.call("next") == {}
            assert side.matching.partner(again.id) is None
            assert side.matching.waiting == [again.id]
            assert one.all("paired") == []
            assert again.all("elsewhere") == []

    asyncio.run(main())


def test_a_block_outlives_a_reload() -> None:
    """A blocked person is not met again by another page with the same key, whichever of the two is new."""

    async def main() -> None:
        io = partyline.SocketIO()
        side = Strangers(io.namespace("/stranger"))
        keys = "the key of one", "the key of another"
        async with partyline_server(extras=[io]) as (_, url):
            async with guests(url, "/stranger", 2, *keys) as (one, other):
                await pair(one, other)
                assert await one.call("block") == {}
            await eventually(lambda: not side.visitors, "both are gone")
            async with guests(url, "/stranger", 2, *keys) as (one, other):
                await one.call("start")
                await other.call("start")
                assert set(side.matching.waiting) == {one.id, other.id}

    asyncio.run(main())


def test_pressing_is_slowed_down() -> None:
    """Beyond the burst, starts and messages are refused with the time to wait; typing is dropped silently."""

    async def main() -> None:
        async with strangers(2) as (_, (one, other)):
            await pair(one, other)
            for call in (lambda: one.call("say", saying("x")), lambda: one.call("next")):
                answers = [await call() for _ in range(15)]
                assert answers[:9] == [{}] * 9
                assert {answer["error"] for answer in answers if answer} == {"rate_limited"}
                assert all(answer["wait"] > 0 for answer in answers if answer)

    asyncio.run(main())


def test_the_count_is_of_those_who_are_there() -> None:
    """Everybody is told how many are connected, at first and after changes, but not separately for each change."""

    async def main() -> None:
        async with strangers(20) as (_, (one, *others)):
            await eventually(lambda: one.all("online")[-1:] == [[20]], "one is told of 20")
            for other in others[:15]:
                other.leave()
            await eventually(lambda: one.all("online")[-1:] == [[5]], "one is told of 5")
            assert len(one.all("online")) <= 5

    asyncio.run(main())


def test_nothing_of_a_talk_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the database nor a log line, even at the finest level, has anything that strangers said, or who they
    are."""
    secret = "a word that nobody else says"

    async def main() -> None:
        caplog.set_level(logging.DEBUG)
        database = tmp_path / "partyline.db"
        async with (
            partyline_server(extras=chat.extras(), db=str(database)) as (server, url),
            guests(url, "/stranger", 2) as (one, other),
        ):
            await pair(one, other)
            for who in (one, other):
                assert await who.call("say", saying(secret)) == {}
            await other.call("report")
            await one.hears("left")
            one.send("42/stranger,{")  # broken: its content is not logged
            await eventually(lambda: one.closed, "a broken packet ends the connection")
            assert server.store.head == 0
            ids = [one.id, other.id]
        for file in tmp_path.iterdir():
            assert secret.encode() not in file.read_bytes(), file
        told = caplog.text
        assert secret not in told
        assert not [who for who in ids if who in told]

    asyncio.run(main())


@pytest.mark.check
def test_two_thousand_press_start_and_next() -> None:
    """When 2,000 clients press start, next and stop at random and some leave, nobody is paired with two, nobody waits
    while somebody waits whom they may meet, those that left are forgotten, and each pair hears each other and nobody
    else.
    """
    random = Random(5)
    people, presses = 2_000, 6

    async def main() -> None:
        async with strangers(people) as (side, clients):
            by_id = {one.id: one for one in clients}
            matching = side.matching

            def in_order() -> None:
                waiting = matching.waiting
                assert not any(matching.may_meet(one, other) for one, other in itertools.combinations(waiting, 2))
                for one in by_id:
                    other = matching.partner(one)
                    assert other is None or (other != one and matching.partner(other) == one)

            async def live(one: Guest) -> None:
                await one.call("start")
                for _ in range(presses):
                    await one.call(random.choices(("next", "stop", "start"), (6, 1, 1))[0])
                if random.random() < 0.1:
                    one.leave()
                    del by_id[one.id]
                else:
                    await one.call("start")

            living = asyncio.gather(*(live(one) for one in clients))
            while not living.done():
                in_order()
                await asyncio.sleep(0.05)
            await living
            await eventually(lambda: len(matching) == len(by_id), "those who left are forgotten")
            in_order()
            assert len(matching.waiting) <= 1

            for one in by_id.values():
                if matching.partner(one.id) is not None:
                    assert await one.call("say", saying(one.id)) == {}
            for one in by_id.values():
                heard = [said["text"] for (said,) in one.all("said")]
                other = matching.partner(one.id)
                assert heard == ([] if other is None else [other])
            assert sum(len(one.all("paired")) for one in clients) > people * 3

    asyncio.run(main())


def test_a_new_run_says_so() -> None:
    """Each start of the server gives its run a new name, so that a page knows that its talk ended with the last run."""

    async def main() -> None:
        runs = []
        for _ in range(2):
            async with partyline_server(extras=chat.extras()) as (_, url):
                one = await guest(url, "/stranger")
                runs.append((await one.hears("hello"))[0]["run"])
                one.leave()
        assert len(set(runs)) == 2

    asyncio.run(main())
