"""Classic connections with `"resume": true`: what a bare WebSocket client gets after an absence."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets

from partyline import Partyline
from partyline.models import Draft
from partyline.relay.classic import resuming
from partyline.relay.classic.resuming import ResumingSession
from partyline.server.websocket import WebSocket
from partyline.wire.websocket.codec import Close, Event, Ping
from partyline.wire.websocket.frames import PONG, TEXT, frame
from tests.calls import call, register
from tests.process import serving
from tests.server.peers import WebSocketPeer, connected, upgrade, websocket
from tests.server.servers import eventually, nothing_is_held, partyline_server, small_send_buffers

MASK = b"\x01\x02\x03\x04"


async def path_of(url: str, user: int | str = 1, **fields: Any) -> str:
    """Register with resume; the WebSocket's path."""
    address = await register(url, user, resume=True, **fields)
    return "/" + address.split("/", 3)[3]


async def publish(url: str, topic: str, *messages: Any, **fields: Any) -> None:
    for message in messages:
        status, body = await call(f"{url}/publish", "POST", {"topic": topic, "message": message, **fields})
        assert status == 200, body


class Client:
    """A WebSocket client that answers pings only when it is told to."""

    def __init__(self, socket: WebSocketPeer) -> None:
        self.socket = socket
        self.pings: list[bytes] = []

    async def texts(self, count: int) -> list[str]:
        """The next messages; pings are put aside."""
        found: list[str] = []
        while len(found) < count:
            event = await self.socket.next()
            if isinstance(event, Ping):
                self.pings.append(event.payload)
            else:
                assert isinstance(event, str), event
                found.append(event)
        return found

    async def ping(self, offset: int) -> bytes:
        """The payload of the next ping with a position from `offset` on; no message may arrive before it."""
        while True:
            if self.pings:
                payload = self.pings.pop(0)
            else:
                event = await self.socket.next()
                assert isinstance(event, Ping), event
                payload = event.payload
            if payload and int(payload.partition(b"-")[2]) >= offset:
                return payload

    async def pong(self, payload: bytes) -> None:
        """Answer, and wait until the answer is read."""
        await self.socket.peer.send(frame(PONG, payload, key=MASK))
        await self.socket.say("ping")
        assert await self.texts(1) == ["pong"]

    async def confirm(self, offset: int) -> None:
        """Confirm at least everything up to `offset`."""
        await self.pong(await self.ping(offset))


@asynccontextmanager
async def client(url: str, path: str, buffer: int = 0) -> AsyncIterator[Client]:
    async with connected(url, buffer=buffer) as peer:
        yield Client(await websocket(peer, path))


async def gone(partyline: Partyline) -> None:
    """Wait until the server has noticed that nobody is connected."""
    await eventually(lambda: not partyline.site.live, "the connection is gone")


def test_what_was_published_meanwhile() -> None:
    """Messages published between registration and connection, and while the client is away, arrive in order."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url, topics=["cats", "dogs"])
            await publish(url, "cats", "before")
            await publish(url, "birds", "of no concern")
            async with client(url, path) as one:
                assert await one.texts(1) == ["before"]
                await publish(url, "dogs", "live")
                assert await one.texts(1) == ["live"]
                await one.confirm(3)
            await gone(partyline)
            await publish(url, "dogs", "away 1")
            await publish(url, "cats", "for another", user_id=2)
            await publish(url, "cats", "away 2", user_id=1)
            async with client(url, path) as one:
                assert await one.texts(2) == ["away 1", "away 2"]
                await publish(url, "cats", "live again")
                assert await one.texts(1) == ["live again"]
            await gone(partyline)
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_unconfirmed_messages_come_again() -> None:
    """Messages that no pong has confirmed are sent again after a reconnect; confirmed ones are not."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url)
            async with client(url, path) as one:
                await publish(url, "cats", "confirmed")
                assert await one.texts(1) == ["confirmed"]
                await one.confirm(1)
                await publish(url, "cats", "not confirmed")
                assert await one.texts(1) == ["not confirmed"]
                await one.ping(2)
            await gone(partyline)
            for _ in range(2):
                async with client(url, path) as one:
                    assert await one.texts(1) == ["not confirmed"]
                await gone(partyline)

    asyncio.run(main())


