"""Engine.IO over real sockets: handshake, polling, WebSocket, upgrade, heartbeat, close."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from typing import NoReturn

import pytest

from partyline import ConfigError, EngineIO
from partyline.engineio.arriving import Opening
from partyline.engineio.connection import EngineConnection
from partyline.engineio.receiver import Receiver, Request
from partyline.engineio.sessions import Hooks, Sessions
from partyline.models import Payload
from partyline.trust.perimeter import Peer
from partyline.wire.engineio.handshake import BAD_REQUEST, Asked, refusal
from partyline.wire.engineio.packets import BINARY_HEADS
from partyline.wire.websocket.codec import Close
from partyline.wire.websocket.frames import Frames
from tests.server.peers import close_frame, connected, request, upgrade, websocket
from tests.server.servers import eventually, nothing_is_held

from .clients import Polling, Run, Watched, served, upgraded

WS = "/engine.io/?EIO=4&transport=websocket"

# Request


def test_polling_handshake(run: Run) -> None:
    """A polling handshake is answered with exactly five fields, in milliseconds, and 128 random bits of id."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url), Polling.at(url) as client:
            assert client.opened == {
                "sid": client.sid,
                "upgrades": ["websocket"],
                "pingInterval": 300,
                "pingTimeout": 200,
                "maxPayload": 1_000_000,
            }
            assert len(base64.urlsafe_b64decode(client.sid + "==")) == 16
            assert watched.seen == ["connect"]
            assert watched.last is not None
            assert watched.last.transport == "polling"

    run(main())


