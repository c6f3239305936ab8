"""The Python client against the real server: publishing, subscribing, and coming back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import signal
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from partyline.client import Gap, Line, Message, State, connect
from partyline.client.connecting import Connecting
from partyline.entries import ApiKey
from partyline.errors import (
    Conflict,
    Disconnected,
    Forbidden,
    InvalidValue,
    NotRecovered,
    StoreUnavailable,
    Unauthenticated,
)
from partyline.models import Draft, Position
from partyline.server.websocket import WebSocket
from partyline.trust.keys import key_hash
from tests.process import serving
from tests.server.conftest import Certificate
from tests.server.servers import eventually, nothing_is_held, partyline_server, small_send_buffers

WITHIN = 20.0


async def take(subscription: Any, count: int) -> list[Any]:
    """The data of the next messages."""
    async with asyncio.timeout(WITHIN):
        return [(await anext(subscription)).data for _ in range(count)]


def quick(url: str, **options: Any) -> connect:
    """A client that tries again soon."""
    return connect(url, **{"least_delay": 0.02, "most_delay": 0.2, **options})


def test_publish_and_subscribe() -> None:
    """A message published on a line reaches each of its subscriptions once, with all its fields."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            async with quick(url) as line, line.subscribe("cats") as cats, line.subscribe("*") as everything:
                receipt = await line.publish("cats", {"lives": 9}, key="tom", id="one")
                assert (receipt.room, receipt.id, receipt.duplicate) == ("cats", "one", False)
                assert receipt.position == Position(partyline.store.epoch, 1)
                for subscription in (cats, everything):
                    message = await anext(subscription)
                    assert isinstance(message, Message)
                    assert (message.topic, message.data, message.position) == ("cats", {"lives": 9}, receipt.position)
                    assert (message.id, message.key, message.sender, message.user) == ("one", "tom", None, None)
                    assert subscription.position == receipt.position
                assert (await line.publish("cats", {"lives": 9}, key="tom", id="one")).duplicate
                with pytest.raises(Conflict):
                    await line.publish("cats", "another", id="one")
                assert (await line.publish("cats", 1, durable=False)).position is None
                assert await take(cats, 1) == [1]
                page = await line.history("cats")
                assert [message.data for message in page.messages] == [{"lives": 9}]
                assert (page.next, page.more, page.recovered) == (receipt.position, False, True)
                assert await line.presence("cats") == []
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_numbers_beyond_python_are_read() -> None:
    """A message with a number that Python cannot hold costs neither the subscription nor the page of history: its
    `data` has the nearest float, and `raw` what was published (hostile 50)."""
    numbers = (b"1e400", b"9" * 4_400, b'{"a":[-1e400]}')

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line, line.subscribe("cats") as cats:
            for raw in numbers:
                await line.publish("cats", msgspec.Raw(raw))
            await line.publish("cats", "next")
            async with asyncio.timeout(WITHIN):
                messages = [await anext(cats) for _ in range(4)]
            for got in (messages, (await line.history("cats")).messages):
                assert [message.raw for message in got] == [*numbers, b'"next"']
                assert [message.data for message in got] == [math.inf, math.inf, {"a": [-math.inf]}, "next"]

    asyncio.run(main())


