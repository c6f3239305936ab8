"""WebSockets over real sockets: handshakes, messages, closes, back-pressure, and sharing a connection with HTTP."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from httptools import HttpRequestParser

from partyline.relay.classic.session import ClassicSession
from partyline.server.http import HttpConnection
from partyline.server.websocket import WebSocket
from partyline.wire.websocket.codec import Close, Ping, Pong
from partyline.wire.websocket.frames import RSV1, TEXT, frame
from tests.server.apps import app
from tests.server.conftest import Certificate, Run
from tests.server.peers import KEY, WebSocketPeer, close_frame, connected, request, upgrade, websocket
from tests.server.servers import echo, eventually, nothing_is_held, partyline_server, registered, small_send_buffers

GET = request("GET", "/health")
MASK = b"\x05\x06\x07\x08"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


# Handshakes


def without(header: str) -> Callable[[str], bytes]:
    """A handshake without one header line."""
    return lambda path: upgrade(path).replace(header.encode() + b"\r\n", b"")


def instead(old: str, new: str) -> Callable[[str], bytes]:
    """A handshake with something else in it."""
    return lambda path: upgrade(path).replace(old.encode(), new.encode())


SHORT_KEY = base64.b64encode(b"fifteen bytes..").decode()
REFUSALS: dict[str, tuple[Callable[[str], bytes], int, str]] = {
    "unknown id": (lambda _: upgrade("/ws/" + "0" * 32), 404, "unknown_connection"),
    "unknown id, no handshake": (lambda _: request("GET", "/ws/" + "0" * 32), 404, "unknown_connection"),
    "no such path": (lambda _: upgrade("/elsewhere"), 404, "not_found"),
    "a path of HTTP": (lambda _: upgrade("/health"), 404, "not_found"),
    "version 8": (instead("Version: 13", "Version: 8"), 426, "upgrade_required"),
    "versions 13 and 8": (instead("Version: 13", "Version: 13, 8"), 426, "upgrade_required"),
    "no version": (without("Sec-WebSocket-Version: 13"), 426, "upgrade_required"),
    "no upgrade": (without("Upgrade: websocket"), 426, "upgrade_required"),
    "no connection": (without("Connection: Upgrade"), 426, "upgrade_required"),
    "another upgrade": (instead("Upgrade: websocket", "Upgrade: mqtt"), 426, "upgrade_required"),
    "no key": (without(f"Sec-WebSocket-Key: {KEY}"), 400, "malformed"),
    "two keys": (instead(KEY, f"{KEY}\r\nSec-WebSocket-Key: {KEY}"), 400, "malformed"),
    "a short key": (instead(KEY, SHORT_KEY), 400, "malformed"),
    "a key that is not base64": (instead(KEY, "!" * 24), 400, "malformed"),
    "bad extensions": (instead("Upgrade: ", "Sec-WebSocket-Extensions: a b\r\nUpgrade: "), 400, "malformed"),
    "HTTP/1.0": (instead("HTTP/1.1", "HTTP/1.0"), 400, "malformed"),
    "no host": (without("Host: 127.0.0.1"), 400, "malformed"),
    "two hosts": (instead("Host: ", "Host: 127.0.0.1\r\nHost: "), 400, "malformed"),
    "POST": (instead("GET", "POST"), 405, "method_not_allowed"),
    "a foreign host": (instead("Host: 127.0.0.1", "Host: foreign.example"), 421, "foreign_host"),
    "a foreign origin": (instead("Upgrade: ", "Origin: https://foreign.example\r\nUpgrade: "), 403, "foreign_origin"),
    "forwarded": (instead("Upgrade: ", "X-Forwarded-For: 10.1.1.1\r\nUpgrade: "), 403, "forwarded_in_open_mode"),
}


@pytest.mark.parametrize(("ask", "status", "code"), REFUSALS.values(), ids=REFUSALS)
def test_refused_handshakes(ask: Callable[[str], bytes], status: int, code: str) -> None:
    """An invalid handshake gets its status and our JSON form, and nothing is upgraded (rows 19, 34, 34b, 36)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                await peer.send(ask(path))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (status, code)
                if status == 426:
                    assert answer.headers["sec-websocket-version"] == "13"
                    assert answer.headers["upgrade"] == "websocket"
                if status == 405:
                    assert answer.headers["allow"] == "GET"
                for name, value in (
                    ("x-content-type-options", "nosniff"),
                    ("cache-control", "no-store"),
                    ("referrer-policy", "no-referrer"),
                ):
                    assert answer.headers[name] == value
                if answer.headers.get("connection") == "close":
                    assert await peer.rest() == b""
            await nothing_is_held(partyline)
            assert partyline.counters.upgrades == 0
            async with connected(url) as peer:  # the registration is unchanged
                assert (await (await websocket(peer, path)).close()).code == 1000

    asyncio.run(main())