def test_websocket_handshake(run: Run) -> None:
    """A WebSocket handshake opens a session without upgrades; messages go both ways, text and binary."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            client = await websocket(peer, WS)
            opened = json.loads((await client.text())[1:])
            assert opened["upgrades"] == []
            await client.say("4hello", "4", "4é🎉")
            await peer.send(client.wire.binary(b"\x00\xff"))
            assert [await client.next() for _ in range(4)] == ["4hello", "4", "4é🎉", b"\x00\xff"]
            assert watched.seen == ["connect", "hello", "", "é🎉", b"\x00\xff"]
            await client.close()
        await eventually(lambda: watched.seen[-1] == "transport close", "the application hears of the end")

    run(main())


REFUSED = [
    ("GET", "", 0),
    ("GET", "?EIO=4", 0),
    ("GET", "?EIO=4&transport=abc", 0),
    ("GET", "?transport=polling", 5),
    ("GET", "?EIO=abc&transport=polling", 5),
    ("GET", "?EIO=3&transport=polling", 5),
    ("POST", "?EIO=4&transport=polling", 2),
    ("PUT", "?EIO=4&transport=polling", 2),
    ("GET", "?EIO=4&transport=polling&sid=unknown", 1),
    ("POST", "?EIO=4&transport=polling&sid=unknown", 1),
    ("PUT", "?EIO=4&transport=polling&sid=unknown", 3),
    ("GET", "?EIO=4&transport=websocket", 3),
]


@pytest.mark.parametrize(("method", "query", "code"), REFUSED)
def test_refusals(method: str, query: str, code: int) -> None:
    """Each wrong request gets a 400 with Engine.IO's number and message, and the application's hook is called."""
    heard: list[tuple[int, bytes]] = []

    async def main() -> None:
        watched = Watched(connection_error=lambda error, handshake: heard.append((error.number, handshake.query)))
        async with served(watched) as (_, url), connected(url) as peer:
            await peer.send(request(method, f"/engine.io/{query}", b"" if method != "GET" else None))
            answer = await peer.answer()
            assert answer.status == 400
            assert answer.headers["content-type"] == "application/json"
            assert set(answer.json) == {"code", "message"}
            assert answer.json["code"] == code
            assert watched.seen == []

    asyncio.run(main())
    assert heard == [(code, query.removeprefix("?").encode())]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?EIO=4", 0),
        ("?transport=websocket", 5),
        ("?EIO=4&transport=websocket&sid=x", 1),
        ("?EIO=4&transport=polling", 3),
    ],
)
def test_refused_websockets(query: str, code: int) -> None:
    """A WebSocket handshake is refused in the same form, instead of its 101."""

    async def main() -> None:
        async with served(Watched()) as (_, url), connected(url) as peer:
            await peer.send(upgrade(f"/engine.io/{query}"))
            answer = await peer.answer()
            assert (answer.status, answer.json["code"]) == (400, code)

    asyncio.run(main())


def test_transports_may_be_left_out() -> None:
    """A transport that is switched off is unknown, and is not offered as an upgrade."""

    async def main() -> None:
        async with served(Watched(transports=["polling"])) as (_, url), Polling.at(url) as client:
            assert client.opened["upgrades"] == []
            async with connected(url) as peer:
                await peer.send(upgrade(WS))
                assert (await peer.answer()).json["code"] == 0

    asyncio.run(main())


def test_allow_request() -> None:
    """The application may refuse a handshake with its own message; that is a 403, and there is no session."""

    def allow(handshake: Request) -> bool | str | None:
        asked = dict(handshake.headers).get(b"x-ask")
        return {b"text": "not today", b"false": False, b"true": True, b"none": None}[asked or b"none"]

    async def main() -> None:
        watched = Watched(allow_request=allow)
        async with served(watched) as (_, url), connected(url) as peer:
            for asked, status, message in (
                ("text", 403, "not today"),
                ("false", 403, "Forbidden"),
                ("true", 200, None),
                ("none", 200, None),
            ):
                await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling", None, f"X-Ask: {asked}"))
                answer = await peer.answer()
                assert answer.status == status
                if message is not None:
                    assert answer.json == {"code": 4, "message": message}
            await peer.send(upgrade(WS, "X-Ask: text"))
            assert (await peer.answer()).json == {"code": 4, "message": "not today"}
            assert watched.seen == ["connect", "connect"]

    asyncio.run(main())


def test_headers_and_cookie() -> None:
    """A cookie and headers are sent with the handshake, other headers with each answer, including the 101."""
    watched = Watched(
        cookie="io",
        initial_headers=lambda handshake: [("x-initial", handshake.transport)],
        headers=lambda handshake: [("x-each", "1")],
        generate_id=lambda handshake: f"id-{len(watched.engine.connections)}",
    )

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling"))
            first = (await peer.answer()).headers
            assert first["set-cookie"] == "io=id-0; Path=/; HttpOnly; SameSite=Lax"
            assert (first["x-initial"], first["x-each"]) == ("polling", "1")
            assert watched.last is not None
            watched.last.send_message("x")
            await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling&sid=id-0"))
            second = (await peer.answer()).headers
            assert "set-cookie" not in second
            assert "x-initial" not in second
            assert second["x-each"] == "1"
        async with served(watched) as (_, url), connected(url) as peer:
            third = (await websocket(peer, WS)).answer.headers
            assert third["set-cookie"].startswith("io=id-")
            assert (third["x-initial"], third["x-each"]) == ("websocket", "1")

    asyncio.run(main())


@pytest.mark.parametrize(
    "rules", [{"path": "engine.io/"}, {"path": "/engine.io"}, {"transports": []}, {"transports": ["x"]}]
)
def test_rules_that_cannot_be(rules: dict[str, object]) -> None:
    """Impossible options of an engine are refused before anything is built."""
    with pytest.raises(ConfigError):
        EngineIO(**rules)  # type: ignore[arg-type]


# Polling


def test_messages_by_polling(run: Run) -> None:
    """Packets posted together are echoed in one GET, in order, text and binary."""

    async def main() -> None:
        async with served(Watched()) as (_, url), Polling.at(url) as client:
            await client.say("4hello")
            assert await client.fetch() == "4hello"
            await client.say("4a\x1ebAQID\x1e4é")
            assert await client.fetch() == "4a\x1ebAQID\x1e4é"
            await client.ask()
            await client.say("4b\x1e4c\x1e4d")
            assert (await client.gets.answer()).body == b"4b\x1e4c\x1e4d"

    run(main())


def test_a_body_has_sixteen_packets_at_most() -> None:
    """A body has at most sixteen packets; the rest waits for the next GET."""

    async def main() -> None:
        async with served(Watched()) as (_, url), Polling.at(url) as client:
            await client.say("\x1e".join(f"4{n}" for n in range(20)))
            assert (await client.fetch()).split("\x1e") == [f"4{n}" for n in range(16)]
            assert (await client.fetch()).split("\x1e") == [f"4{n}" for n in range(16, 20)]

    asyncio.run(main())


@pytest.mark.parametrize("body", ["abc", "", "4a\x1e", "bAQ*D", "2", "0", b"4\xff"])
def test_malformed_posts_close(body: str | bytes) -> None:
    """A malformed body gets a 400 with code 3, and the session is unknown afterwards."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url), Polling.at(url) as client:
            answer = await client.post(body)
            assert (answer.status, answer.json["code"]) == (400, 3)
            answer = await client.get()
            assert (answer.status, answer.json["code"]) == (400, 1)
            assert watched.seen == ["connect", "parse error"]

    asyncio.run(main())


def test_a_body_has_a_limit(run: Run) -> None:
    """A POST beyond `max_payload` gets a 413, from its length or while it arrives."""

    async def main() -> None:
        watched = Watched(max_payload=1000)
        async with served(watched) as (_, url):
            async with Polling.at(url) as client:
                await client.say("4" + "x" * 999)
                answer = await client.post("4" + "x" * 1000)
                assert answer.status == 413
            async with Polling.at(url) as client:
                head = f"POST {client.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                await client.posts.send(head.encode() + b"3e9\r\n" + b"4" + b"x" * 1000 + b"\r\n0\r\n\r\n")
                assert (await client.posts.answer()).status == 413
            assert watched.seen == ["connect", "x" * 999, "connect"]

    run(main())


def test_a_second_get_closes(run: Run) -> None:
    """With a second GET the first one gets `1`, the second one a 400, and the session is gone."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url), Polling.at(url) as client, connected(url) as other:
            await client.ask()
            await eventually(lambda: watched.last is not None and watched.last._session.hanging, "the GET hangs")
            await other.send(request("GET", client.path))
            assert (await other.answer()).status == 400
            assert (await client.gets.answer()).body == b"1"
            assert (await client.get()).status == 400
            assert watched.seen == ["connect", "transport error"]

    run(main())


def test_an_aborted_get_closes(run: Run) -> None:
    """A GET whose client leaves closes the session."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (partyline, url):
            async with Polling.at(url) as client:
                await client.ask()
                await eventually(lambda: watched.last is not None and watched.last._session.hanging, "the GET hangs")
                await client.gets.close()
                await eventually(lambda: watched.seen[-1] == "transport error", "the session is over")
                assert (await client.post("4a")).status == 400
            await nothing_is_held(partyline)
            assert watched.engine.connections == {}

    run(main())


