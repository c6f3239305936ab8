"""The log does not go on from where the node was: everybody who follows it comes back, and is told exactly."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from partyline import Partyline, running
from partyline.interfaces import Overrun, Renewed
from tests.calls import call, register
from tests.relay.v1.test_events import stream
from tests.relay.v1.test_websocket import WITHIN, line, run, settings

AFTER = "0123456789abcdef"


def renew(partyline: Partyline) -> None:
    """The log is another one now, as after a failover that lost its end."""
    store: Any = partyline.store
    store.epoch = AFTER
    partyline.hub.delivery.committed([Renewed(AFTER, store.head)])


def overrun(partyline: Partyline) -> None:
    """The node was overtaken by retention, and then went on."""
    partyline.hub.delivery.committed([Overrun(partyline.store.head + 1)])


@pytest.mark.parametrize(("happens", "recovered"), [(renew, False), (overrun, True)])
def test_a_v1_connection_is_closed_and_told_when_it_resumes(happens: Any, recovered: bool) -> None:
    """A v1 connection is closed with 1012; whoever resumes is told whether something of its view is missing."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            before = (await client.ask("subscribe", topic="cats"))["position"]
            happens(partyline)
            assert await client.ended() == (1012, "the log goes on from another place")
            async with line(url) as again:
                reply = await again.ask("subscribe", topic="cats", after=before)
                assert reply["recovered"] is recovered
                assert reply["position"].startswith(partyline.store.epoch)
                position = (await again.ask("publish", topic="cats", data=1))["position"]
                (frame,) = await again.messages(1)
                assert frame["position"] == position

    run(main())


def test_a_subscriber_that_still_catches_up_is_closed_too() -> None:
    """A connection whose subscription has not gone live yet does not go on in a log that it does not know."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url) as client:
            for number in range(3):
                await partyline.publish("cats", number)
            read, reading = partyline.store.read, asyncio.Event()

            async def slow(*wanted: Any) -> Any:
                reading.set()
                await asyncio.sleep(0)
                return await read(*wanted)

            partyline.store.read = slow  # type: ignore[method-assign]
            await client.say({"type": "subscribe", "id": 1, "topic": "cats", "after": "earliest"})
            async with asyncio.timeout(WITHIN):
                await reading.wait()
            renew(partyline)
            assert (await client.ended())[0] == 1012

    run(main())


def test_a_stream_of_events_ends_and_goes_on() -> None:
    """A stream of events ends, and the browser, which comes back by itself, is told of the gap."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            async with stream(url, "cats") as browser:
                position = str(await partyline.publish("cats", 1))
                await browser.until(last_id=position)
                renew(partyline)
                async with asyncio.timeout(WITHIN):
                    while await browser.chunk():
                        pass
            async with stream(url, "cats", last_id=position) as browser:
                assert (await browser.next()).type == "gap"

    run(main())


def test_classic_connections_end() -> None:
    """A classic connection, which cannot be told of a hole, ends with 1012."""

    async def main() -> None:
        async with (
            running(settings()) as (partyline, url),
            connect(await register(url, topic="cats")) as socket,
        ):
            await partyline.publish("cats", 1)
            assert json.loads(await socket.recv()) == 1
            renew(partyline)
            async with asyncio.timeout(WITHIN):
                await socket.wait_closed()
            assert socket.close_code == 1012

    run(main())


def test_calls_go_on() -> None:
    """A request over HTTP that is under way is answered, and its connection is kept."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            renew(partyline)
            status, answer = await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1})
            assert status == 200
            assert answer["position"].startswith(AFTER)

    run(main())
