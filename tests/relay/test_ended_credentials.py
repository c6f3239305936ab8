"""When a credential ends, by revocation or by time, what was queued for it on any carrier is not sent (hostile 56)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from partyline import Application, Partyline, SocketIO, running
from partyline.relay.revocations import Revoker
from partyline.relay.v1.events import EventStream
from partyline.server.websocket import WebSocket
from partyline.trust.keys import Token
from tests.relay.test_access import Nothing
from tests.relay.test_tokens import ROOT_KEY, ask, classic, ended, revoke, settings
from tests.relay.v1.test_events import gone, joined, say, stream
from tests.relay.v1.test_websocket import line, run
from tests.server.asgi_servers import SERVERS, asgi_server
from tests.server.peers import connected, websocket
from tests.server.servers import eventually
from tests.socketio.clients import Client, on, polled
from tests.tokens import token

End = Callable[[Partyline, str], Awaitable[None]]


async def by_user(partyline: Partyline, url: str) -> None:
    await revoke(url, sub="ann")


async def by_id(partyline: Partyline, url: str) -> None:
    await revoke(url, jti="t1")


async def by_time(partyline: Partyline, url: str) -> None:
    """Wait for the token's deadline, which cannot be queried."""
    await eventually(lambda: not partyline.hub.rooms.members("cats"), "the token's time is over")


ENDS = [by_user, by_id, pytest.param(by_time, marks=pytest.mark.check)]


def of_ann(end: End) -> str:
    """A token that ends as `end` says."""
    return token("ann", 1.5 if end is by_time else 600.0, jti="t1")


async def subscribed(client: Client, own: str) -> None:
    """In the main namespace and in `/relay`, with a subscription to `cats` there."""
    await client.enter()
    await client.enter("/relay", {"token": own})
    await client.say('2/relay,1["subscribe",{"topic":"cats"}]')
    answer = await client.next()
    assert isinstance(answer, str)
    assert answer.startswith("3/relay,1[{"), answer


async def rest(client: Client) -> list[Any]:
    """What arrives until `/relay` ends, without the heartbeats."""
    found: list[Any] = []
    while not found or found[-1] != "1/relay,":
        found.append(await client.next())
    return found


REASONS = {by_user: "token revoked", by_id: "token revoked", by_time: "token expired"}


def closed(end: End) -> list[str]:
    """How `/relay` ends, and nothing else."""
    told = {"code": 4401, "reason": REASONS[end]}
    return ['2/relay,["closed",' + json.dumps(told, separators=(",", ":")) + "]", "1/relay,"]


@pytest.mark.parametrize("end", ENDS)
def test_polling(end: End) -> None:
    """Events, acknowledgements and pages of `/relay` that wait for a GET are dropped, but not those of other namespaces
    on the same connection (hostile 56)."""

    async def main() -> None:
        io = SocketIO()
        async with running(settings(), extras=[io]) as (partyline, url), polled(url) as client:
            await subscribed(client, of_ann(end))
            await say(partyline, "cats", "secret")
            await client.say('2/relay,2["history",{"topic":"cats"}]')
            (connection,) = io.engine.connections.values()
            await eventually(lambda: connection._session.queued > 200, "message and page wait")
            io.emit("said", "secret, but for everybody")
            await end(partyline, url)
            await say(partyline, "cats", "later")
            assert await rest(client) == ['2["said","secret, but for everybody"]', *closed(end)]

    run(main())


@pytest.mark.parametrize("end", ENDS)
def test_socketio_on_a_websocket(end: End) -> None:
    """What waits for `/relay` in the outbox of a WebSocket is dropped, but not what waits there for other namespaces
    (hostile 56)."""

    async def main() -> None:
        io = SocketIO()
        async with running(settings(), extras=[io]) as (partyline, url), connected(url) as peer:
            client = await on(peer)
            await subscribed(client, of_ann(end))
            (socket,) = [one for one in partyline.site.live if isinstance(one, WebSocket)]
            socket.pause_writing()  # as the transport does when the peer does not read
            await say(partyline, "cats", "secret", "secret " * 1_000)
            await client.say('2/relay,2["history",{"topic":"cats"}]')
            await eventually(lambda: len(socket._outbox or ()) == 3, "two messages and a page wait")
            io.emit("said", b"\x01\x02", "for everybody " * 1_000)
            await end(partyline, url)
            socket.resume_writing()
            found = await rest(client)
            assert found[0].startswith('51-["said",')
            assert found[1] == b"\x01\x02"
            assert found[2:] == closed(end)
            assert partyline.counters.dropped == 3

    run(main())