def test_pings_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping follows what was sent; however much is sent, the next ping waits; a quiet connection gets none."""
    monkeypatch.setattr(resuming, "_PING_EVERY", 0.2)

    async def main() -> None:
        async with partyline_server() as (_, url):
            loop = asyncio.get_running_loop()
            async with client(url, await path_of(url)) as one:
                assert await one.socket.peer.hears_nothing(0.4)
                pinged: list[float] = []
                sent = 0
                while len(pinged) < 4:
                    await publish(url, "cats", sent)
                    sent += 1
                    while one.socket._events or await _heard(one.socket):
                        event = await one.socket.next()
                        if isinstance(event, Ping):
                            pinged.append(loop.time())
                gaps = [after - before for before, after in itertools.pairwise(pinged)]
                assert min(gaps) > 0.15, gaps

    asyncio.run(main())


async def _heard(socket: WebSocketPeer) -> bool:
    """Whether something has arrived."""
    reader = socket.peer._reader
    await asyncio.sleep(0)
    return bool(reader._buffer)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "pong",
    [
        b"",
        b"x",
        b"\xff\xfe",
        b"-1",
        b"0123456789abcdef-99999999999999999999",
        b"{epoch}-",
        b"{epoch}-2",
        b"{epoch}-9007199254740991",
        b"0123456789abcdef-1",
    ],
)
def test_pongs_nobody_asked_for(pong: bytes) -> None:
    """A pong that does not answer one of our pings, or has a position that was not sent, confirms nothing."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url)
            async with client(url, path) as one:
                await publish(url, "cats", "first")
                assert await one.texts(1) == ["first"]
                await one.ping(1)
                await one.pong(pong.replace(b"{epoch}", partyline.store.epoch.encode()))
            await gone(partyline)
            async with client(url, path) as one:
                assert await one.texts(1) == ["first"]

    asyncio.run(main())


def test_an_old_pong_does_not_take_a_confirmation_back() -> None:
    """Late and repeated pongs never move the confirmed position back."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url)
            async with client(url, path) as one:
                await publish(url, "cats", 1)
                await one.texts(1)
                early = await one.ping(1)
                await publish(url, "cats", 2)
                await one.texts(1)
                await one.confirm(2)
                await one.pong(early)
            await gone(partyline)
            await publish(url, "cats", 3)
            async with client(url, path) as one:
                assert await one.texts(1) == ["3"]

    asyncio.run(main())


def test_messages_published_while_it_catches_up() -> None:
    """While a long backlog is read, publishing goes on: every message arrives once, in order, and then the client is
    live."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url)
            hub = partyline.hub

            def put(number: int) -> None:
                hub.publish(Draft("cats", b"%d" % number, f"{number:032x}"))

            for number in range(3_000):
                put(number)
            async with client(url, path) as one:
                got = await one.texts(100)
                for number in range(3_000, 4_000):
                    put(number)
                    if not number % 10:
                        await asyncio.sleep(0)
                got += await one.texts(3_900)
                assert got == [str(number) for number in range(4_000)]
                put(4_000)
                assert await one.texts(1) == ["4000"]
            await gone(partyline)
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_topics_that_change_while_it_catches_up() -> None:
    """When topics are replaced in the middle of a backlog, its rest is sent for the new ones, in order, nothing
    twice."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=64 * 1024) as (partyline, url):
            path = await path_of(url, topics=["cats"])
            text = "x" * 10_000
            small_send_buffers(partyline)
            for number in range(1_000):
                topic = "cats" if number % 2 else "dogs"
                partyline.hub.publish(Draft(topic, json.dumps(f"{number} {topic} {text}").encode(), f"{number:032x}"))
            async with client(url, path, buffer=65_536) as one:
                before = await one.texts(10)
                assert all(" cats " in message for message in before)
                await one.socket.say('{"topics": ["dogs"]}')
                after = await _until(one, " dogs ")
                numbers = [int(message.split()[0]) for message in [*before, *after]]
                assert numbers == sorted(set(numbers))
                rest = await one.texts((998 - numbers[-1]) // 2)
                assert [int(message.split()[0]) for message in rest] == list(range(numbers[-1] + 2, 1_000, 2))

    asyncio.run(main())


async def _until(one: Client, mark: str) -> list[str]:
    found = await one.texts(1)
    while mark not in found[-1]:
        found += await one.texts(1)
    return found


def test_topics_are_changed_and_listed_as_ever() -> None:
    """add_topic, remove_topic, presence and the list of connections work for a resuming connection as for any classic
    one."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url, 7)
            async with client(url, path) as one:
                body = {"topic": "dogs", "client_id": path.removeprefix("/ws/")}
                assert await call(f"{url}/add_topic", "POST", body) == (200, {"topics": ["cats", "dogs"]})
                await publish(url, "dogs", "woof")
                assert await one.texts(1) == ["woof"]
                assert await call(f"{url}/remove_topic", "DELETE", {**body, "topic": "cats"}) == (
                    200,
                    {"topics": ["dogs"]},
                )
                await publish(url, "cats", "not for it")
                await publish(url, "dogs", "still here")
                assert await one.texts(1) == ["still here"]
                _, listed = await call(f"{url}/v1/connections")
                (entry,) = listed["connections"]
                assert (entry["user_id"], entry["topics"]) == ("7", ["dogs"])
                assert (await call(f"{url}/v1/topics/dogs/presence"))[1]["users"] == ["7"]
                status, _ = await call(f"{url}/register/{path.removeprefix('/ws/')}", "DELETE")
                assert status == 200
                events, close = await one.socket.until_close()
                assert [event for event in events if not isinstance(event, Ping)] == []
                assert close == Close(4001, "unregistered")
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_a_second_connection_takes_over() -> None:
    """A second connection with the id replaces the first, which is closed with 4000, and gets what the first has not
    confirmed."""

    async def main() -> None:
        async with partyline_server() as (_, url):
            path = await path_of(url)
            async with client(url, path) as first, client(url, path) as second:
                events, close = await first.socket.until_close()
                assert (events, close.code) == ([], 4000)
                await publish(url, "cats", "to the second")
                assert await second.texts(1) == ["to the second"]
                async with client(url, path) as third:
                    assert await third.texts(1) == ["to the second"]

    asyncio.run(main())


