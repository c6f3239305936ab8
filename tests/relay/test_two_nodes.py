"""Two servers on one log, over real sockets: publishing on one, subscribing on the other, and going over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from partyline import running
from partyline.stores.shared import SharedStore
from partyline.testing import MemoryLog
from partyline.testing.memory_log import MemoryHandle
from tests.calls import call
from tests.relay.v1.test_websocket import line, offset, run, settings


class Slow(MemoryHandle):
    """A way to the log on which the tail stands still until it may go on."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def after(self, what: str) -> None:
        if what == "tail":
            await self.may_go_on.wait()
        await super().after(what)


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[tuple[str, str, Slow]]:
    """Two servers on one log, and the second one's way to it."""
    log = MemoryLog()
    way = Slow(log)
    here, there = await SharedStore.open(log.handle()), await SharedStore.open(way)
    async with running(settings(), store=here) as (_, first), running(settings(), store=there) as (_, second):
        yield first, second, way


def test_everybody_has_everything_in_one_order() -> None:
    """Subscribers on both servers get the messages of both, all in the order of their positions."""

    async def main() -> None:
        async with servers() as (first, second, _), line(first) as here, line(second) as there:
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

    run(main())


def test_a_client_goes_over_to_a_node_that_is_behind() -> None:
    """A position that the first server has told is resumed on the second one, though that has not got there yet, and
    nothing comes twice."""

    async def main() -> None:
        async with servers() as (first, second, way), line(first) as here:
            before = (await here.ask("subscribe", topic="cats"))["position"]
            way.may_go_on.clear()
            positions = [(await here.ask("publish", topic="cats", data=number))["position"] for number in range(5)]
            async with line(second) as there, line(second) as other:
                await there.say({"type": "subscribe", "id": 1, "topic": "cats", "after": positions[2]})
                await there.ask("ping")  # it waits for the log, and only the subscription does
                way.may_go_on.set()
                assert (await there.answer(1))["recovered"] is True
                assert await there.data(2) == [3, 4]
                assert (await other.ask("subscribe", topic="cats", after=before))["recovered"] is True
                assert await other.data(5) == [0, 1, 2, 3, 4]
                await here.ask("publish", topic="cats", data=5)
                assert await there.data(1) == [5] == await other.data(1)

    run(main())


def test_a_retry_on_the_other_node_is_stored_once() -> None:
    """A publish that is repeated with its id on the other server is answered with the same position, and nobody gets it
    twice."""

    async def main() -> None:
        async with servers() as (first, second, _), line(first) as here, line(second) as there:
            await there.ask("subscribe", topic="cats")
            one = await here.ask("publish", topic="cats", data=1, message_id="x")
            two = await there.ask("publish", topic="cats", data=1, message_id="x")
            assert one["position"] == two["position"]
            await here.ask("publish", topic="cats", data=2)
            assert await there.data(2) == [1, 2]

    run(main())
