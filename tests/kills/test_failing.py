"""What happens when a part of several servers fails, with the real engines: the rows that have no test elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from partyline import Settings, SocketIO, running
from partyline.adapters.nats.log import NatsLog
from partyline.adapters.postgres.log import PostgresLog
from partyline.adapters.redis_log import RedisLog
from partyline.interfaces import Overrun
from partyline.models import Draft
from partyline.stores.retention import Retention
from partyline.stores.shared import SharedStore
from partyline.testing.bench import Bench
from tests.adapters.nats.server import nats_server
from tests.adapters.postgres.server import postgres_server
from tests.adapters.servers import Forwarder, redis_server
from tests.calls import call, reached
from tests.kills.deployments import ALWAYS, DEPLOYMENTS, NODES, Engine, Nats, Node, Postgres, Redis
from tests.relay.v1.test_websocket import Line, line, offset
from tests.server.servers import eventually

pytestmark = pytest.mark.check

ENGINES = ("nats", "postgres", "redis")


@contextlib.asynccontextmanager
async def engine(name: str, folder: Path) -> AsyncIterator[Engine]:
    if name == "postgres":
        async with postgres_server() as server:
            yield Postgres(server)
    elif name == "nats":
        async with nats_server(folder, {"sync_interval": "always"}) as nats:
            yield Nats(nats)
    else:
        async with redis_server(folder, *ALWAYS) as redis:
            yield Redis(redis)


@pytest.mark.parametrize("name", ["keeper", *ENGINES])
def test_a_node_that_hangs(name: str, tmp_path: Path) -> None:
    """While one of three servers stands still the others go on, and it counts as gone; when it moves again, its
    subscribers get what they missed, each message once and in order."""

    async def main() -> None:
        async with DEPLOYMENTS[name](tmp_path) as deployment, contextlib.AsyncExitStack() as stack:
            urls = list(deployment.urls) * (12 // len(deployment.urls))
            clients: list[Line] = [await stack.enter_async_context(line(url)) for url in urls]
            for client in clients:
                await client.ask("subscribe", topic="cats")
            first = deployment.urls[0]
            if name != "keeper":
                await _nodes(first, NODES)
            deployment.signal_node(1, signal.SIGSTOP)
            answering = [client for client in clients if await _answers(client)]
            assert 0 < len(answering) < len(clients)
            for number in range(30):
                answer = await answering[number % len(answering)].ask("publish", topic="cats", data=number)
                assert answer["type"] == "reply", answer
            if name != "keeper":
                await _nodes(first, NODES - 1)
            deployment.signal_node(1, signal.SIGCONT)
            for client in clients:
                frames: list[Any] = []
                while len(frames) < 30:
                    if (frame := await client.next())["type"] == "message":  # or the answer to the ping
                        frames.append(frame)
                assert [frame["data"] for frame in frames] == list(range(30))
                places = [offset(frame["position"]) for frame in frames]
                assert places == sorted(places)
            if name != "keeper":
                await _nodes(first, NODES)

    asyncio.run(main())


async def _answers(client: Line) -> bool:
    try:
        async with asyncio.timeout(2.0):
            await client.ask("ping")
    except TimeoutError:
        return False
    return True


async def _nodes(url: str, count: int) -> None:
    """Wait until a server knows so many, itself among them."""
    async with asyncio.timeout(20):
        while (await call(f"{url}/health"))[1].get("nodes") != count:
            await asyncio.sleep(0.1)


APP = """
from partyline import SocketIO