@pytest.mark.parametrize("first", ["GET", "POST"])
def test_a_client_that_leaves(run: Run, first: str) -> None:
    """POST `1` and a GET, in either order: the GET gets `6`, later ones 400."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (partyline, url):
            async with Polling.at(url) as client:
                if first == "GET":
                    await client.ask()
                    await eventually(lambda: watched.last is not None and watched.last._session.hanging, "it hangs")
                    await client.say("1")
                else:
                    await client.say("1")
                    await client.ask()
                assert (await client.gets.answer()).body == b"6"
                assert (await client.get()).status == 400
                assert watched.seen == ["connect", "transport close"]
            await nothing_is_held(partyline)

    run(main())


def test_compression() -> None:
    """Answers from 1,024 bytes on are compressed for clients that accept gzip, and only for them."""

    async def main() -> None:
        async with served(Watched(max_payload=200_000)) as (_, url), Polling.at(url) as client:
            for size, header, packed in (
                (2000, "Accept-Encoding: deflate, gzip;q=0.5", True),
                (150_000, "Accept-Encoding: gzip", True),
                (1023, "Accept-Encoding: gzip, deflate", False),
                (2000, "Accept-Encoding: gzip;q=0, identity", False),
                (2000, "X-Other: gzip", False),
            ):
                await client.say("4" + "x" * (size - 1))
                answer = await client.get(header)
                assert (answer.headers.get("content-encoding") == "gzip") is packed
                assert answer.headers["vary"] == ("Origin, accept-encoding" if packed else "Origin")
                body = gzip.decompress(answer.body) if packed else answer.body
                assert body == b"4" + b"x" * (size - 1)

    asyncio.run(main())


def test_a_handler_that_raises() -> None:
    """A handler that raises loses only its message, on either transport."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url):
            async with Polling.at(url) as client:
                await client.say("4fail\x1e4after")
                assert await client.fetch() == "4after"
            async with connected(url) as peer:
                socket = await websocket(peer, WS)
                await socket.text()
                await socket.say("4fail", "4after")
                assert await socket.text() == "4after"

    asyncio.run(main())


def test_a_client_that_does_not_fetch() -> None:
    """What waits for a client on polling is bounded; beyond the bound it is cut."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched, outbox_bytes=10_000) as (partyline, url), Polling.at(url):
            connection = watched.last
            assert connection is not None
            for _ in range(20):
                connection.send_message("x" * 1000)
            assert connection.is_open, "a sender to many may rely on nobody leaving meanwhile"
            assert connection._session.queued <= 11_100
            await eventually(lambda: watched.seen == ["connect", "forced close"], "it is cut")
            assert partyline.counters.limits["outbox_bytes"] == 1

    asyncio.run(main())


def test_too_many_messages_by_polling() -> None:
    """The event rate applies to polling, too."""
    watched = Watched()

    async def main() -> None:
        async with served(watched, events_per_second=1.0, events_burst=3.0) as (_, url), Polling.at(url) as client:
            await client.post("\x1e".join(["4x"] * 20))
            assert watched.seen == ["connect", "x", "x", "x", "forced close"]

    asyncio.run(main())


@pytest.mark.parametrize(("version", "packet"), [(4, "3"), (4, "6"), (3, "2")])
def test_too_many_heartbeats_by_polling(version: int, packet: str) -> None:
    """Heartbeats count for the rate on polling as on a WebSocket: a client that floods us with them is closed (hostile
    48)."""
    watched = Watched(version_3=True)
    written = packet if version == 4 else f"1:{packet}"
    separator = "\x1e" if version == 4 else ""

    async def main() -> None:
        async with (
            served(watched, events_per_second=1.0, events_burst=3.0) as (partyline, url),
            Polling.at(url, version, "" if version == 4 else "&b64=1") as client,
        ):
            assert (await client.post(separator.join([written] * 3))).status == 200
            assert (await client.post(separator.join([written] * 3))).status == 200
            assert watched.seen == ["connect"]
            assert (await client.post(separator.join([written] * 20))).status == 400
            assert watched.seen == ["connect", "forced close"]
            assert partyline.counters.limits["events_per_second"] == 4

    asyncio.run(main())


def test_sessions_on_polling_have_limits() -> None:
    """A polling session holds no socket, but is counted all the same, in all and for each address."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        for settings, status, code in (
            ({"max_connections": 3}, 503, "overloaded"),
            ({"max_connections_per_address": 3}, 429, "too_many_connections"),
        ):
            async with served(watched, **settings) as (_, url), connected(url) as peer:
                sids = []
                for _ in range(3):
                    await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling"))
                    sids.append(json.loads((await peer.answer()).body[1:])["sid"])
                await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling"))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (status, code)
                await peer.send(request("POST", f"/engine.io/?EIO=4&transport=polling&sid={sids[0]}", b"1"))
                assert (await peer.answer()).body == b"ok"
                await peer.send(request("GET", f"/engine.io/?EIO=4&transport=polling&sid={sids[0]}"))
                assert (await peer.answer()).body == b"6"
                await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling"))
                assert (await peer.answer()).status == 200
            assert watched.engine.connections == {}
            assert watched.engine._sessions._polling == {}

    asyncio.run(main())