def test_where_a_subscription_begins() -> None:
    """At the oldest message, after a position (as text, too), or now."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            positions = [(await line.publish("cats", number)).position for number in range(5)]
            assert await take(line.subscribe("cats", after="earliest"), 5) == list(range(5))
            after = positions[2]
            assert after is not None
            assert await take(line.subscribe("cats", after=after), 2) == [3, 4]
            assert await take(line.subscribe("cats", after=str(after)), 2) == [3, 4]
            async with line.subscribe("cats") as now:
                await line.publish("cats", 5)
                assert await take(now, 1) == [5]
            with pytest.raises(InvalidValue):
                line.subscribe("cats", after="yesterday")
            with pytest.raises(InvalidValue):
                line.subscribe("cats", buffer=0)

    asyncio.run(main())


@pytest.mark.check
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, how: signal.Signals) -> None:
    """When a server is killed or stopped, nothing is lost or delivered twice; publishes in flight are stored once."""

    async def main() -> None:
        db = tmp_path / "party.db"
        states: list[State] = []
        async with serving(db=db) as first:
            line = await quick(first.url, on_state=lambda state, _: states.append(state))
            cats = await line.subscribe("cats").ready()
            dogs = await line.subscribe("dogs.>", after="earliest").ready()
            publishing: list[asyncio.Task[Any]] = []
            for number in range(400):
                topic = "cats" if number % 2 else "dogs.big"
                publishing.append(asyncio.create_task(line.publish(topic, number)))
                await asyncio.sleep(0)
                if number == 150:
                    ended = asyncio.create_task(first.end(how))
            await ended
            assert line.state is not State.CLOSED
            async with serving("--port", str(first.port), db=db) as second:
                receipts = await asyncio.wait_for(asyncio.gather(*publishing), WITHIN)
                assert sorted(await take(cats, 200)) == [number for number in range(400) if number % 2]
                assert sorted(await take(dogs, 200)) == [number for number in range(400) if not number % 2]
                kept: list[Any] = []
                for topic in ("cats", "dogs.big"):
                    kept += (await line.history(topic, limit=1000)).messages
                assert len(kept) == 400
                assert {message.position for message in kept} == {receipt.position for receipt in receipts}
                await line.publish("cats", "and on")
                assert await take(cats, 1) == ["and on"]
                await line.aclose()
                assert await second.end() == 0
        assert states[:2] == [State.CONNECTING, State.OPEN]
        assert State.WAITING in states
        assert states[-1] is State.CLOSED

    asyncio.run(main())


def test_each_subscription_keeps_its_own_order_over_a_reconnect() -> None:
    """A subscription that is cut off again and again while others publish gets each message once, in the log's
    order."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            subscriptions = [line.subscribe("cats", after="earliest"), line.subscribe(">"), line.subscribe("*.x")]
            for subscription in subscriptions:
                await subscription.ready()
            stop = False

            async def publish() -> int:
                number = 0
                while not stop:
                    for topic in ("cats", "a.x", "dogs"):
                        partyline.hub.publish(Draft(topic, b"%d" % number, f"{topic} {number}"))
                    number += 1
                    await asyncio.sleep(0.001)
                return number

            publishing = asyncio.create_task(publish())
            for _ in range(8):
                await asyncio.sleep(0.05)
                for live in list(partyline.site.live):
                    live.abort()
                await eventually(lambda: line.state is State.OPEN, "the line is back")
            stop = True
            count = await publishing
            assert await take(subscriptions[0], count) == list(range(count))
            assert await take(subscriptions[1], 3 * count) == [n for n in range(count) for _ in range(3)]
            assert await take(subscriptions[2], count) == list(range(count))

    asyncio.run(main())


def test_a_reader_that_stands_still_holds_nobody_up() -> None:
    """A full buffer stops its own subscription only; once it is read again, the rest comes from the log, in order."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            slow = await line.subscribe("cats", buffer=10).ready()
            swift = await line.subscribe("dogs", buffer=10).ready()
            for number in range(100):
                await line.publish("cats", number)
                await line.publish("dogs", number)
                assert await take(swift, 1) == [number]
            assert len(slow._feed.items) == 10
            assert await take(slow, 100) == list(range(100))
            await line.publish("cats", "live")
            assert await take(slow, 1) == ["live"]
            assert slow.dropped == 0

    asyncio.run(main())


def test_ephemeral_messages_of_a_full_buffer_are_counted() -> None:
    """A message without a position cannot be fetched later: if the buffer is full, it is dropped and counted."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            slow = await line.subscribe("cats", buffer=5).ready()
            for number in range(8):
                await line.publish("cats", number, durable=False)
            assert await take(slow, 5) == list(range(5))
            assert slow.dropped == 3
            await line.publish("cats", 8, durable=False)
            assert await take(slow, 1) == [8]

    asyncio.run(main())


