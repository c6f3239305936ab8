"""Two servers on a log in PostgreSQL, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from partyline import running
from tests.adapters.postgres.server import postgres_server
from tests.calls import call
from tests.cli.test_doctor import findings, free_port
from tests.relay.v1.test_websocket import line, offset, run, settings

pytestmark = pytest.mark.check

Fresh = Callable[[], str]


def test_everybody_has_everything_in_one_order(fresh: Fresh) -> None:
    """Subscribers on both servers get the messages of both in the order of their positions, and a client that goes over
    to the other server goes on where it was."""

    async def main() -> None:
        ours = settings(log=fresh())
        async with running(ours) as (_, first), running(ours) as (_, second):
            async with line(first) as here, line(second) as there:
                for client in (here, there):
                    await client.ask("subscribe", topic="cats")

                async def publish(url: str, name: str) -> None:
                    for number in range(20):
                        status, _ = await call(f"{url}/v1/topics/cats/messages", "POST", {"data": f"{name}{number}"})
                        assert status == 200

                await asyncio.gather(publish(first, "a"), publish(second, "b"))
                seen = [await client.messages(40) for client in (here, there)]
                places = [[(offset(frame["position"]), frame["data"]) for frame in frames] for frames in seen]
                assert places[0] == places[1] == sorted(places[0])
                assert len({data for _, data in places[0]}) == 40
                position = seen[0][20]["position"]
                one = await here.ask("publish", topic="cats", data=1, message_id="x")
                two = await there.ask("publish", topic="cats", data=1, message_id="x")
                assert one["position"] == two["position"]
            async with line(second) as there:
                assert (await there.ask("subscribe", topic="cats", after=position))["recovered"] is True
                assert await there.data(20) == [data for _, data in places[0][21:]] + [1]

    run(main())


def test_a_publish_without_the_engine_is_a_503() -> None:
    """While PostgreSQL is down a publish is refused after a bounded wait and the connections stay; when it is back, so
    is everything, without a new connection of a client."""

    async def main() -> None:
        async with postgres_server() as server:
            ours = settings(log=server.url())
            async with running(ours) as (_, first), running(ours) as (_, second), line(second) as there:
                await there.ask("subscribe", topic="cats")
                server.kill()
                status, answer = await call(f"{first}/v1/topics/cats/messages", "POST", {"data": 1})
                assert status == 503, answer
                await server.start()
                async with asyncio.timeout(20):
                    while (await call(f"{first}/v1/topics/cats/messages", "POST", {"data": 2}))[0] != 200:
                        await asyncio.sleep(0.05)
                assert await there.data(1) == [2]

    run(main())


def test_doctor_looks_at_the_log(fresh: Fresh) -> None:
    """`partyline doctor` says what a log in PostgreSQL keeps, and why one cannot be reached."""
    url = fresh()
    found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"log={url}")
    assert found["log"]["text"].startswith("PostgreSQL ")
    assert found["durability"]["text"] == "an accepted message survives a power cut"
    nowhere = f"log=postgres://app:secret@127.0.0.1:{free_port()}/app"
    found = findings("--db", ":memory:", "--set", f"port={free_port()}", "--set", nowhere, code=1)
    assert "PostgreSQL at 127.0.0.1:" in found["log"]["text"]
    assert "secret" not in str(found)