def test_sessions_of_a_network_of_ipv6_count_together() -> None:
    """Polling sessions are counted for the /64 of an IPv6 address that a trusted proxy names, coming and going."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        settings: dict[str, object] = {
            "max_connections_per_address": 2,
            "trusted_proxies": ["127.0.0.1"],
            "insecure": True,
        }
        async with served(watched, **settings) as (_, url), connected(url) as peer:

            async def opens(address: str) -> int:
                named = f"X-Forwarded-For: {address}"
                await peer.send(request("GET", "/engine.io/?EIO=4&transport=polling", None, named))
                return (await peer.answer()).status

            assert [await opens(f"2001:db8::{n}") for n in range(1, 4)] == [200, 200, 429]
        async with served(watched, **settings) as (_, url), connected(url) as peer:
            assert [await opens(f"2001:db8:0:{n}::1") for n in range(1, 4)] == [200, 200, 200]
        assert watched.engine._sessions._polling == {}

    asyncio.run(main())


# Heartbeat


def test_ping_and_pong(run: Run) -> None:
    """The server pings after each interval; a client that answers stays, on either transport."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url):
            async with connected(url) as peer:
                client = await websocket(peer, WS)
                await client.text()
                for _ in range(3):
                    assert await client.text() == "2"
                    await client.say("3")
            async with Polling.at(url) as polling:
                for _ in range(3):
                    assert await polling.fetch() == "2"
                    await polling.say("3")
        assert watched.seen.count("ping timeout") == 0

    run(main())


@pytest.mark.alone
def test_ping_timeout(run: Run) -> None:
    """A client that does not answer is closed interval + timeout after it connected, and not before."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (partyline, url):
            async with connected(url) as peer:
                client = await websocket(peer, WS)
                await client.text()
                began = time.monotonic()
                before, close = await client.until_close()
                assert before == ["2"]
                assert (close.code, close.reason) == (1011, "ping timeout")
                assert 0.49 < time.monotonic() - began < 1.0
            async with Polling.at(url) as polling:
                await asyncio.sleep(0.5)
                assert (await polling.get()).status == 400
            assert watched.seen == ["connect", "ping timeout"] * 2
            await nothing_is_held(partyline)

    run(main())


# WebSocket


@pytest.mark.parametrize("message", ["abc", "", "7", "2", "0"])
def test_malformed_websocket_messages_close(message: str) -> None:
    """An invalid packet closes the WebSocket."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            client = await websocket(peer, WS)
            await client.text()
            await client.say(message, "4behind")
            _, close = await client.until_close()
            assert (close.code, close.reason) == (1002, "parse error")
            assert watched.seen == ["connect", "parse error"]

    asyncio.run(main())


def test_a_websocket_message_has_a_limit() -> None:
    """A WebSocket message beyond `max_payload` gets 1009."""

    async def main() -> None:
        async with served(Watched(max_payload=1000)) as (_, url), connected(url) as peer:
            client = await websocket(peer, WS)
            await client.text()
            await client.say("4" + "x" * 1000)
            assert (await client.until_close())[1].code == 1009

    asyncio.run(main())


def test_close_by_the_server() -> None:
    """What was sent before the end arrives before it, on either transport."""
    watched = Watched()

    async def main() -> None:
        async with served(watched) as (_, url):
            async with connected(url) as peer:
                client = await websocket(peer, WS)
                await client.text()
                assert watched.last is not None
                watched.last.send_messages(["a", b"b"])
                watched.last.close()
                watched.last.send_message("too late")
                before, close = await client.until_close()
                assert (before, close.code) == (["4a", b"b"], 1000)
            async with Polling.at(url) as polling:
                watched.last.send_messages(["a", b"b"])
                watched.last.close()
                watched.last.send_message("too late")
                assert await polling.fetch() == "4a\x1ebYg=="
                assert await polling.fetch() == "1"
                assert (await polling.get()).status == 400
        assert watched.seen == ["connect", "forced close"] * 2

    asyncio.run(main())


def test_payloads_of_the_hub() -> None:
    """Frames that a dialect encoded once reach members on either transport."""
    watched = Watched()
    frames = Frames.of(["4a", b"b"])

    async def main() -> None:
        async with served(watched) as (_, url):
            async with connected(url) as peer:
                client = await websocket(peer, WS)
                await client.text()
                assert watched.last is not None
                watched.last.offer(Payload(frames))
                watched.last.send(frames)
                assert [await client.next() for _ in range(4)] == ["4a", b"b", "4a", b"b"]
            async with Polling.at(url) as polling:
                watched.last.offer(Payload(frames))
                watched.last.send(frames)
                assert await polling.fetch() == "4a\x1ebYg==\x1e4a\x1ebYg=="

    asyncio.run(main())


# The upgrade