@pytest.mark.check
def test_a_slow_consumer_that_the_server_cuts_goes_on() -> None:
    """Closed with 4008, the line comes back and misses nothing (guarantee 5)."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=100_000, permessage_deflate=False) as (partyline, url):
            small_send_buffers(partyline)
            line = await quick(url)
            cats = await line.subscribe("cats").ready()
            socket = line._links[0]._socket
            assert socket is not None
            socket._transport.pause_reading()
            for number in range(200):
                partyline.hub.publish(Draft("cats", b'"%d %s"' % (number, b"x" * 50_000), f"{number}"))
                await asyncio.sleep(0)
            assert partyline.counters.limits["outbox_bytes"] == 1
            socket._transport.resume_reading()
            got = await take(cats, 200)
            assert [int(text.split()[0]) for text in got] == list(range(200))
            await line.aclose()

    asyncio.run(main())


def test_what_is_missed_is_told() -> None:
    """hostile 14: a gap is raised once and the stream goes on with what is kept; with `gaps` it is an item of the
    stream."""

    async def main() -> None:
        async with partyline_server(max_messages=3) as (partyline, url), quick(url) as line:
            (first, *_) = [(await line.publish("cats", number)).position for number in range(10)]
            assert first is not None
            telling = line.subscribe("cats", after=first)
            with pytest.raises(NotRecovered) as caught:
                await anext(telling)
            assert (caught.value.topic, caught.value.oldest) == ("cats", f"{partyline.store.epoch}-7")
            listing = line.subscribe("cats", after=Position("0" * 16, 4), gaps=True)
            gap = await anext(listing)
            assert gap == Gap("cats", Position(partyline.store.epoch, 7), Position(partyline.store.epoch, 10))
            await line.publish("cats", "next")
            assert await take(telling, 4) == [7, 8, 9, "next"]
            assert await take(listing, 1) == ["next"]  # a position of another log: it goes on from now

    asyncio.run(main())


def test_what_the_server_refuses() -> None:
    """A refused publish or subscription raises the server's error and leaves the line as it was."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            with pytest.raises(InvalidValue) as caught:
                await line.publish("no spaces", 1)
            assert caught.value.code == "invalid_topic"
            with pytest.raises(InvalidValue):
                await anext(line.subscribe("$reserved"))
            with pytest.raises(InvalidValue):
                await line.subscribe("a..b").ready()
            with pytest.raises(InvalidValue):
                await line.history("cats", limit=0)
            assert (await line.publish("cats", 1)).position is not None

    asyncio.run(main())


def test_tokens() -> None:
    """Every connection sends the key; a wrong key is refused at once, and a missing right refuses only its command."""

    async def main() -> None:
        keys = (ApiKey(key_hash("right"), ("cats",), ("cats",)),)
        async with partyline_server(api_keys=keys) as (_, url):
            asked = 0

            async def token() -> str:
                nonlocal asked
                asked += 1
                return "right"

            async with quick(url, token=token) as line:
                await line.publish("cats", 1)
                with pytest.raises(Forbidden):
                    await line.publish("dogs", 1)
                with pytest.raises(Forbidden):
                    await anext(line.subscribe(">"))
                assert asked >= 1
            with pytest.raises(Unauthenticated):
                await quick(url, token="wrong")

    asyncio.run(main())


def test_a_line_that_is_closed_for_good() -> None:
    """After 4001 the line does not come back: publishes and subscriptions raise, and its state says so."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            cats = await line.subscribe("cats").ready()
            waiting = asyncio.create_task(anext(cats))
            (live,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
            live.close(4001, "disconnected")
            with pytest.raises(Disconnected, match="4001"):
                await asyncio.wait_for(waiting, WITHIN)
            with pytest.raises(Disconnected):
                await line.publish("cats", 1)
            assert line.state is State.CLOSED

    asyncio.run(main())


def test_no_server() -> None:
    """If nothing listens, connecting fails at once with `open_timeout=0`, and otherwise after a few tries."""

    async def main() -> None:
        for patience in (0, 0.1):
            with pytest.raises(Disconnected, match=r"127\.0\.0\.1:9 cannot be reached"):
                await quick("http://127.0.0.1:9", open_timeout=patience)

    asyncio.run(main())


@pytest.mark.check
def test_a_server_that_is_late(tmp_path: Path) -> None:
    """A client that starts before its server waits for it."""

    async def main() -> None:
        async with serving() as first:
            port = first.port
            await first.end()
        opening = asyncio.create_task(quick(f"http://127.0.0.1:{port}", open_timeout=WITHIN)._open())
        async with serving("--port", str(port)):
            line = await asyncio.wait_for(opening, WITHIN)
            assert (await line.publish("cats", 1)).position is not None
            await line.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "localhost:8000", "http://", "http://user@host", "http://host?x=1", "http://host/ä", "ws://h:x"],
)
def test_wrong_addresses(url: str) -> None:
    """An unusable address is refused with the field's name before anything is opened."""
    with pytest.raises(InvalidValue) as caught:
        connect(url)
    assert caught.value.field == "url"


