"""A log with three replicas, in a cluster of three NATS servers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from partyline.adapters.nats.bus import NatsBus
from partyline.adapters.nats.log import NatsLog
from partyline.adapters.nats.tables import NatsTables
from partyline.errors import StoreUnavailable
from partyline.interfaces import Durability, Store, Stored, Tables, View
from partyline.models import Draft
from partyline.stores.shared import SharedStore
from partyline.testing import SHARED_CHECKS, TABLE_CHECKS
from partyline.testing.bench import Bench
from partyline.testing.shared import run_shared_check
from partyline.testing.tables import run_tables_check
from tests.adapters.nats.server import NatsServer, nats_cluster, together
from tests.server.servers import eventually

pytestmark = pytest.mark.check


async def store(url: str, *, clock: Callable[[], float] | None = None, patience: float = 8.0) -> SharedStore:
    """A store on it, as soon as the cluster has leaders."""
    options = {} if clock is None else {"clock": clock}
    until = asyncio.get_running_loop().time() + 20
    while True:
        try:
            return await SharedStore.open(NatsLog(url, **options), patience=patience)
        except StoreUnavailable:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.05)


def test_three_replicas(tmp_path: Path) -> None:
    """Each promise about two nodes is kept on three replicas, where each node is at another server, and a message
    survives the loss of a machine."""

    async def test() -> None:
        async with nats_cluster(tmp_path) as servers:
            for check in SHARED_CHECKS.values():
                prefix = secrets.token_hex(4)

                @contextlib.asynccontextmanager
                async def make(clock: Callable[[], float], prefix: str = prefix) -> AsyncIterator[tuple[Store, Store]]:
                    here, there = [
                        await store(f"{server.url}?prefix={prefix}&replicas=3", clock=clock) for server in servers[1:]
                    ]
                    assert here.durability is Durability.MACHINE
                    yield here, there
                    await asyncio.gather(here.close(), there.close())

                await run_shared_check(check, make)

    asyncio.run(test())


async def leader(servers: Sequence[NatsServer]) -> NatsServer:
    """The server that leads the stream."""
    for server in servers:
        if server.process is not None:
            name = (await server.ask("STREAM.INFO.partyline_log"))["cluster"]["leader"]
            return next(one for one in servers if one.name == name)
    raise AssertionError("no server is running")


def test_a_leader_that_is_killed(tmp_path: Path) -> None:
    """When the leader of the stream is killed under load, no acknowledged message is missing, none is there twice, all
    nodes hand out the same in one order, and the epoch stays; the same when it hangs."""

    async def test() -> None:
        async with nats_cluster(tmp_path) as servers:
            benches = [Bench(name) for name in ("a.", "b.", "c.")]
            for bench in benches:
                bench.start(await store(together(servers) + "?replicas=3"))
            epoch = benches[0].store.epoch
            sent = 0
            done = False

            async def publish(bench: Bench) -> None:
                nonlocal sent
                while not done:
                    for _ in range(5):
                        draft = bench.draft(f"room{sent % 7}")
                        bench.store.append(Draft(draft.room, draft.data, draft.id, chosen_id=bool(sent % 3)))
                        sent += 1
                    await asyncio.sleep(0.02)

            async with asyncio.TaskGroup() as group:
                for bench in benches:
                    group.create_task(publish(bench))
                for how in ("killed", "hung"):
                    await asyncio.sleep(0.3)
                    server = await leader(servers)
                    if how == "killed":
                        await server.kill()
                    else:
                        server.hang()
                    reached = [bench.reached for bench in benches]
                    await eventually(
                        lambda reached=reached: all(  # type: ignore[misc]
                            bench.reached > before for bench, before in zip(benches, reached, strict=True)
                        ),
                        "they publish again",
                        within=30,
                    )
                    if how == "killed":
                        await server.start()
                        await eventually_whole(server)
                    else:
                        server.go_on()
                done = True
            await eventually(lambda: sum(len(one.answers) for one in benches) == sent, "all is answered", within=30)
            accepted = [one for bench in benches for one in bench.answers if isinstance(one, Stored)]
            messages = await benches[0].walk(View(patterns=(">",)), 1_000)
            assert len({message.draft.identity for message in messages}) == len(messages)
            assert {(one.message.offset, one.message.draft.id) for one in accepted} <= {
                (message.offset, message.draft.id) for message in messages
            }
            last = messages[-1].offset
            await eventually(lambda: all(bench.reached == last for bench in benches), "all have all", within=10)
            for bench in benches:
                assert bench.fanned_out == [(one.offset, one.draft.id) for one in messages]
                assert bench.store.epoch == epoch
            await asyncio.gather(*(bench.store.close() for bench in benches))

    asyncio.run(test())


async def eventually_whole(server: NatsServer) -> None:
    """Return when the stream has all its replicas."""
    until = asyncio.get_running_loop().time() + 20
    while True:
        cluster = (await server.ask("STREAM.INFO.partyline_log")).get("cluster", {})
        if cluster.get("leader") and all(one["current"] for one in cluster.get("replicas", [])):
            return
        assert asyncio.get_running_loop().time() < until, cluster
        await asyncio.sleep(0.05)


def test_tables_with_three_replicas(tmp_path: Path) -> None:
    """Values are put, got and taken once on three replicas, where each node is at another server."""

    async def test() -> None:
        async with nats_cluster(tmp_path) as servers:
            await (await store(f"{servers[0].url}?replicas=3"))._shared.close()  # it has leaders by now
            for check in [check for promise, check in TABLE_CHECKS.items() if "watcher" not in promise]:
                prefix = secrets.token_hex(4)

                @contextlib.asynccontextmanager
                async def make(
                    clock: Callable[[], float], prefix: str = prefix
                ) -> AsyncIterator[tuple[Tables, Tables]]:
                    here, there = [
                        NatsTables(f"{server.url}?prefix={prefix}&replicas=3", clock=clock) for server in servers[1:]
                    ]
                    await asyncio.gather(here.start(), there.start())
                    yield here, there
                    await asyncio.gather(here.close(), there.close())

                await run_tables_check(check, make)

    asyncio.run(test())


def test_a_bus_across_servers(tmp_path: Path) -> None:
    """Nodes at different servers of a cluster hear each other, and one whose server is killed goes to another one."""

    async def test() -> None:
        async with nats_cluster(tmp_path) as servers:
            here = NatsBus(servers[0].url)
            there = NatsBus(together(servers[1:]))
            heard: list[bytes] = []
            for bus in (here, there):
                await bus.start(lambda sender, data: heard.append(data))
            there.listen("s", lambda sender, data: heard.append(data))
            for number in (1, 2):
                await there.ready()
                while len(heard) < number:  # the servers tell each other of it soon
                    here.publish("s", b"1")
                    await asyncio.sleep(0.05)
                if number == 1:
                    await servers[1].kill()
                    await eventually(lambda: not there.connected, "it notices")
                    heard = heard[:1]
            await asyncio.gather(here.close(), there.close())

    asyncio.run(test())