@pytest.mark.parametrize("end", ENDS)
def test_v1(end: End) -> None:
    """What waits in the outbox of a v1 WebSocket is dropped (hostile 56)."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), line(url, of_ann(end)) as client:
            await client.ask("subscribe", topic="cats")
            (socket,) = [one for one in partyline.site.live if isinstance(one, WebSocket)]
            socket.pause_writing()
            await say(partyline, "cats", "secret")
            await end(partyline, url)
            socket.resume_writing()
            assert await client.ended() == (4401, REASONS[end])
            assert not client.heard

    run(main())


@pytest.mark.parametrize("end", ENDS)
def test_events(end: End) -> None:
    """What waits for the reader of an event stream is dropped (hostile 56)."""

    async def main() -> None:
        rules = settings(close_timeout=0.1, outbox_bytes=1 << 25)
        async with running(rules) as (partyline, url), stream(url, "cats", token=of_ann(end), buffer=4096) as client:
            await joined(partyline, "cats")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (source,) = [one for one in partyline.site.live if isinstance(one, EventStream)]
            while len(source._outbox) < 5:
                await say(partyline, "cats", "x" * 100_000)
                await asyncio.sleep(0)
            if end is by_time:
                await eventually(lambda: not source._outbox, "the token's time is over")
            else:
                await end(partyline, url)
            assert not source._outbox
            await say(partyline, "cats", "later")
            assert not source._outbox
            await gone(partyline)

    run(main())


@pytest.mark.parametrize("ahead", [-5, 0, 0.5, 5, 30, 55])
def test_a_fast_clock(ahead: float) -> None:
    """A revocation by user covers a token issued by a clock ahead of ours, with its connection and stream, and the
    answer gives the time up to which tokens are refused (hostile 56)."""

    async def main() -> None:
        own = token("ann", iat=time.time() + ahead)
        async with running(settings()) as (partyline, url), line(url, own) as client:
            await client.ask("subscribe", topic="cats")
            async with stream(url, "cats", token=own) as events:
                await joined(partyline, "cats", 2)
                answer = await revoke(url, sub="ann")
                assert answer["ended"] == 2
                await say(partyline, "cats", "secret")
                assert await client.ended() == (4401, "token revoked")
                assert not client.heard
                assert await events.rest() == []
            assert await ask(url, "GET", "/v1/topics/cats/messages", None, own) == (401, "token_revoked")
            later = token("ann", iat=answer["time"] + 0.5)
            assert (await ask(url, "GET", "/v1/topics/cats/messages", None, later))[0] == 200

    run(main())


def test_a_clock_that_was_ahead_is_remembered() -> None:
    """Once one token has shown that its issuer's clock is ahead, the next revocation reaches as far for another user,
    whose token we have not seen yet; otherwise a token issued after the revocation is valid at once."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            history = ("GET", "/v1/topics/cats/messages", None)
            await revoke(url, sub="ann")
            assert (await ask(url, *history, token("ann", iat=time.time() + 1)))[0] == 200
            fast = token("eve", iat=time.time() + 30)
            assert (await ask(url, *history, token("bob", iat=time.time() + 40)))[0] == 200
            await revoke(url, sub="eve")
            assert await ask(url, *history, fast) == (401, "token_revoked")

    run(main())


def test_a_registration_of_a_fast_clock() -> None:
    """The connection of a registration that was made with a token from a fast clock ends, too (hostile 56)."""

    async def main() -> None:
        own = token("ann", iat=time.time() + 30)
        async with running(settings()) as (_, url), classic(url, "ann", own) as (socket, connection_id):
            assert (await revoke(url, sub="ann"))["ended"] == 1
            assert await ended(socket) == (4001, "token revoked")
            assert (await ask(url, "DELETE", f"/register/{connection_id}", None, ROOT_KEY))[0] == 404

    run(main())


def test_a_holder_that_cannot_be_ended_keeps_no_other_one() -> None:
    """A revocation ends everybody else who holds the token, and is written, where ending one of them fails
    (hostile 56)."""
    done: list[str] = []

    class Holder:
        def __init__(self, name: str) -> None:
            self.name = name

        def revoked(self) -> None:
            done.append(self.name)
            if self.name == "bad":
                raise RuntimeError("as asked")

    class Table(Nothing):
        async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
            done.append("written")

    async def main() -> None:
        revoker = Revoker(Table(), 60.0)
        for name in ("first", "bad", "last"):
            assert revoker.hold(Token("ann", None, 1.0), Holder(name))
        assert (await revoker.revoke("sub", "ann"))[1] == 3
        assert done == ["first", "bad", "last", "written"]

    asyncio.run(main())


async def unregistered(url: str, connection_id: str) -> None:
    assert (await ask(url, "DELETE", f"/register/{connection_id}", None, ROOT_KEY))[0] == 200


async def revoked(url: str, connection_id: str) -> None:
    await revoke(url, jti="t1")


@pytest.mark.parametrize("end", [unregistered, revoked])
@pytest.mark.parametrize("name", SERVERS)
def test_a_registration_that_ends_while_its_connection_is_accepted(
    name: str, end: Callable[[str, str], Awaitable[None]]
) -> None:
    """Under an ASGI server that takes its time to accept, a registration that ended meanwhile is closed with 4001,
    and is in no topic."""

    async def main() -> None:
        application, asked, accept = Application(settings()), asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            async def later(message: Any) -> None:
                if message["type"] == "websocket.accept":
                    asked.set()
                    await accept.wait()
                await send(message)

            await application(scope, receive, later)

        async with asgi_server(name, slow) as url:
            partyline = await application.start()
            status, found = await ask(url, "POST", "/register", {"user_id": "ann"}, of_ann(by_id))
            assert status == 200, found
            path = found["url"].partition("/ws/")[2]
            async with connected(url) as peer:
                opening = asyncio.create_task(websocket(peer, f"/ws/{path}"))
                await asked.wait()
                await end(url, path)
                accept.set()
                socket = await opening
                before, close = await socket.until_close()
                assert (before, close.code) == ([], 4001)
            assert not partyline.hub.rooms.members("cats")
            assert not partyline.registry._by_hash
            await eventually(lambda: not partyline.site.live, "the connection is gone")

    run(main())