def test_closing() -> None:
    """Closing ends subscriptions, fails what waits, and leaves nothing at the server; closing twice does no more."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            line = await quick(url)
            cats = await line.subscribe("cats").ready()
            waiting = asyncio.create_task(anext(cats, None))
            await asyncio.sleep(0)
            await line.aclose()
            await line.aclose()
            assert await asyncio.wait_for(waiting, WITHIN) is None
            with pytest.raises(Disconnected):
                await line.publish("cats", 1)
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_a_forgotten_subscription_ends() -> None:
    """Leaving `async for` over a subscription by break tells the server, which sends nothing more for it."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            for number in range(3):
                await line.publish("cats", number)
            async for message in line.subscribe("cats", after="earliest"):
                assert message.data == 0
                break
            del message
            gc.collect()
            await eventually(lambda: not list(partyline.hub.rooms.names()), "the server has nobody in the topic")
            assert line._links[0].feeds == []

    asyncio.run(main())


def test_cancelling() -> None:
    """A cancelled wait loses no message, and a cancelled publish keeps no place among those in flight."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url, in_flight=1) as line:
            cats = await line.subscribe("cats").ready()
            for _ in range(3):
                waiting = asyncio.create_task(anext(cats))
                await asyncio.sleep(0)
                waiting.cancel()
                publishing = asyncio.create_task(line.publish("cats", "perhaps"))
                await asyncio.sleep(0)
                publishing.cancel()
                await asyncio.gather(waiting, publishing, return_exceptions=True)
            await line.publish("cats", "surely")
            got = await take(cats, 1)
            while got[-1] != "surely":
                got += await take(cats, 1)
            assert set(got[:-1]) <= {"perhaps"}

    asyncio.run(main())


def test_a_publish_that_need_not_be_kept_is_not_sent_twice() -> None:
    """Cut off before its answer, a publish with durable=False raises Disconnected, which is temporary."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            publishing = asyncio.create_task(line.publish("cats", 1, durable=False))
            await asyncio.sleep(0)
            for live in list(partyline.site.live):
                live.abort()
            outcome = (await asyncio.gather(publishing, return_exceptions=True))[0]
            assert isinstance(outcome, Disconnected)
            assert outcome.temporary

    asyncio.run(main())


def test_a_log_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 503 of the log is raised as StoreUnavailable; the line stays open, and the next publish may work."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            append = partyline.store.append

            def refuse(*drafts: Draft) -> None:
                from partyline.interfaces import Refused

                error = StoreUnavailable("the disk is full")
                asyncio.get_running_loop().call_soon(
                    partyline.hub.delivery.committed, [Refused(draft, error) for draft in drafts]
                )

            monkeypatch.setattr(partyline.store, "append", refuse)
            with pytest.raises(StoreUnavailable) as caught:
                await line.publish("cats", 1)
            assert caught.value.temporary
            monkeypatch.setattr(partyline.store, "append", append)
            assert (await line.publish("cats", 1)).position is not None

    asyncio.run(main())