def test_an_upgrade(run: Run) -> None:
    """Through probe, release of the GET and upgrade nothing is lost or reordered; then polling is over."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (partyline, url), Polling.at(url) as client, connected(url) as peer:
            connection = watched.last
            assert connection is not None
            await client.ask()
            await eventually(lambda: connection._session.hanging, "the GET hangs")
            socket = await upgraded(peer, client.sid)
            await socket.say("2probe")
            assert await socket.text() == "3probe"
            assert (await client.gets.answer()).body == b"6"
            connection.send_message("while upgrading")
            await client.say("4posted")
            await socket.say("5", "4at once")  # in one read
            assert [await socket.text() for _ in range(3)] == ["4while upgrading", "4posted", "4at once"]
            assert connection.transport == "websocket"
            assert connection not in partyline.site.live
            for answer in (await client.get(), await client.post("4x")):
                assert (answer.status, answer.json["code"]) == (400, 3)
            async with connected(url) as another:
                second = await upgraded(another, client.sid)
                before, close = await second.until_close()
                assert (before, close.code) == ([], 1000)
            await socket.say("4still here")
            assert await socket.text() == "4still here"
            assert watched.seen == ["connect", "posted", "at once", "still here"]

    run(main())


@pytest.mark.alone
def test_an_upgrade_that_is_never_finished(run: Run) -> None:
    """The candidate is closed after `upgrade_timeout`, polling goes on, and nothing is left of it (hostile 21)."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (partyline, url):
            async with Polling.at(url) as client, connected(url) as peer:
                socket = await upgraded(peer, client.sid)
                await socket.say("2probe")
                began = time.monotonic()
                before, close = await socket.until_close()
                assert (before, close.code) == (["3probe"], 1000)
                assert 0.4 < time.monotonic() - began < 1.5
                await client.say("4on")
                assert await client.fetch() == "4on"
                await client.say("1")
                await client.fetch()
            await nothing_is_held(partyline)

    run(main())


