"""Hundreds and thousands of subscribers that leave and come back at once (hostile 12, 15, 16)."""

from __future__ import annotations

import asyncio
import bisect
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.process import Server, serving

from .clients import LONG, TRIALS, Http, raise_descriptors, run, seeded
from .crowd import TOPIC, Crowd, publish_at, publish_fast

pytestmark = pytest.mark.alone

SETTINGS = ("--set", "max_messages=1000000")


@asynccontextmanager
async def crowd_at(db: Path, chance: random.Random, size: int) -> AsyncIterator[tuple[Server, Crowd]]:
    """A server with this many members."""
    assert raise_descriptors() > size + 100, "too few descriptors (ulimit -n)"
    async with serving(*SETTINGS, db=db) as server:
        crowd = Crowd(server.port, server.facts["log"].partition("epoch ")[2][:16], chance, size)
        async with crowd.present():
            yield server, crowd
        if server.process.returncode is None:
            assert await server.end() == 0


def tell(name: str, crowd: Crowd, **figures: object) -> None:
    """Print the figures of a storm, and check the ones that matter."""
    figures |= {"members": len(crowd.members), **crowd.tally}
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in figures.items())}")
    assert crowd.tally["gaps"] == crowd.tally["duplicates"] == 0, crowd.tally


def test_everybody_resumes_at_once(tmp_path: Path) -> None:
    """500 subscribers resume at the same moment during publishing at full speed, without a gap or a duplicate (hostile
    12)."""
    run(resumed_at_once(tmp_path / "partyline.db"))


async def resumed_at_once(db: Path) -> None:
    _, chance = seeded()
    rounds, away, during = (10, 1_000, 500) if TRIALS else (1, 250, 250)
    took: list[float] = []
    last = 0
    async with crowd_at(db, chance, 500) as (server, crowd):
        for _ in range(rounds):
            for member in crowd.members:
                member.leave()
            await publish_fast(away, server.port)
            began = time.monotonic()
            publishing = asyncio.create_task(publish_fast(during, server.port))
            crowd.expect(crowd.members)
            for member in crowd.members:
                member.come()
            await crowd.all_in()
            last = await publishing
            await crowd.arrive(last)
            took.append(time.monotonic() - began)
    assert crowd.tally["attempts that failed"] == 0
    assert crowd.tally["received"] == last * len(crowd.members)
    tell("resumed at once", crowd, rounds=rounds, messages=last, longest_until_all_had_all=f"{max(took):.1f} s")


def test_a_third_drops_again_and_again(tmp_path: Path) -> None:
    """When every 5 s another third of the subscribers drops for 2 s, everything is delivered to all of them (hostile
    15)."""
    run(drops(tmp_path / "partyline.db"))


async def drops(db: Path) -> None:
    _, chance = seeded()
    size, seconds, rate = (1_000, 60.0, 20.0) if TRIALS else (300, 7.5, 50.0)
    async with crowd_at(db, chance, size) as (server, crowd):
        publishing = asyncio.create_task(publish_at(rate, seconds, server.port))
        dropped = 0
        while not publishing.done():
            third = chance.sample(crowd.members, size // 3)
            dropped += len(third)
            for member in third:
                member.leave()
            await asyncio.wait([publishing], timeout=2.0)
            for member in third:
                member.come()
            await asyncio.wait([publishing], timeout=3.0)
        last = await publishing
        await crowd.arrive(last)
    assert crowd.tally["attempts that failed"] == 0
    assert crowd.tally["received"] == last * size
    tell("drops", crowd, dropped=dropped, messages=last, seconds=seconds)


def test_a_restart_under_a_crowd(tmp_path: Path) -> None:
    """When a server with thousands of subscribers is stopped, and then killed, all come back, spread by their jitter,
    and nothing is lost (hostile 16)."""
    run(restarts(tmp_path / "partyline.db"))


async def restarts(db: Path) -> None:
    _, chance = seeded()
    size, streams = (5_000, 200) if TRIALS else (700, 50)
    busiest: list[float] = []
    took: list[float] = []
    last = 0
    async with AsyncExitStack() as stack:
        server, crowd = await stack.enter_async_context(crowd_at(db, chance, size))
        for number in (signal.SIGTERM, signal.SIGKILL):
            last = await publish_at(50, 0.2, crowd.port)
            await crowd.arrive(last)
            waits = [asyncio.create_task(told_when(crowd.port)) for _ in range(streams)]
            await streaming(crowd.port, streams + sum(member.name == TOPIC for member in crowd.members))
            crowd.expect(crowd.members)
            crowd.codes.clear()
            await server.end(number)
            began = time.monotonic()
            server = await stack.enter_async_context(serving(*SETTINGS, db=db, port=crowd.port))
            publishing = asyncio.create_task(publish_at(50, 1.0, crowd.port))
            await crowd.all_in()
            took.append(time.monotonic() - began)
            busiest.append(densest(crowd.entries, 0.1) / size)
            last = await publishing
            await crowd.arrive(last)
            retries = await asyncio.gather(*waits)
            if number == signal.SIGTERM:
                assert crowd.codes == {1012: size}
                # The server chooses these: browsers come back when it says.
                assert all(retry is not None and 1_000 <= retry <= 5_000 for retry in retries)
                assert len(set(retries)) > streams * 0.8
        assert await server.end() == 0
    assert crowd.tally["received"] == last * size
    shares = [f"{share:.0%}" for share in busiest]
    seconds = [f"{one:.1f}" for one in took]
    tell("restarts", crowd, messages=last, seconds_until_all_were_back=seconds, in_the_busiest_100_ms=shares)
    assert max(busiest) < 0.7, "they came back in one wave"


async def told_when(port: int) -> int | None:
    """The time for which a stream of events is told to stay away, in milliseconds; None if it is just cut."""
    async with Http.open(port) as http:
        try:
            async for _ in http.events(TOPIC, "latest"):
                pass
        except ConnectionError:
            pass
        return http.retry


async def streaming(port: int, count: int) -> None:
    """Return when this many streams are open."""
    async with Http.open(port) as http:
        async with asyncio.timeout(LONG):
            while True:
                _, answer = await http.call("GET", "/v1/topics")
                here = {one["topic"]: one["connections"] for one in answer["topics"]}
                if here.get(TOPIC, 0) >= count:
                    return


def densest(times: list[float], width: float) -> int:
    """The greatest number of these within one window of that width."""
    times = sorted(times)
    return max(bisect.bisect_right(times, begin + width) - number for number, begin in enumerate(times))