HANDSHAKES: dict[str, Callable[[str], bytes]] = {
    "as browsers send it": upgrade,
    "other cases": lambda path: upgrade(path).replace(b"websocket", b"WebSocket").replace(b": Upgrade", b": upGRADE"),
    "keep-alive, Upgrade": instead("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
    "two Connection headers": instead("Connection: Upgrade", "Connection: Upgrade\r\nConnection: keep-alive"),
    "a whole URL": lambda path: upgrade(path).replace(b"GET ", b"GET http://127.0.0.1"),
    "a query": lambda path: upgrade(f"{path}?a=b&c"),
    "escapes": lambda path: upgrade(path.replace("/ws/", "/%77s/")),
    "an own origin": instead("Upgrade: ", "Origin: http://127.0.0.1\r\nUpgrade: "),
    "an unknown subprotocol": instead("Upgrade: ", "Sec-WebSocket-Protocol: soap\r\nUpgrade: "),
    "an empty body": instead("Upgrade: ", "Content-Length: 0\r\nUpgrade: "),
}


@pytest.mark.parametrize("ask", HANDSHAKES.values(), ids=HANDSHAKES)
def test_accepted_handshakes(ask: Callable[[str], bytes]) -> None:
    """A handshake is answered 101 however the client spells it, whole and byte by byte."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            for chopped in (False, True):
                whole = ask(path)
                async with connected(url) as peer:
                    await peer.send(*([bytes((byte,)) for byte in whole] if chopped else [whole]))
                    answer = await peer.answer()
                    assert (answer.status, answer.body) == (101, b"")
                    assert set(answer.headers) == {"upgrade", "connection", "sec-websocket-accept"}
                    assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3
                    socket = WebSocketPeer(peer, answer)
                    await socket.say("ping")
                    assert await socket.text() == "pong"
                    assert (await socket.close()).code == 1000
            assert partyline.counters.upgrades == 2
            await nothing_is_held(partyline)

    asyncio.run(main())


# Messages


def test_messages_in_pieces(run: Run) -> None:
    """Frames are read wherever TCP cuts them, and however many arrive at once."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                data = b"".join(frame(TEXT, b"ping", key=MASK) for _ in range(10))
                await peer.send(data, *[bytes((byte,)) for byte in data])
                assert [await socket.text() for _ in range(20)] == ["pong"] * 20
                assert partyline.counters.received == 20
                assert (await socket.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


VIOLATIONS = {
    "unmasked": (b"\x81\x04ping", 1002),
    "a reserved bit": (b"\xa1\x80" + MASK, 1002),
    "RSV1 without compression": (b"\xc1\x80" + MASK, 1002),
    "a reserved opcode": (b"\x83\x80" + MASK, 1002),
    "a fragmented ping": (b"\x09\x80" + MASK, 1002),
    "a ping of 126 bytes": (b"\x89\xfe\x00\x7e" + MASK + bytes(126), 1002),
    "a continuation of nothing": (b"\x80\x80" + MASK, 1002),
    "a length of 2^63": (b"\x82\xff\x80" + bytes(7) + MASK, 1002),
    "text that is not UTF-8": (frame(TEXT, b"\xff", key=MASK), 1007),
    "a close of one byte": (frame(0x8, b"\x03", key=MASK), 1002),
    "a close with 1005": (frame(0x8, b"\x03\xed", key=MASK), 1002),
    "a close reason that is not UTF-8": (frame(0x8, b"\x03\xe8\xff", key=MASK), 1007),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_violations(run: Run, data: bytes, code: int) -> None:
    """Messages before a violation in the same read are answered, and then the close with its code follows (rows 24,
    27)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                pings = frame(TEXT, b"ping", key=MASK) + frame(0x9, b"beat", key=MASK)
                await peer.send(pings + data + frame(TEXT, b"ping", key=MASK))
                before, close = await socket.until_close()
                assert before == ["pong", Pong(b"beat")]
                assert close.code == code
                assert close.reason
                assert await socket.next() is None
            assert partyline.counters.violations == 1
            await nothing_is_held(partyline)

    run(main())


# Closes


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, 1005])
def test_close_by_the_client(run: Run, code: int) -> None:
    """A client's close is answered with its own code, after the answers to earlier messages; then TCP ends."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                closing = socket.wire.text(b"ping") + close_frame(code)
                await peer.send(closing + frame(TEXT, b"ping", key=MASK))
                assert await socket.until_close() == (["pong"], Close(code, ""))
                assert await socket.next() is None
            assert partyline.counters.received == 1
            await nothing_is_held(partyline)

    run(main())


def test_close_by_a_client_that_goes_on_sending(run: Run) -> None:
    """More bytes after a close frame than one read takes do not turn the end of the connection into a reset."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                await peer.send(close_frame(1000) + bytes(1 << 20), frame(TEXT, b"ping", key=MASK))
                assert await socket.until_close() == ([], Close(1000, ""))
                assert await peer.ends_in_order()
            await nothing_is_held(partyline)

    run(main())


def test_close_by_the_server(run: Run) -> None:
    """Unregistering closes with 4001, TCP ends with the client's answer, and the id is no longer valid."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer, connected(url) as other:
                socket = await websocket(peer, path)
                await other.send(request("DELETE", f"/register/{path.removeprefix('/ws/')}"))
                assert (await other.answer()).json == {"status": "unregistered"}
                assert await socket.until_close() == ([], Close(4001, "unregistered"))
                # What arrives before the answer to a close is read, but not acted on.
                await peer.send(frame(TEXT, b"ping", key=MASK) + close_frame(4001))
                assert await socket.next() is None
                await other.send(upgrade(path))
                assert (await other.answer()).status == 404
            assert partyline.counters.received == 0
            await nothing_is_held(partyline)

    run(main())


def test_close_by_both_at_once(run: Run) -> None:
    """Closes that cross end the connection without another close frame."""

    async def main() -> None:
        async with partyline_server(close_timeout=30.0) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                peer.stop_reading()
                (server_side,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
                # Both in one turn of the loop: neither side has seen the other's.
                server_side.close(4001, "unregistered")
                await peer.send(close_frame(1000))
                peer.read_again()
                assert await socket.until_close() == ([], Close(4001, "unregistered"))
                assert await peer.rest() == b""
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_end_without_a_close(run: Run, how: str) -> None:
    """A client that leaves without a close frame is released at once."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                await socket.say("ping")
                assert await socket.text() == "pong"
                if how == "FIN":
                    peer.end()
                    assert await peer.rest() == b""
                else:
                    await peer.send(frame(TEXT, b"ping", key=MASK) * 3)
                    peer.stop_reading()
                    await peer.close()
                await nothing_is_held(partyline)
            assert partyline.counters.errors == 0

    run(main())


def test_replaced_connection(run: Run) -> None:
    """A second connection with the same id closes the first with 4000, and only the second gets later messages."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            async with connected(url) as one, connected(url) as two, connected(url) as publisher:
                first = await websocket(one, path)
                second = await websocket(two, path)
                await publisher.send(request("POST", "/publish", b'{"topic": "cats", "message": "to the second"}'))
                assert (await publisher.answer()).status == 200
                assert await second.text() == "to the second"
                assert await first.until_close() == ([], Close(4000, "replaced by a newer connection"))
                await one.send(close_frame(4000))
                assert await first.next() is None
                # The end of the first must not take the registration from the second.
                await publisher.send(request("POST", "/publish", b'{"topic": "cats", "message": "still"}'))
                assert (await publisher.answer()).status == 200
                assert await second.text() == "still"
                assert (await second.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


def count(*kinds: type) -> int:
    return sum(type(thing) in kinds for thing in gc.get_objects())


def test_what_stays_of_a_closed_connection(run: Run) -> None:
    """A WebSocket and its session are freed when it ends, without the garbage collector; so is an HTTP connection."""

    async def main() -> None:
        kinds = (HttpConnection, HttpRequestParser, WebSocket, ClassicSession)
        async with partyline_server() as (partyline, url):
            path = await registered(url)
            await nothing_is_held(partyline)
            gc.collect()
            before = count(*kinds)
            gc.disable()
            try:
                async with connected(url) as http, connected(url) as refused, connected(url) as peer:
                    await http.send(GET)
                    await http.answer()
                    await refused.send(b"garbage\r\n")
                    await refused.rest()
                    socket = await websocket(peer, path)
                    await socket.say("ping")
                    assert await socket.text() == "pong"
                    assert count(*kinds) - before == 2 + 2  # two that wait, and one with a session
                    await socket.close()
                await nothing_is_held(partyline)
                await asyncio.sleep(0.01)
                assert count(*kinds) == before
            finally:
                gc.enable()

    run(main())


# Back-pressure


def test_a_flood_that_is_not_read(run: Run) -> None:
    """The server stops reading from a client that asks without reading; it gets every answer once it reads (row 17)."""
    count, batch = 60_000, 2_000
    flood = frame(TEXT, b"ping", key=MASK) * batch

    async def main() -> None:
        async with partyline_server(outbox_bytes=2_000_000) as (partyline, url):
            small_send_buffers(partyline)
            path = await registered(url)
            async with connected(url, buffer=4096) as peer:
                socket = await websocket(peer, path)
                peer.stop_reading()
                flooding = asyncio.create_task(peer.send(*[flood] * (count // batch)))
                await eventually(lambda: partyline.counters.received, "it reads")
                while (received := partyline.counters.received) < count:
                    await asyncio.sleep(0.05)
                    if partyline.counters.received == received:
                        break
                assert received < count, "the server went on reading, although no answer was sent"
                (server_side,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
                assert server_side._outbox is not None
                assert 0 < server_side._outbox.size < 200_000  # the answers to what one read may hold
                peer.read_again()
                assert [await socket.text() for _ in range(count)] == ["pong"] * count
                await flooding
                assert partyline.counters.received == count
                assert partyline.counters.limits == {}
                assert server_side._outbox is None
                assert (await socket.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


def test_a_large_answer_to_a_client_that_reads_slowly(run: Run) -> None:
    """A message far larger than all buffers arrives whole, with heartbeats, and the close after it."""
    large = "0123456789" * 400_000

    async def main() -> None:
        settings = {"max_message": 5_000_000, "outbox_bytes": 10_000_000, "ping_interval": 0.1, "close_timeout": 30}
        async with partyline_server(**settings) as (partyline, url):
            small_send_buffers(partyline)
            partyline.site.route = echo
            async with connected(url, buffer=4096) as peer:
                socket = await websocket(peer, "/echo")
                peer.stop_reading()
                sending = asyncio.create_task(socket.say(large, "behind"))
                await eventually(lambda: partyline.counters.received == 2, "both are read")
                await asyncio.sleep(0.15)
                await socket.peer.send(close_frame(1000))
                peer.read_again()
                before, close = await socket.until_close()
                await sending
                assert [event for event in before if event != Ping(b"")] == [large, "behind"]
                assert close.code == 1000
                assert await socket.next() is None
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


# Compression


def test_compression(run: Run) -> None:
    """If compression was agreed on, large messages are compressed and small ones are not; compressed ones are read (RFC
    7692)."""
    large = "a message worth compressing, " * 100

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            path, plain_path = await registered(url), await registered(url)
            async with connected(url) as peer, connected(url) as plain_peer, connected(url) as publisher:
                socket = await websocket(peer, path, DEFLATE)
                plain = await websocket(plain_peer, plain_path)
                assert socket.answer.headers["sec-websocket-extensions"] == AGREED
                assert "sec-websocket-extensions" not in plain.answer.headers
                await peer.send(socket.wire.compressed(TEXT, b'{"topics": ["dogs"]}'), socket.wire.text(b"ping"))
                assert await peer.some() == b"\x81\x04pong"
                for name, one, size in (("dogs", socket, 200), ("cats", plain, len(large) + 4)):
                    body = json.dumps({"topic": name, "message": large}).encode()
                    await publisher.send(request("POST", "/publish", body))
                    assert (await publisher.answer()).status == 200
                    data = await one.peer.some()
                    assert (data[0] & RSV1 != 0) is (one is socket)
                    assert len(data) <= size
                    assert one.wire.receive(data) == [large]
                for one in (socket, plain):
                    assert (await one.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


def test_compression_switched_off() -> None:
    """With permessage_deflate off an offer is not answered, and a compressed frame is a violation."""

    async def main() -> None:
        async with partyline_server(permessage_deflate=False) as (_, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path, DEFLATE)
                assert "sec-websocket-extensions" not in socket.answer.headers
                await peer.send(b"\xc1\x80" + MASK)
                assert (await socket.until_close())[1].code == 1002

    asyncio.run(main())


# Sharing a connection with HTTP


@pytest.mark.check
def test_upgrade_of_a_connection_in_use(run: Run) -> None:
    """A connection that served requests before is upgraded like a new one."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer:
            for _ in range(3):
                await peer.send(GET)
                assert (await peer.answer()).json == {"status": "ok"}
            await peer.send(request("POST", "/register", b'{"user_id": 1}'))
            path = "/ws/" + (await peer.answer()).json["url"].rpartition("/")[2]
            socket = await websocket(peer, path)
            await socket.say("ping")
            assert await socket.text() == "pong"
            assert (await socket.close()).code == 1000
            assert partyline.counters.accepted == 1
            await nothing_is_held(partyline)

    run(main())


def test_pipelined_requests(run: Run) -> None:
    """Requests that arrive together are answered in order, even if an earlier one takes longer (RFC 9112 9.3.2)."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go_on.wait()
        await app(scope, receive, send)

    async def main() -> None:
        async with partyline_server(fallback=slow) as (partyline, url), connected(url) as peer:
            asks = [request("POST", "/slow", b'"a body"'), GET, request("POST", "/quick", b'"another"'), GET]
            await peer.send(b"".join(asks))
            await eventually(lambda: partyline.counters.requests, "the first is read")
            assert await peer.hears_nothing(0.05)
            assert partyline.counters.requests == 1
            go_on.set()
            first, _, third, _ = [(await peer.answer()).json for _ in range(4)]
            assert (first["path"], first["body"]) == ("/slow", '"a body"')
            assert (third["path"], third["body"]) == ("/quick", '"another"')
            await peer.send(GET)
            assert (await peer.answer()).json == {"status": "ok"}

    run(main())


@pytest.mark.parametrize("over", ["tcp", "tls"])
@pytest.mark.parametrize(
    "ask",
    [
        request("GET", "/health", None, "Connection: close"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        request("POST", "/publish", b'{"topic": "dogs", "message": "the last"}', "Connection: close"),
    ],
    ids=["close", "HTTP/1.0", "a body"],
)
def test_last_request(run: Run, certificate: Certificate, ask: bytes, over: str) -> None:
    """A connection's last request is answered whole, and nothing after it is (RFC 9112 9.6)."""
    files = {"certfile": certificate.certfile, "keyfile": certificate.keyfile} if over == "tls" else {}

    async def main() -> None:
        async with partyline_server(**files) as (partyline, url):
            for pieces in ([ask], [ask[:-5], ask[-5:]], [ask + GET], [ask, GET]):
                async with connected(url, tls=certificate.trust if files else None) as peer:
                    await peer.send(*pieces)
                    answer = await peer.answer()
                    assert answer.status == 200
                    assert answer.headers["connection"] == "close"
                    assert await peer.rest() == b""
            assert partyline.counters.errors == 0
            await nothing_is_held(partyline)

    run(main())


BEHIND: dict[str, tuple[Callable[[str], bytes], int]] = {
    "an upgrade": (upgrade, 101),
    "an invalid handshake": (instead("Version: 13", "Version: 8"), 426),
    "garbage": (lambda _: b"garbage\r\n", 400),
    "a head that is too large": (lambda _: request("GET", "/health", None, "X: " + "a" * 3000), 431),
}


@pytest.mark.parametrize(("ask", "status"), BEHIND.values(), ids=BEHIND)
def test_what_is_pipelined_behind_a_request(ask: Callable[[str], bytes], status: int) -> None:
    """A request gets its own answer before the 101 or the refusal of what came with it (RFC 9112 9.3.2)."""

    async def main() -> None:
        async with partyline_server(max_head_bytes=2048) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                await peer.send(request("POST", "/publish", b'{"topic": "dogs", "message": "kept"}') + ask(path))
                first, second = await peer.answer(), await peer.answer()
                assert (first.status, first.json["topic"]) == (200, "dogs")
                assert second.status == status
                if status == 101:
                    socket = WebSocketPeer(peer, second)
                    await socket.say("ping")
                    assert await socket.text() == "pong"
                else:
                    assert await peer.rest() == b""
            await nothing_is_held(partyline)
            assert partyline.counters.errors == 0

    asyncio.run(main())


@pytest.mark.parametrize("first", ["/there", "/stream"])
def test_leaving_before_pipelined_requests_are_answered(run: Run, caplog: pytest.LogCaptureFixture, first: str) -> None:
    """A client that leaves before its pipelined requests are answered is not an error of ours, and nothing of it is
    left."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await app(scope, receive, send)

    async def main() -> None:
        async with partyline_server(fallback=slow) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("GET", first) + request("GET", "/there"))
                await eventually(lambda: partyline.shell.served.tasks, "the first is read")
            go_on.set()
            await nothing_is_held(partyline)
            assert partyline.counters.errors == 0
        assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []

    run(main())


# The fallback application


def test_upgrade_on_a_foreign_path(run: Run) -> None:
    """A WebSocket on a path that is not ours reaches the fallback application, past the same perimeter."""

    async def main() -> None:
        async with partyline_server(fallback=app) as (partyline, url):
            async with connected(url) as peer:
                socket = await websocket(peer, "/echo")
                await socket.say("to the application", "and again")
                assert [await socket.text(), await socket.text()] == ["to the application", "and again"]
                assert (await socket.close()).code == 1000
            async with connected(url) as peer:
                await peer.send(upgrade("/echo", "Origin: https://foreign.example"))
                assert (await peer.answer()).status == 403
            async with connected(url) as peer:  # our own paths stay ours
                await peer.send(upgrade("/ws/" + "0" * 32))
                assert (await peer.answer()).status == 404
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.alone
def test_stop_with_a_websocket_of_the_application_that_does_not_read(run: Run) -> None:
    """A WebSocket of the fallback application whose client takes nothing is cut at the drain time (row 42)."""

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(1_000_000)})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with partyline_server(fallback=flood, drain_time=0.3) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=4096) as peer:
                await websocket(peer, "/flood")
                peer.stop_reading()
                await eventually(lambda: partyline.shell.served.tasks, "the application runs")
                began = loop.time()
                partyline.shell.stop()
                await nothing_is_held(partyline)
                assert 0.29 <= loop.time() - began < 0.8

    run(main())


# TLS


def test_websocket_over_tls(run: Run, certificate: Certificate) -> None:
    """wss works like ws: registration, messages, large ones, refusals, violations, and both ways to close."""

    async def main() -> None:
        files = {"certfile": certificate.certfile, "keyfile": certificate.keyfile}
        async with partyline_server(**files) as (partyline, url):
            assert url.startswith("https://")
            paths = []
            async with connected(url, tls=certificate.trust) as http:
                for _ in range(3):
                    await http.send(request("POST", "/register", b'{"user_id": 1}'))
                    address = (await http.answer()).json["url"]
                    assert address.startswith("wss://127.0.0.1/ws/")
                    paths.append("/ws/" + address.rpartition("/")[2])

                async with connected(url, tls=certificate.trust) as peer:
                    socket = await websocket(peer, paths[0], behind=frame(TEXT, b"ping", key=MASK))
                    assert await socket.text() == "pong"
                    large = "x" * 900_000
                    body = json.dumps({"topic": "cats", "message": large}).encode()
                    await http.send(request("POST", "/publish", body))
                    assert (await http.answer()).status == 200
                    assert await socket.text() == large
                    assert (await socket.close()).code == 1000

                async with connected(url, tls=certificate.trust) as peer:
                    socket = await websocket(peer, paths[1])
                    await peer.send(frame(TEXT, b"ping", key=MASK) + b"\xff\xff")
                    before, close = await socket.until_close()
                    assert (before, close.code) == (["pong"], 1002)
                    assert await socket.next() is None

                async with connected(url, tls=certificate.trust) as peer:
                    socket = await websocket(peer, paths[2])
                    await http.send(request("DELETE", f"/register/{paths[2].removeprefix('/ws/')}"))
                    assert (await http.answer()).status == 200
                    assert await socket.until_close() == ([], Close(4001, "unregistered"))
                    await peer.send(close_frame(4001))
                    assert await socket.next() is None

                await http.send(b"garbage\r\n")
                assert (await http.answer()).status == 400
                assert await http.rest() == b""
            await nothing_is_held(partyline)
            assert partyline.counters.errors == 0

    run(main())


def test_plain_http_on_a_tls_port(certificate: Certificate) -> None:
    """A client that speaks without TLS to a TLS port is cut, and nothing is held for it."""

    async def main() -> None:
        async with partyline_server(certfile=certificate.certfile, keyfile=certificate.keyfile) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(GET)
                assert b"HTTP" not in await peer.rest()
            await nothing_is_held(partyline)
            assert partyline.counters.accepted == 1  # it counts from when it was accepted
            assert partyline.counters.requests == 0

    asyncio.run(main())