def test_a_candidate_that_goes_away() -> None:
    """When a candidate leaves, its session goes on with polling, and the client may try again."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (_, url), Polling.at(url) as client:
            for probed in (False, True):
                async with connected(url) as peer:
                    socket = await upgraded(peer, client.sid)
                    if probed:
                        await socket.say("2probe")
                        await socket.text()
                assert watched.last is not None
                await eventually(lambda: watched.last._session.state.value == "polling", "it is gone")  # type: ignore[union-attr]
            async with connected(url) as peer:
                socket = await upgraded(peer, client.sid)
                await socket.say("4not a probe")
                assert (await socket.until_close())[0] == []
            async with connected(url) as peer:
                socket = await upgraded(peer, client.sid)
                await socket.say("2probe", "5", "4x")
                assert [await socket.text() for _ in range(2)] == ["3probe", "4x"]
            assert watched.seen[:2] == ["connect", "x"]

    asyncio.run(main())


# Protocol 3


def test_protocol_3_on_polling() -> None:
    """Protocol 3: payloads with lengths, octets for binary, base64 on request, and a pong for a ping."""
    watched = Watched(version_3=True, ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (_, url):
            async with Polling.at(url, 3) as client:
                await client.say("6:4hello3:4🎉")
                assert await client.fetch() == "6:4hello3:4🎉"
                await client.say("1:2")
                assert await client.fetch() == "1:3"
                answer = await client.post(b"\x01\x04\xff\x04\x01\x02\x03\x00\x02\xff4a", "application/octet-stream")
                assert answer.body == b"ok"
                answer = await client.get()
                assert answer.headers["content-type"] == "application/octet-stream"
                assert answer.body == b"\x01\x04\xff\x04\x01\x02\x03\x00\x02\xff4a"
            async with Polling.at(url, 3, "&b64=1") as client:
                client.path = client.path.replace("&b64=1", "")  # the handshake said it for the session
                await client.say("6:4hello6:b4AQID")
                assert await client.fetch() == "6:4hello6:b4AQID"
            assert watched.seen[:4] == ["connect", "hello", "🎉", b"\x01\x02\x03"]

    asyncio.run(main())


@pytest.mark.alone
def test_protocol_3_on_a_websocket(run: Run) -> None:
    """The open packet is sent in a write of its own, after the 101; binary begins with a byte 4; silence is noticed."""
    watched = Watched(version_3=True)

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            await peer.send(upgrade("/engine.io/?EIO=3&transport=websocket"))
            head = await peer.some()
            assert head.startswith(b"HTTP/1.1 101")
            assert head.endswith(b"\r\n\r\n")
            assert b'0{"sid"' in await peer.some()
            async with connected(url) as other:
                client = await websocket(other, "/engine.io/?EIO=3&transport=websocket")
                await client.text()
                await client.say("2", "4x")
                await other.send(client.wire.binary(b"\x04\x01"))
                assert [await client.next() for _ in range(3)] == ["3", "4x", b"\x04\x01"]
                began = time.monotonic()
                _, close = await client.until_close()
                assert close.reason == "ping timeout"
                assert 0.4 < time.monotonic() - began < 1.0
        assert watched.seen.count("ping timeout") == 2

    run(main())


def test_protocol_3_is_in_a_hurry() -> None:
    """If a client speaks before its open packet is sent, its message is handled after that."""
    watched = Watched(version_3=True)

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            client = await websocket(peer, "/engine.io/?EIO=3&transport=websocket")
            await client.say("4early")
            assert (await client.text())[0] == "0"
            assert await client.text() == "4early"

    asyncio.run(main())


@pytest.mark.parametrize(("version", "text"), [(3, "b4AQID"), (4, "bAQID")])
def test_a_websocket_that_takes_text_only(version: int, text: str) -> None:
    """A client with `b64=1` gets binary as text on a WebSocket, too, also from the hub."""
    watched = Watched(version_3=True)

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer:
            client = await websocket(peer, f"/engine.io/?EIO={version}&transport=websocket&b64=1")
            await client.text()
            await client.say(text)
            assert await client.text() == text
            assert watched.last is not None
            watched.last.offer(Payload(Frames.of(["4a", b"\x01\x02\x03"], BINARY_HEADS[version])))
            assert [await client.text() for _ in range(2)] == ["4a", text]
            assert watched.seen == ["connect", b"\x01\x02\x03"]

    asyncio.run(main())


def test_protocols_do_not_mix() -> None:
    """A session of one protocol does not accept requests of the other."""

    async def main() -> None:
        async with served(Watched(version_3=True)) as (_, url), Polling.at(url, 3) as client:
            client.path = client.path.replace("EIO=3", "EIO=4")
            answer = await client.get()
            assert (answer.status, answer.json["code"]) == (400, 3)

    asyncio.run(main())


def test_jsonp() -> None:
    """JSONP scripts are served if that is switched on."""

    async def main() -> None:
        async with served(Watched(version_3=True, jsonp=True)) as (_, url), connected(url) as peer:
            await peer.send(request("GET", "/engine.io/?EIO=3&transport=polling&j=7"))
            answer = await peer.answer()
            assert answer.headers["content-type"].startswith("text/javascript")
            text = answer.body.decode()
            assert text.startswith('___eio[7]("')
            opened = json.loads(text.removeprefix("___eio[7](").removesuffix(");"))
            sid = json.loads(opened.partition(":0")[2])["sid"]
            path = f"/engine.io/?EIO=3&transport=polling&j=7&sid={sid}"
            await peer.send(request("POST", path, b"d=6%3A4hello"))
            assert (await peer.answer()).body == b"ok"
            await peer.send(request("GET", path))
            assert (await peer.answer()).body == b'___eio[7]("6:4hello");'

    asyncio.run(main())


def test_a_page_of_another_origin() -> None:
    """An allowed page gets answers with CORS headers, also on refusals; any other page is refused earlier."""

    async def main() -> None:
        async with served(Watched(), cors_origins=("https://app.example",)) as (_, url), connected(url) as peer:
            path = "/engine.io/?EIO=4&transport=polling"
            for target, status in ((path, 200), (f"{path}&sid=unknown", 400)):
                await peer.send(request("GET", target, None, "Origin: https://app.example"))
                answer = await peer.answer()
                assert answer.status == status
                assert answer.headers["access-control-allow-origin"] == "https://app.example"
            await peer.send(request("GET", path))
            assert "access-control-allow-origin" not in (await peer.answer()).headers
            await peer.send(request("GET", path, None, "Origin: https://evil.example"))
            answer = await peer.answer()
            assert (answer.status, answer.code) == (403, "foreign_origin")

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("hook", ["allow_request", "generate_id", "initial_headers", "headers"])
@pytest.mark.parametrize("failure", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_fails(hook: str, transport: str, failure: type[BaseException]) -> None:
    """A failing hook affects only its client, which is told that it is not to blame; nothing is left of the session,
    and the server goes on (hostile 57)."""

    def fail(*_: object) -> None:
        raise failure("as asked")

    async def main() -> None:
        watched = Watched(**{hook: fail})
        async with served(watched) as (partyline, url), connected(url) as peer:
            path = f"/engine.io/?EIO=4&transport={transport}"
            await peer.send(request("GET", path) if transport == "polling" else upgrade(path))
            answer = await peer.answer()
            assert (answer.status, b"Error" in answer.body) == (500, False)
            assert partyline.counters.errors == 1
            assert not watched.engine.connections
            assert not watched.seen

    asyncio.run(main())


@pytest.mark.parametrize("failure", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_fails_later(failure: type[BaseException]) -> None:
    """A GET that hung is answered with 500 where the hook fails that gives the headers of its answer (hostile 57)."""
    asked: list[object] = []

    def headers(handshake: object) -> list[tuple[str, str]]:
        asked.append(handshake)
        if len(asked) > 1:
            raise failure("as asked")
        return []

    async def main() -> None:
        watched = Watched(headers=headers)
        async with served(watched) as (partyline, url), Polling.at(url) as client:
            await client.ask()
            assert watched.last is not None
            await eventually(lambda: watched.last is not None and watched.last.writable, "the GET hangs")
            watched.last.send("hello")
            answer = await client.gets.answer()
            assert (answer.status, b"Error" in answer.body) == (500, False)
            assert partyline.counters.errors == 1

    asyncio.run(main())


def test_an_id_that_is_taken_meanwhile() -> None:
    """A WebSocket whose id has been given out once more before its session could open is closed (hostile 57)."""

    class Taken(Sessions):
        def open(self, *_: object) -> NoReturn:
            raise refusal(BAD_REQUEST)

    async def main() -> None:
        hooks = Hooks(None, None, None, None, None)
        table = Taken(
            lambda *_: None,  # type: ignore[arg-type,return-value]
            frozenset(),
            hooks,
            version_3=True,
            jsonp=False,
            cookie=None,
            compress_from=0,
            strangers=False,
        )
        closed = asyncio.get_running_loop().create_future()

        class Socket:
            def close(self, code: int, reason: str) -> None:
                closed.set_result(code)

        opening = Opening(table, Asked(3, "websocket", None), Request("websocket", b"", [], Peer("", "ws", "")), "same")
        opening.opened(Socket())  # type: ignore[arg-type]
        assert await asyncio.wait_for(closed, 10) == 1011

    asyncio.run(main())


@pytest.mark.parametrize("failure", [RuntimeError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_an_accept_that_fails(transport: str, version: int, failure: type[BaseException]) -> None:
    """A connection whose receiver cannot be made ends, and nothing of it is left (hostile 57)."""

    def accept(*_: object) -> Receiver:
        raise failure("as asked")

    async def main() -> None:
        watched = Watched(accept=accept, version_3=True)
        async with served(watched) as (partyline, url), connected(url) as peer:
            path = f"/engine.io/?EIO={version}&transport={transport}"
            if transport == "polling":
                await peer.send(request("GET", path))
                await peer.answer()
            else:
                await (await websocket(peer, path)).until_close()
            await eventually(lambda: partyline.counters.errors == 1, "it is counted")
            if transport == "polling":
                (sid,) = watched.engine.connections
                await peer.send(request("GET", f"{path}&sid={sid}"))
                assert (await peer.answer()).body == (b"1" if version == 4 else b"1:1"), "its end is what it hears next"
            await eventually(lambda: not watched.engine.connections, "nothing is left")

    asyncio.run(main())


@pytest.mark.parametrize("failure", [RuntimeError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("event", ["connect", "message", "disconnect"])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_handler_that_fails(event: str, transport: str, failure: type[BaseException]) -> None:
    """A failing handler loses only its call, or its connection if it handles new ones, and the server goes on (hostile
    57)."""
    watched = Watched()

    def fail(*_: object) -> None:
        raise failure("as asked")

    getattr(watched.engine, f"on_{event}")(fail)

    async def main() -> None:
        async with served(watched) as (partyline, url):
            if transport == "polling":
                async with Polling.at(url) as client:
                    if event != "connect":
                        await client.say("4hello")
                        assert await client.fetch() == "4hello"
                    await client.post("1")
                    while (await client.get()).status == 200:
                        pass
            else:
                async with connected(url) as peer:
                    wire = await websocket(peer, WS)
                    await wire.text()
                    await wire.say("4hello")
                    if event == "connect":
                        await wire.until_close()
                    else:
                        assert await wire.text() == "4hello"
            await eventually(lambda: not watched.engine.connections, "the connection is gone")
            assert partyline.counters.errors == 1
            async with connected(url) as peer:
                await peer.send(request("GET", "/health"))
                assert (await peer.answer()).status == 200

    asyncio.run(main())


@pytest.mark.parametrize("hook", ["initial_headers", "headers"])
@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(
    "header",
    [("x-a", "1\r\nset-cookie: a=b"), ("x-a\r\nx-b: 1", "1"), ("x-a", "1\n"), ("x a", "1"), ("", "1"), ("x", "é\0")],
)
def test_headers_of_the_application_are_one_line_each(hook: str, transport: str, header: tuple[str, str]) -> None:
    """A line break in a header of the application does not make a second header: the request fails, as with any other
    fault of a hook."""

    async def main() -> None:
        watched = Watched(**{hook: lambda handshake: [("x-before", "1"), header]})
        async with served(watched) as (partyline, url), connected(url) as peer:
            path = f"/engine.io/?EIO=4&transport={transport}"
            await peer.send(request("GET", path) if transport == "polling" else upgrade(path))
            assert (await peer.answer()).status == 500
            assert partyline.counters.errors == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), None),
        (("a",), "a"),
        (("b, a",), "b"),
        (("b", "a"), "b"),
        ((" ,b",), "b"),
    ],
)
@pytest.mark.parametrize("upgrading", [False, True])
def test_a_subprotocol(offered: tuple[str, ...], chosen: str | None, upgrading: bool) -> None:
    """The first subprotocol that a client offers is chosen, as by Node's server, in a handshake and in an upgrade:
    browsers fail a connection whose offer is not answered (the option `protocols` of socket.io-client)."""

    async def main() -> None:
        async with served(Watched()) as (_, url), Polling.at(url) as polling, connected(url) as peer:
            path = f"{WS}&sid={polling.sid}" if upgrading else WS
            await peer.send(upgrade(path, *(f"Sec-WebSocket-Protocol: {one}" for one in offered)))
            answer = await peer.answer()
            assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, chosen)

    asyncio.run(main())


def test_an_id_that_is_taken() -> None:
    """If the application gives out an id twice, the second client is refused."""

    async def main() -> None:
        async with served(Watched(generate_id=lambda handshake: "one")) as (_, url), Polling.at(url):
            for asking in (request("GET", "/engine.io/?EIO=4&transport=polling"), upgrade(WS)):
                async with connected(url) as peer:
                    await peer.send(asking)
                    assert (await peer.answer()).status == 400

    asyncio.run(main())


def test_a_preflight() -> None:
    """A preflight for a page of another origin that sends its own headers is answered."""

    async def main() -> None:
        async with served(Watched(), cors_origins=("https://app.example",)) as (_, url), connected(url) as peer:
            asked = ("Origin: https://app.example", "Access-Control-Request-Headers: x-mine")
            path = "/engine.io/?EIO=4&transport=polling"
            await peer.send(request("OPTIONS", path, None, *asked, "Access-Control-Request-Method: GET"))
            answer = await peer.answer()
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["access-control-allow-headers"] == "x-mine"
            await peer.send(request("GET", path, None, asked[0], "X-Mine: 1"))
            assert (await peer.answer()).status == 200

    asyncio.run(main())


def test_a_message_larger_than_the_outbox() -> None:
    """A poller that fetches gets any message, and what comes with it, even if it is larger than `outbox_bytes`."""
    watched = Watched()

    async def main() -> None:
        async with served(watched, outbox_bytes=10_000) as (_, url), Polling.at(url) as client:
            assert watched.last is not None
            sizes = (30_000, 5, 20_000)
            await client.ask()
            await eventually(lambda: watched.last is not None and watched.last._session.hanging, "the GET hangs")
            for size in sizes:
                watched.last.send_message("x" * size)
            got = (await client.gets.answer()).body.decode().split("\x1e")
            while len(got) < len(sizes):
                got += (await client.fetch()).split("\x1e")
            assert [len(packet) - 1 for packet in got] == list(sizes)
            watched.last.send_message("x" * 30_000)  # between two GETs
            assert await client.fetch() == "4" + "x" * 30_000

    asyncio.run(main())


# The end of the server


@pytest.mark.alone
def test_drain(run: Run) -> None:
    """A server that stops tells every client, on either transport, and does not wait for any."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with (
            served(watched, drain_time=5.0) as (partyline, url),
            Polling.at(url) as client,
            Polling.at(url),
            connected(url) as peer,
        ):
            socket = await websocket(peer, WS)
            await socket.text()
            await client.ask()
            await eventually(lambda: any(c._session.hanging for c in watched.engine.connections.values()), "hangs")
            began = time.monotonic()
            partyline.shell.stop()
            assert (await client.gets.answer()).body == b"1"
            _, close = await socket.until_close()
            assert isinstance(close, Close)
            assert close.code == 1012
            await peer.send(close_frame(1012))
            await eventually(lambda: not partyline.site.live, "nothing is left")
            assert time.monotonic() - began < 3.0
        assert sorted(watched.seen) == ["connect"] * 3 + ["forced close"] * 2 + ["transport close"]

    run(main())