def test_over_tls(certificate: Certificate) -> None:
    """https addresses are dialled with TLS, and an untrusted certificate is refused."""

    async def main() -> None:
        async with partyline_server(certfile=certificate.certfile, keyfile=certificate.keyfile) as (_, url):
            async with quick(url, tls=certificate.trust) as line:
                cats = await line.subscribe("cats").ready()
                await line.publish("cats", "x" * 5_000)
                assert await take(cats, 1) == ["x" * 5_000]
            with pytest.raises(Disconnected, match="certificate"):
                await quick(url, open_timeout=0)

    asyncio.run(main())


def test_many_subscriptions() -> None:
    """A line can make more subscriptions than the server lets commands wait, also after a reconnect."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            subscriptions = [line.subscribe(f"t.{number}", after="earliest") for number in range(300)]
            for subscription in subscriptions:
                await subscription.ready()
            for live in list(partyline.site.live):
                live.abort()
            for number, subscription in enumerate(subscriptions):
                await line.publish(f"t.{number}", number)
                assert await take(subscription, 1) == [number]

    asyncio.run(main())


def test_it_is_typed() -> None:
    """`connect` is among the public names, and gives a Line."""
    import partyline

    assert partyline.connect is connect
    assert get_type_hints(Connecting.__aenter__)["return"] is Line
    assert connect.__annotations__["return"] == Connecting.__name__


def test_readers_share_a_subscription() -> None:
    """Tasks that share one subscription get each message once between them, and none of them waits for ever."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            cats = await line.subscribe("cats").ready()
            readers = [asyncio.create_task(take(cats, 1)) for _ in range(3)]
            await asyncio.sleep(0)
            for number in range(3):
                await line.publish("cats", number)
            assert sorted(await asyncio.gather(*readers)) == [[0], [1], [2]]

    asyncio.run(main())


def test_a_position_before_anything_is_read() -> None:
    """The position to resume from is known as soon as the server has answered, also while messages wait to be read."""

    async def main() -> None:
        async with partyline_server() as (_, url), quick(url) as line:
            start = (await line.publish("cats", 0)).position
            now = await line.subscribe("cats", after=None).ready()
            later = line.subscribe("cats", after=start)
            assert (now.position, later.position) == (start, start)
            await line.publish("cats", 1)
            for subscription in (now, later):
                await eventually(lambda one=subscription: one._feed.items, "the message comes")
                assert subscription.position == start
                assert await take(subscription, 1) == [1]
                assert subscription.position != start

    asyncio.run(main())


def test_the_state_of_all_connections() -> None:
    """A line with a second connection for an overlapping subscription is OPEN when both are, and reports each change
    once."""

    async def main() -> None:
        told: list[State] = []
        async with partyline_server() as (partyline, url):
            async with quick(url, on_state=lambda state, _: told.append(state)) as line:
                cats = await line.subscribe("cats").ready()
                wide = await line.subscribe("*").ready()
                assert line.state is State.OPEN
                assert told == [State.CONNECTING, State.OPEN] * 2
                told.clear()
                for live in tuple(partyline.site.live):
                    assert isinstance(live, WebSocket)
                    live.close(1012, "server restarting")
                await eventually(lambda: State.WAITING in told and line.state is State.OPEN, "both come back")
                assert told[-1] is State.OPEN
                assert all(one is not other for one, other in itertools.pairwise(told))
                assert told.count(State.OPEN) == 1
                del cats, wide
            assert told[-1] is State.CLOSED
            assert line.closed

    asyncio.run(main())


def test_a_subscription_beside_a_connection_that_is_over() -> None:
    """When the connection of an overlapping subscription has ended for good, the next such subscription gets
    another."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line:
            cats, dogs = line.subscribe("cats"), line.subscribe("dogs.a")
            wide = await line.subscribe("dogs.*").ready()
            (second,) = (one for one in partyline.site.live if isinstance(one, WebSocket) and "dogs.*" in one.rooms)
            second.close(4001, "disconnected")
            with pytest.raises(Disconnected):
                await asyncio.wait_for(anext(wide), WITHIN)
            assert line.state is State.OPEN
            other = await asyncio.wait_for(line.subscribe("*").ready(), WITHIN)
            await line.publish("cats", 1)
            assert await take(other, 1) == await take(cats, 1) == [1]
            del dogs

    asyncio.run(main())
