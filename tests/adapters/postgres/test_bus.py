"""The bus in PostgreSQL keeps every promise of a bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from partyline.adapters.postgres.bus import PostgresBus
from partyline.interfaces import Bus
from partyline.testing import BUS_CHECKS
from partyline.testing.bus import run_bus_check
from tests.adapters.postgres.server import PostgresServer, postgres_server
from tests.server.servers import eventually

pytestmark = pytest.mark.check


@pytest.mark.parametrize("promise", BUS_CHECKS)
def test_three_nodes_keep(fresh: Callable[[], str], promise: str) -> None:
    """Each promise about a bus is kept."""

    @contextlib.asynccontextmanager
    async def make(count: int) -> AsyncIterator[Sequence[Bus]]:
        address = fresh()
        yield [PostgresBus(address) for _ in range(count)]

    asyncio.run(run_bus_check(BUS_CHECKS[promise], make))


async def started(address: str, heard: list[bytes]) -> PostgresBus:
    bus = PostgresBus(address)
    bus.listen("s", lambda node, data: heard.append(data))
    await bus.start(lambda node, data: None)
    return bus


def test_a_postgresql_that_goes_and_comes_back() -> None:
    """What is said while PostgreSQL is away, killed or hanging is lost and counted; when it is back, so is the bus. One
    that is down at the start is waited for."""

    async def main() -> None:
        async with postgres_server() as server:
            heard: list[bytes] = []
            address = server.url()
            here, there = await started(address, []), await started(address, heard)

            async def awake() -> None:
                server.go_on()

            for stop, go_on in ((server.kill, server.start), (server.hang, awake)):
                here.publish("s", b"before")
                await eventually(lambda: heard[-1:] == [b"before"], "it is heard")
                stop()
                await eventually(lambda: not here.connected and not there.connected, "both know that it is gone")
                lost = here.counters.unsent
                here.publish("s", b"meanwhile")
                assert here.counters.unsent == lost + 1
                await go_on()
                await eventually(lambda: here.connected and there.connected, "it heals")
                here.publish("s", b"after")
                await eventually(lambda: heard[-1:] == [b"after"], "it goes on")
            assert b"meanwhile" not in heard
            assert there.lost() == 2
            server.kill()
            late = await started(address, [])
            assert not late.connected
            await server.start()
            await eventually(lambda: late.connected, "it finds it")
            await asyncio.gather(*(bus.close() for bus in (here, there, late)))

    asyncio.run(main())


def test_a_bell_that_is_not_heard_is_not_needed(fresh: Callable[[], str]) -> None:
    """A node whose NOTIFY is not heard looks for what is said by itself, and oftener once that is sure."""

    async def main() -> None:
        address = fresh()
        heard: list[bytes] = []
        here, deaf = await started(address, []), await started(address, heard)
        async with deaf._hearing.use() as connection:
            await connection.execute("UNLISTEN *")
        deaf._bell._patience = 1.0
        for number in range(6):
            here.publish("s", b"%d" % number)
            await eventually(lambda number=number: len(heard) > number, "it is heard")  # type: ignore[misc]
        assert deaf._bell._patience < 0.1
        await asyncio.gather(here.close(), deaf.close())

    asyncio.run(main())


def test_what_was_said_is_forgotten(server: PostgresServer, fresh: Callable[[], str]) -> None:
    """What was said a minute ago goes when something else is said."""

    async def main() -> None:
        address = fresh()
        schema = address.rpartition("=")[2]
        heard: list[bytes] = []
        here, there = await started(address, []), await started(address, heard)
        for number in range(10):
            here.publish("s", b"%d" % number)
        await eventually(lambda: len(heard) == 10, "they are heard")
        await server.ask(f'UPDATE "{schema}".said SET at = at - 61')
        for number in range(5):
            here.publish("s", b"%d" % number)
        await eventually(lambda: len(heard) == 15, "they are heard, too")
        assert await server.ask(f'SELECT count(*) FROM "{schema}".said') == 5
        await asyncio.gather(here.close(), there.close())

    asyncio.run(main())