def test_what_retention_has_taken_is_told() -> None:
    """hostile 14: if the backlog is pruned, the client is told the oldest position and gets what is left."""

    async def main() -> None:
        async with partyline_server(max_messages=5) as (partyline, url):
            path = await path_of(url)
            await publish(url, "cats", *range(12))
            async with client(url, path) as one:
                (told, *left) = await one.texts(6)
                assert left == [str(number) for number in range(7, 12)]
                told = json.loads(told)
                assert told["error"]["code"] == "not_recovered"
                assert (told["recovered"], told["oldest"]) == (False, f"{partyline.store.epoch}-7")
                await one.confirm(12)
            await gone(partyline)
            async with client(url, path) as one:
                await publish(url, "cats", "and it is not told twice")
                assert await one.texts(1) == ["and it is not told twice"]

    asyncio.run(main())


def test_a_log_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the backlog cannot be read, the connection is asked to come back later, and nothing counts as confirmed."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url)
            await publish(url, "cats", "kept")

            async def broken(*_: Any) -> Any:
                raise resuming.PartylineError("the disk is gone")

            with monkeypatch.context() as patched:
                patched.setattr(resuming, "resume", broken)
                async with client(url, path) as one:
                    assert (await one.socket.until_close())[1].code == 1013
            await gone(partyline)
            async with client(url, path) as one:
                assert await one.texts(1) == ["kept"]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["unregistered", "followed by other topics"])
def test_a_connection_that_is_closed_joins_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is closed while it catches up is in no room from then on, though its peer never answers the
    close: neither what it was reading nor other topics of its registration bring it back."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> None:
        asked.set()
        await go_on.wait()
        if how != "unregistered":
            raise resuming.PartylineError("the disk is gone")
        arguments[-1].attach()

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await path_of(url, topics=["cats"])
            await publish(url, "cats", "kept")
            with monkeypatch.context() as patched:
                patched.setattr(resuming, "resume", slow)
                async with client(url, path):
                    await asyncio.wait_for(asked.wait(), 10)
                    if how == "unregistered":
                        await call(f"{url}/register/{path.rpartition('/')[2]}", "DELETE")
                    go_on.set()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    assert partyline.site.live, "its peer has not answered the close"
                    if how != "unregistered":
                        body = {"client_id": path.rpartition("/")[2], "topic": "dogs"}
                        assert (await call(f"{url}/add_topic", "POST", body))[0] == 200
                    assert not partyline.hub.rooms.names()
            await gone(partyline)
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_without_a_window_there_is_no_resume() -> None:
    """With resume_window = 0 a registration ends with its connection, so asking for resume is refused by name."""

    async def main() -> None:
        async with partyline_server(resume_window=0) as (_, url):
            status, body = await call(f"{url}/register", "POST", {"user_id": 1, "resume": True})
            assert (status, body["error"]["code"], body["error"]["field"]) == (422, "not_supported", "resume")
            assert "resume_window = 0" in body["error"]["message"]

    asyncio.run(main())


