"""Clients that go from one process to another: workers, and servers with a log in Redis or PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.nats.server import nats_server
from tests.adapters.postgres.server import postgres_server
from tests.adapters.servers import redis_server
from tests.process import Server, serving
from tests.server.peers import connected
from tests.socketio.clients import Client, on
from tests.socketio.test_recovery import Session, back, ticket

HERE = str(Path(__file__).parents[2])
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


class Place:
    """Servers, or workers, that are one to their clients."""

    def __init__(self, *servers: Server) -> None:
        self.urls = [server.url for server in servers]
        self._alone = {server.pid: server.url for server in servers}  # those that are a process each
        self._turn = 0

    def url(self) -> str:
        """The address of one, in turns."""
        self._turn += 1
        return self.urls[self._turn % len(self.urls)]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        if pid in self._alone:
            self.urls.remove(self._alone[pid])


def served(*arguments: str, folder: Path, name: str) -> Any:
    """`partyline serve` of the application."""
    return serving("tests.e2e.recovering:io", *arguments, db=folder / f"{name}.db", env={"PYTHONPATH": HERE})


@contextlib.asynccontextmanager
async def machines(folder: Path, log: str) -> AsyncIterator[Place]:
    async with (
        served("--log", log, folder=folder, name="a") as one,
        served("--log", log, folder=folder, name="b") as two,
    ):
        yield Place(one, two)


@contextlib.asynccontextmanager
async def placed(kind: str, folder: Path) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        if kind == "workers":
            place = Place(await stack.enter_async_context(served("--workers", "2", folder=folder, name="w")))
        elif kind == "redis":
            redis = await stack.enter_async_context(redis_server(folder, *ALWAYS))
            place = await stack.enter_async_context(machines(folder, redis.url))
        elif kind == "nats":
            nats = await stack.enter_async_context(nats_server(folder / "nats", {"sync_interval": "always"}))
            place = await stack.enter_async_context(machines(folder, f"{nats.url}?monitor={nats.monitor}"))
        else:
            server = await stack.enter_async_context(postgres_server())
            place = await stack.enter_async_context(machines(folder, server.url()))
        yield place


@contextlib.asynccontextmanager
async def joined(place: Place) -> AsyncIterator[tuple[Client, int]]:
    """A client in the room `lobby`, and the process that it has reached."""
    async with connected(place.url()) as peer:
        client = await on(peer)
        await client.enter()
        yield client, (await client.ask("join", "lobby"))[0]


@contextlib.asynccontextmanager
async def two(place: Place) -> AsyncIterator[tuple[tuple[Client, int], tuple[Client, int]]]:
    """Two such clients in different processes."""
    async with joined(place) as one, contextlib.AsyncExitStack() as stack:
        while True:
            other = await stack.enter_async_context(joined(place))
            if other[1] != one[1]:
                yield one, other
                return


async def said(client: Client, count: int) -> list[list[object]]:
    return [await client.event() for _ in range(count)]


@pytest.mark.parametrize("kind", ["workers", "redis", "postgres", "nats"])
def test_a_session_goes_on_in_any_process(kind: str, tmp_path: Path) -> None:
    """A client comes back to another process, whether its own is killed with SIGKILL or still has the connection: it
    has its id, rooms and data, and gets what was said meanwhile, each event once and in order."""

    async def main() -> None:
        async with placed(kind, tmp_path) as place:
            await goes_over(place)
            await outlives(place)

    asyncio.run(main())


async def goes_over(place: Place) -> None:
    """A client comes back again and again, until it reaches the other process."""
    async with two(place) as ((here, pid), (there, _)), contextlib.AsyncExitStack() as stack:
        own, where = Session(here), pid
        while where == pid:
            client, missed = await came_back(place, own, stack)
            assert missed == []
            assert client.sid == own.sid
            where = (await client.ask("whoami"))[0][0]
            await there.say('2["say","lobby",1]')
            own.heard(await client.event())
            await said(there, 1)


async def outlives(place: Place) -> None:
    """The process of a client is killed while things are said to it."""
    async with two(place) as ((here, pid), (there, _)):
        own = Session(here)
        await there.say('2["say","lobby",0]')
        first = (await said(here, 1))[0]
        own.heard(first)
        assert (await said(there, 1))[0] == first, "the same event, with the same offset"
        await here.sync()
        for number in (1, 2):
            await there.say(f'2["say","lobby",{number}]')
        await said(there, 2)
        place.kill(pid)
        for number in (3, 4):
            await there.say(f'2["say","lobby",{number}]')
        await said(there, 2)
        async with contextlib.AsyncExitStack() as stack:
            again, missed = await came_back(place, own, stack)
            assert missed == [["said", number] for number in (1, 2, 3, 4)]
            assert again.sid == own.sid
            where, recovered, rooms, data = (await again.ask("whoami"))[0]
            assert where != pid
            assert (recovered, rooms, data) == (True, sorted(("lobby", own.sid)), {"room": "lobby"})
            await there.say('2["say","lobby",5]')
            assert (await again.event())[:2] == ["said", 5]
            await again.sync()


async def came_back(place: Place, own: Session, stack: contextlib.AsyncExitStack) -> tuple[Client, list[object]]:
    """A connection of the same client to whatever process is there, and what it had missed."""
    while True:
        try:
            client = await on(await stack.enter_async_context(connected(place.url())))
        except (OSError, AssertionError):  # the port of a worker that is being replaced
            continue
        return client, await back(client, ticket(own))