io = SocketIO()
"""


@pytest.mark.parametrize("name", ENGINES)
def test_a_question_does_not_wait_for_the_dead(name: str, tmp_path: Path) -> None:
    """A question that a killed server owes an answer ends within six seconds, with the answers of the others."""

    async def main() -> None:
        (tmp_path / "app.py").write_text(APP)
        async with engine(name, tmp_path) as made:
            bus = ("--bus", made.url().partition("?")[0], "--set", "ephemeral_topics=>")
            io = SocketIO(nodes_timeout=60.0)
            settings = Settings(port=0, db=":memory:", bus=made.url().partition("?")[0], ephemeral_topics=(">",))
            other = Node("app:io", "--db", ":memory:", *bus, cwd=tmp_path)
            async with running(settings, extras=[io]):
                await other.start()
                await eventually(lambda: len(io._others()) == 1, "they know each other")
                await other.kill()
                began = time.monotonic()
                assert await io.fetch_sockets() == []
                assert time.monotonic() - began < 6.5
                assert io._others() == []

    asyncio.run(main())


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_not_kept_goes_on_without_the_engine(name: str, tmp_path: Path) -> None:
    """While the engine is away, what is not kept still reaches this server's own subscribers, what would have gone to
    others is counted, and connections stay; the same connections go on when it is back."""

    async def main() -> None:
        async with engine(name, tmp_path) as made:
            settings = Settings(port=0, db=":memory:", log=made.url())
            async with running(settings) as (partyline, url), line(url) as client:
                await client.ask("subscribe", topic="cats")
                await made.kill()
                assert (await client.ask("publish", topic="cats", data="kept"))["code"] == "store_unavailable"
                await eventually(lambda: not _connected(partyline), "the bus knows it")
                reply = await client.ask("publish", topic="cats", data="passing", durable=False)
                assert reply["position"] is None
                assert await client.data(1) == ["passing"]
                assert partyline.counters.unsent > 0
                assert (await call(f"{url}/health"))[0] == 503
                await made.start()
                await reached(url)
                await client.ask("publish", topic="cats", data="again", message_id="again")
                while "again" not in await client.data(1):
                    pass

    asyncio.run(main())


def _connected(partyline: Any) -> bool:
    connected: bool = partyline.hub.bus.connected
    return connected


@pytest.mark.parametrize("name", ENGINES)
def test_a_node_that_is_slower_than_retention(name: str, tmp_path: Path) -> None:
    """A server that was cut off while retention took what it had not read is told from where on there is something, and
    goes on from there."""

    async def main() -> None:
        ahead = 0.0

        def clock() -> float:
            return time.time() + ahead

        async with contextlib.AsyncExitStack() as stack:
            made = await stack.enter_async_context(engine(name, tmp_path))
            port = urlsplit(made.url()).port
            assert port is not None
            way = await stack.enter_async_context(Forwarder().open(port))
            through = made.url().replace(f":{port}", f":{urlsplit(way.url).port}")
            few = Retention(max_messages=1)
            log: Any
            if name == "postgres":
                log = PostgresLog(made.url(), few, clock=clock)
                reader: Any = PostgresLog(through)
            elif name == "nats":
                log, reader = NatsLog(made.url(), few, clock=clock), NatsLog(through)
            else:
                log = RedisLog(made.url(), few, clock=clock)
                reader = RedisLog(through)
            epoch = (await log.connect(0)).epoch
            bench = Bench()
            bench.start(await SharedStore.open(reader, patience=0.5))
            await bench.keep(bench.draft())
            way.stalled = True
            for number in range(20):
                await log.append(epoch, [[Draft("cats", b"1", f"gone{number}")]])
            ahead = 120.0
            if name == "postgres":
                while await log._pruner.round():
                    pass
            else:
                await log.prune(epoch)
            await log.append(epoch, [[Draft("cats", b"2", "last")]])
            way.stalled = False
            way.cut()
            await eventually(lambda: bench.fanned_out[-1][1] == "last", "it catches up")
            (told,) = [one for one in bench.outcomes if isinstance(one, Overrun)]
            (first, _), *_, (last, _) = bench.fanned_out
            assert first + 1 < told.oldest <= last
            assert len(bench.fanned_out) < 22
            await asyncio.gather(bench.store.close(), log.close())

    asyncio.run(main())