def test_many_come_and_go() -> None:
    """Nothing is left of a hundred clients of each kind."""
    watched = Watched(ping_interval=25.0)

    async def one(url: str, way: int) -> None:
        if way == 0:
            async with connected(url) as peer:
                await websocket(peer, WS)
            return
        async with Polling.at(url) as client:
            if way == 1:
                await client.say("1")
                await client.fetch()
            elif way == 2:
                async with connected(url) as peer:
                    socket = await upgraded(peer, client.sid)
                    await socket.say("2probe", "5")
                    await socket.text()

    async def main() -> None:
        async with served(watched) as (partyline, url):
            for _ in range(10):
                await asyncio.gather(*(one(url, way % 3) for way in range(30)))
            await eventually(lambda: not watched.engine.connections, "all sessions are over")
            await nothing_is_held(partyline)
        assert watched.seen.count("connect") == 300
        assert len(watched.seen) == 600

    asyncio.run(main())


def test_handlers_are_given_back() -> None:
    """The decorators return their function, and several handlers of one kind are called in order."""
    engine = EngineIO()
    order: list[int] = []

    def first(connection: EngineConnection, data: str | bytes) -> None:
        order.append(1)

    assert engine.on_message(first) is first
    engine.on_message(lambda connection, data: order.append(2))

    async def main() -> None:
        watched = Watched()
        watched.engine = engine
        async with served(watched) as (_, url), connected(url) as peer:
            client = await websocket(peer, WS)
            await client.text()
            await client.say("4x")
            await eventually(lambda: order == [1, 2], "both are called")

    asyncio.run(main())


def test_half_a_character_is_replaced(run: Run) -> None:
    """Half a surrogate pair from an application is U+FFFD on every transport and in broadcasts."""
    watched = Watched(ping_interval=25.0)

    async def main() -> None:
        async with served(watched) as (_, url), connected(url) as peer, Polling.at(url) as polling:
            client = await websocket(peer, WS)
            await client.text()
            for connection in watched.engine.connections.values():
                connection.send_message("a\ud83db")
                connection.send(Frames.of(("4c\ude00d",)))
            assert [await client.text(), await client.text()] == ["4a\ufffdb", "4c\ufffdd"]
            assert await polling.fetch() == "4a\ufffdb\x1e4c\ufffdd"

    run(main())


@pytest.mark.parametrize("cookie", ["io\r\nSet-Cookie: a=b", "a b", "a=b", "a;b", "\u00fc", ""])
def test_a_cookie_has_a_name(cookie: str) -> None:
    """An invalid cookie name is refused at once, because it would become part of a header."""
    with pytest.raises(ConfigError, match="cookie"):
        EngineIO(cookie=cookie)