def test_a_slow_client_resumes_behind_its_cut() -> None:
    """A client cut off with 4008 gets everything after what it had confirmed, in order (guarantee 5)."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=200_000) as (partyline, url):
            path = await path_of(url)
            async with client(url, path) as one:
                await publish(url, "cats", "first")
                assert await one.texts(1) == ["first"]
                await one.confirm(1)
                one.socket.peer.stop_reading()
                for number in range(400):
                    data = json.dumps(f"{number} " + "x" * 50_000).encode()
                    partyline.hub.publish(Draft("cats", data, f"{number:032x}"))
                    await asyncio.sleep(0)
                (session,) = (live.session for live in partyline.site.live if isinstance(live, WebSocket))
                assert isinstance(session, ResumingSession)
                assert partyline.counters.limits["outbox_bytes"] == 1
            await gone(partyline)
            async with client(url, path) as one:
                got = await one.texts(400)
                assert [int(message.split()[0]) for message in got] == list(range(400))

    asyncio.run(main())


@pytest.mark.alone
def test_a_quiet_connection_moves_on() -> None:
    """If only other topics are busy, the confirmed position follows at the heartbeat, ahead of retention."""

    async def main() -> None:
        async with partyline_server(ping_interval=0.3, ping_timeout=0.2) as (partyline, url):
            path = await path_of(url)
            registration = partyline.registry.find(path.removeprefix("/ws/"))
            async with client(url, path) as one:
                await publish(url, "dogs", 1, 2, 3)
                payload = await one.ping(0)
                assert payload == f"{partyline.store.epoch}-3".encode()
                await one.pong(payload)
                assert str(registration.confirmed) == payload.decode()

    asyncio.run(main())


async def read(socket: Any, count: int) -> list[Event]:
    async with asyncio.timeout(20):
        return [await socket.recv() for _ in range(count)]


@pytest.mark.check
def test_a_plain_library_across_a_killed_server(tmp_path: Path) -> None:
    """A client of the websockets library, which knows nothing of us, misses nothing across `kill -9`: its pongs
    confirm, and its URL stays valid."""

    async def main() -> None:
        db = tmp_path / "party.db"
        async with serving(db=db) as server:
            address = await register(server.url, topic="cats", resume=True)
            async with websockets.connect(address) as socket:
                await publish(server.url, "cats", *range(5))
                assert await read(socket, 5) == [str(number) for number in range(5)]
                await publish(server.url, "cats", "sent, and perhaps not confirmed")
                await read(socket, 1)
                await server.end(signal.SIGKILL)
        async with serving("--port", str(server.port), db=db) as server:
            await publish(server.url, "cats", "away")
            async with websockets.connect(address) as socket:
                got = await read(socket, 1)
                while got[-1] != "away":
                    got += await read(socket, 1)
                expected = [*map(str, range(5)), "sent, and perhaps not confirmed", "away"]
                assert got == expected[-len(got) :]

    asyncio.run(main())


@pytest.mark.check
def test_topics_that_change_before_the_gap_is_told(tmp_path: Path) -> None:
    """In a log with a new epoch, a client whose first frame comes with its handshake and changes its topics is told of
    the gap as any other, and begins with what is published from then on."""

    async def main() -> None:
        db = tmp_path / "log.db"
        async with serving(db=db) as first:
            path = await path_of(first.url)
            await publish(first.url, "cats", "of the old epoch")
            assert await first.end() == 0
        async with serving("--new-epoch", db=db) as second, connected(second.url) as peer:
            topics = frame(TEXT, b'{"topics": ["cats", "dogs"]}', key=MASK)
            await peer.send(upgrade(path) + topics)
            one = Client(WebSocketPeer(peer, await peer.answer()))
            (told,) = await one.texts(1)
            assert json.loads(told)["error"]["code"] == "not_recovered"
            await publish(second.url, "dogs", "live")
            assert await one.texts(1) == ["live"]

    asyncio.run(main())
