"""Every limit and deadline of connections, requests and WebSocket messages: what the peer sees, the counter, the end.

Deadlines are a few tenths of a second here. They are never early, by the loop's clock from before the first byte was
sent; the upper bounds allow for a busy machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from partyline import Partyline
from partyline.errors import RateLimited
from partyline.models import Draft
from partyline.wire.websocket.codec import Close, Ping
from partyline.wire.websocket.frames import BINARY, CONTINUATION, TEXT, frame
from tests.server.apps import app
from tests.server.conftest import Run
from tests.server.peers import Answer, Peer, WebSocketPeer, close_frame, connected, request, upgrade, websocket
from tests.server.servers import eventually, nothing_is_held, partyline_server, registered, small_send_buffers

LATE = 0.3
TICK = 0.0011  # uvloop's clock shows whole milliseconds
KEY = b"\x01\x02\x03\x04"
GET = request("GET", "/health")
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


class Clock:
    """Seconds since this was created."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    def shows(self, deadline: float) -> bool:
        """Whether `deadline` has just come: neither too early nor long ago."""
        passed = self._loop.time() - self._began
        return deadline - TICK <= passed < deadline + LATE


async def refused(peer: Peer, status: int, code: str) -> Answer:
    """The answer that refuses a request and ends the connection."""
    answer = await peer.answer()
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["connection"] == "close"
    assert await peer.rest() == b""
    return answer


@asynccontextmanager
async def dribbling(peer: Peer, byte: bytes) -> AsyncIterator[None]:
    """Send `byte` again and again meanwhile."""

    async def dribble() -> None:
        while byte:
            await peer.send(byte)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(dribble())
    try:
        yield
        assert not task.done() or not byte, "the sending ended before the server's deadline"
    finally:
        task.cancel()
        await asyncio.wait([task])


# Connections


@pytest.mark.parametrize("ask", [GET, upgrade("/ws/0")], ids=["request", "upgrade"])
def test_max_connections(run: Run, ask: bytes) -> None:
    """A connection beyond max_connections gets 503 with Retry-After; the others go on (row 23)."""

    async def main() -> None:
        async with partyline_server(max_connections=2) as (partyline, url), connected(url) as one:
            async with connected(url) as two:
                await eventually(lambda: partyline.site.connections == 2, "both are accepted")
                async with connected(url) as third:
                    await third.send(ask)
                    answer = await refused(third, 503, "overloaded")
                    assert int(answer.headers["retry-after"]) > 0
                for peer in (one, two):
                    await peer.send(GET)
                    assert (await peer.answer()).status == 200
            await eventually(lambda: partyline.site.connections == 1, "the second is gone")
            async with connected(url) as fourth:
                await fourth.send(GET)
                assert (await fourth.answer()).status == 200
            assert partyline.counters.limits == {"max_connections": 1}
            await one.close()
            await nothing_is_held(partyline)

    run(main())


def test_flood_of_connections(run: Run) -> None:
    """When even the waiting room for refusals is full, a connection is dropped without an answer (row 23)."""

    async def main() -> None:
        waiting = 8
        async with partyline_server(max_connections=2) as (partyline, url):
            async with connected(url) as inside:
                peers = [connected(url) for _ in range(waiting + 1)]
                for peer in peers:
                    await peer.__aenter__()
                await eventually(lambda: partyline.site.connections == waiting + 2, "all are accepted")
                for _ in range(3):
                    async with connected(url) as outside:
                        await outside.send(GET)
                        assert await outside.rest() == b""
                await inside.send(GET)
                assert (await inside.answer()).status == 200
                assert partyline.counters.limits == {"max_connections": waiting + 3}
                for peer in peers:
                    await peer.__aexit__(None, None, None)
            await nothing_is_held(partyline)

    run(main())


def test_max_connections_counts_the_application_s_websockets(run: Run) -> None:
    """A WebSocket of the fallback application counts for max_connections, too."""

    async def main() -> None:
        async with partyline_server(fallback=app, max_connections=1) as (partyline, url):
            async with connected(url) as one:
                await websocket(one, "/echo")
                async with connected(url) as two:
                    await two.send(GET)
                    assert (await two.answer()).status == 503
            await nothing_is_held(partyline)

    run(main())


def test_connections_of_a_network_of_ipv6_count_together(run: Run) -> None:
    """max_connections_per_address counts the /64 of an IPv6 address, coming and going."""

    async def main() -> None:
        async with partyline_server(max_connections_per_address=2) as (partyline, _):
            site = partyline.site
            assert site.enter("2001:db8::1") is None
            assert site.enter("2001:db8::2") is None
            assert isinstance(site.enter("2001:db8::3"), RateLimited)
            assert site.enter("2001:db8:0:1::1") is None
            for address in ("2001:db8::3", "2001:db8::1"):
                site.leave(address)
            assert site.enter("2001:db8::4") is None
            for address in ("2001:db8::4", "2001:db8::2", "2001:db8:0:1::1"):
                site.leave(address)
            await nothing_is_held(partyline)

    run(main())


def test_max_connections_per_address(run: Run) -> None:
    """A connection beyond max_connections_per_address gets 429 with Retry-After; another address does not (row 23)."""

    async def main() -> None:
        async with partyline_server(max_connections_per_address=1) as (partyline, url), connected(url) as one:
            await eventually(lambda: partyline.site.connections == 1, "it is accepted")
            async with connected(url) as two:
                await two.send(GET)
                answer = await refused(two, 429, "too_many_connections")
                assert int(answer.headers["retry-after"]) > 0
            async with connected(url, source="127.0.0.2") as other:
                await other.send(GET)
                assert (await other.answer()).status == 200
            assert partyline.counters.limits == {"max_connections_per_address": 1}
            await one.close()
            await nothing_is_held(partyline)

    run(main())


# Heads

START = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HEADS: dict[str, list[bytes]] = {
    "one huge header": [START + b"X: " + b"a" * 3000 + b"\r\n\r\n"],
    "a header of a megabyte": [START + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n"],
    "many small headers": [START + b"".join(b"X-%d: a\r\n" % number for number in range(300)) + b"\r\n"],
    "a huge target": [b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"],
    "a header line without an end": [START + b"X: ", *[b"a" * 500] * 6],
    "a header name without an end": [START, *[b"a" * 500] * 6],
    "a request line without an end": [b"GET /", *[b"a" * 500] * 6],
    "after another request": [GET, START + b"X: " + b"a" * 3000 + b"\r\n\r\n"],
    "after another request, without an end": [GET, START + b"X: ", *[b"a" * 500] * 6],
    "an upgrade": [upgrade("/ws/0", "X: " + "a" * 3000)],
}


@pytest.mark.parametrize("pieces", HEADS.values(), ids=HEADS)
def test_max_head_bytes(run: Run, pieces: list[bytes]) -> None:
    """A head gets 431 as soon as it exceeds max_head_bytes, whatever it is made of (row 30)."""

    async def main() -> None:
        async with partyline_server(max_head_bytes=2048, max_headers=1000) as (partyline, url):
            async with connected(url) as peer:
                for piece in pieces:
                    await peer.send(piece)
                    if piece == GET:
                        assert (await peer.answer()).status == 200
                await refused(peer, 431, "head_too_large")
            assert partyline.counters.limits == {"max_head_bytes": 1}
            await nothing_is_held(partyline)

    run(main())


def test_head_within_max_head_bytes(run: Run) -> None:
    """A head just within max_head_bytes is read, wherever it is cut, with a body larger than that right after it."""
    body = b'{"user_id": 1, "topics": ["%b"]}' % (b"a" * 3000)
    filling = request("POST", "/register", b"", "X: ").replace(b"Length: 0", b"Length: %d" % len(body))
    head = filling.replace(b"X: ", b"X: " + b"a" * (2030 - len(filling)))
    cuts = [1, 30, len(head) - 20, *range(len(head) - 5, len(head) + 5)]

    async def main() -> None:
        async with partyline_server(max_head_bytes=2048) as (partyline, url):
            async with connected(url) as peer:
                for cut in cuts:
                    whole = head + body
                    await peer.send(whole[:cut], whole[cut:])
                    answer = await peer.answer()
                    assert (answer.status, answer.code) == (422, "invalid_topic"), f"cut at {cut - len(head)}"
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


def test_trailers_count_as_head(run: Run) -> None:
    """A chunked body's trailer is bounded by max_head_bytes like a head, also if its line never ends (row 30)."""

    async def main() -> None:
        chunked = request("POST", "/register", None, "Content-Type: application/json", "Transfer-Encoding: chunked")
        async with partyline_server(max_head_bytes=2048, body_timeout=1.0) as (partyline, url):
            for number, trailer in enumerate(([b"X: ", *[b"a" * 500] * 6], [b"X: " + b"a" * 3000 + b"\r\n"]), 1):
                async with connected(url) as peer:
                    await peer.send(chunked + b"0\r\n", *trailer)
                    await refused(peer, 431, "head_too_large")
                assert partyline.counters.limits == {"max_head_bytes": number}
            await nothing_is_held(partyline)

    run(main())


def test_max_headers(run: Run) -> None:
    """A head with more than max_headers headers gets 431; one with exactly that many is read (row 30)."""

    async def main() -> None:
        async with partyline_server(max_headers=10) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("GET", "/health", None, *["X: a"] * 9))
                assert (await peer.answer()).status == 200
                await peer.send(request("GET", "/health", None, *["X: a"] * 10))
                await refused(peer, 431, "head_too_large")
            assert partyline.counters.limits == {"max_headers": 1}
            await nothing_is_held(partyline)

    run(main())


# Deadlines of requests


def test_head_timeout_in_silence(run: Run) -> None:
    """A connection that never sends anything is closed after head_timeout, without an answer (row 19)."""

    async def main() -> None:
        async with partyline_server(head_timeout=0.2) as (partyline, url):
            clock = Clock()
            async with connected(url) as peer:
                assert await peer.rest() == b""
                assert clock.shows(0.2)
            assert partyline.counters.limits == {"head_timeout": 1}
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize("first", [b"", GET], ids=["first request", "second request"])
@pytest.mark.parametrize("dribbled", [False, True], ids=["stopped", "dribbled"])
def test_head_timeout(run: Run, first: bytes, dribbled: bool) -> None:
    """A head that is incomplete head_timeout after its first byte gets 408, even if bytes keep coming (row 20)."""

    async def main() -> None:
        async with partyline_server(head_timeout=0.2) as (partyline, url):
            clock = Clock()
            async with connected(url) as peer:
                if first:
                    await peer.send(first)
                    assert (await peer.answer()).status == 200
                    clock = Clock()
                await peer.send(START + b"X: ")
                async with dribbling(peer, b"a" if dribbled else b""):
                    await refused(peer, 408, "request_timeout")
                assert clock.shows(0.2)
            assert partyline.counters.limits == {"head_timeout": 1}
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.alone
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("dribbled", [False, True], ids=["stopped", "dribbled"])
def test_body_timeout(run: Run, chunked: bool, dribbled: bool) -> None:
    """A body that is incomplete body_timeout after its head gets 408, even if bytes keep coming (row 20)."""

    async def main() -> None:
        async with partyline_server(body_timeout=0.2) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(GET)
                assert (await peer.answer()).status == 200
                size = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5000"
                head = request("POST", "/register", None, "Content-Type: application/json", size)
                clock = Clock()
                await peer.send(head + (b"1388\r\n" if chunked else b"") + b"{")
                async with dribbling(peer, b" " if dribbled else b""):
                    await refused(peer, 408, "request_timeout")
                assert clock.shows(0.2)
            assert partyline.counters.limits == {"body_timeout": 1}
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.alone
def test_keep_alive_timeout(run: Run) -> None:
    """A connection without another request is closed keep_alive_timeout after the last answer, and not before."""

    async def main() -> None:
        async with partyline_server(keep_alive_timeout=0.2, head_timeout=0.1) as (partyline, url):
            async with connected(url) as peer:
                for _ in range(3):
                    clock = Clock()
                    await peer.send(GET)
                    assert (await peer.answer()).status == 200
                    assert await peer.hears_nothing(0.12)
                assert await peer.rest() == b""
                assert clock.shows(0.2)
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"keep_alive_timeout": 1}

    run(main())


# Bodies

BODY = b'{"user_id": 1}'


def post(*headers: str) -> bytes:
    return request("POST", "/register", None, "Content-Type: application/json", *headers)


def test_max_body(run: Run) -> None:
    """A body larger than max_body gets 413; one of exactly that size is read."""

    async def main() -> None:
        async with partyline_server(max_body=1000) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("POST", "/register", BODY + b" " * (1000 - len(BODY))))
                assert (await peer.answer()).status == 200
                await peer.send(request("POST", "/register", BODY + b" " * (1001 - len(BODY))))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (413, "payload_too_large")
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"max_body": 1}

    run(main())


@pytest.mark.alone
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([post("Content-Length: 1001")], id="a length, and no body"),
        pytest.param([post("Content-Length: 1000000000000000", "Expect: 100-continue")], id="100-continue"),
        pytest.param([post("Transfer-Encoding: chunked"), *[b"200\r\n" + b" " * 512 + b"\r\n"] * 2], id="chunked"),
        pytest.param([post("Transfer-Encoding: chunked"), b"ffffffff\r\n" + b" " * 1001], id="one endless chunk"),
    ],
)
def test_max_body_before_the_body(run: Run, pieces: list[bytes]) -> None:
    """A body that is too large gets its 413 before it arrives, in one answer that ends the connection.

    RFC 9110 10.1.1: a client that got its answer need not send the body, so what follows could not be told from a next
    request.
    """

    async def main() -> None:
        async with partyline_server(max_body=1000, body_timeout=0.3, keep_alive_timeout=0.3) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(*pieces)
                await refused(peer, 413, "payload_too_large")
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"max_body": 1}

    run(main())


@pytest.mark.parametrize("behind", [b"", b" " * 500, b" " * 1001], ids=["nothing", "a part", "all"])
def test_answer_before_the_body_is_in(run: Run, behind: bytes) -> None:
    """A request that is answered before its body has arrived gets one answer, and its connection ends on time."""

    async def main() -> None:
        async with partyline_server(max_body=1000, body_timeout=0.2, keep_alive_timeout=0.2) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(post("Content-Length: 1001"))
                assert (await peer.answer()).status == 413
                await peer.send(behind)
                async with asyncio.timeout(2.5):  # 2 seconds are left to a refused client that goes on sending
                    assert await peer.rest() == b""
            await nothing_is_held(partyline)

    run(main())


def test_expected_body(run: Run) -> None:
    """A client that waits for 100 Continue gets it if its body is welcome."""

    async def main() -> None:
        async with partyline_server(max_body=1000) as (partyline, url), connected(url) as peer:
            await peer.send(post("Content-Length: 14", "Expect: 100-continue"))
            assert (await peer.answer()).status == 100
            await peer.send(BODY)
            assert (await peer.answer()).status == 200
            assert partyline.counters.limits == {}

    run(main())


# Messages


async def closed_with(socket: WebSocketPeer, code: int, reason: str | None = None) -> list[Any]:
    """What precedes the server's close frame, which has this code. The close is answered, and TCP ends."""
    before, close = await socket.until_close()
    assert close.code == code, close
    if reason is not None:
        assert close.reason == reason
    await socket.peer.send(close_frame(code))
    assert await socket.next() is None
    return before


def masked(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    return frame(opcode, payload, fin=fin, rsv1=rsv1, key=KEY)


FRAGMENTS = [masked(TEXT, b"a" * 500, fin=False), masked(CONTINUATION, b"a" * 500, fin=False)]
TOO_LARGE: dict[str, list[bytes]] = {
    "announced": [b"\x81\xfe\x03\xe9" + KEY],
    "announced, of 2^63-1 bytes": [b"\x82\xff\x7f" + b"\xff" * 7 + KEY],
    "in one frame": [masked(BINARY, b"a" * 1001)],
    "in fragments": [*FRAGMENTS, b"\x80\x81"  + KEY],
}  # fmt: skip


@pytest.mark.parametrize("pieces", TOO_LARGE.values(), ids=TOO_LARGE)
def test_max_message(run: Run, pieces: list[bytes]) -> None:
    """A message larger than max_message closes with 1009 as soon as its size is known (rows 24, 25)."""

    async def main() -> None:
        async with partyline_server(max_message=1000) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                await peer.send(masked(TEXT, b"ping"), masked(TEXT, b"x" * 1000))
                assert await socket.text() == "pong"
                assert json.loads(await socket.text())["error"]["code"] == "unknown_command"
                await peer.send(*pieces)
                assert await closed_with(socket, 1009) == []
            assert partyline.counters.limits == {"max_message": 1}
            assert partyline.counters.violations == 1
            await nothing_is_held(partyline)

    run(main())


def test_max_inflated(run: Run) -> None:
    """A compressed message that inflates to more than max_inflated closes with 1009, and is not inflated (row 26)."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeezer.compress(bytes(100_000_000)) + squeezer.flush(zlib.Z_SYNC_FLUSH)[:-4]
    bomb = masked(TEXT, bomb, rsv1=True)

    async def main() -> None:
        async with partyline_server(max_inflated=10_000) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path, DEFLATE)
                tracemalloc.start()
                try:
                    await peer.send(bomb)
                    assert await closed_with(socket, 1009) == []
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
            assert peak < 2_000_000
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"max_inflated": 1}

    run(main())


def test_max_fragments(run: Run) -> None:
    """A message in more than max_fragments frames closes with 1009; one in exactly that many is read (row 25)."""

    async def main() -> None:
        async with partyline_server(max_fragments=4) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                pieces = [masked(CONTINUATION if at else TEXT, b"ping"[at : at + 1], fin=at == 3) for at in range(4)]
                await peer.send(b"".join(pieces))
                assert await socket.text() == "pong"
                await peer.send(masked(TEXT, b"", fin=False), *[masked(CONTINUATION, b"", fin=False)] * 4)
                assert await closed_with(socket, 1009) == []
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"max_fragments": 1}

    run(main())


def test_a_violation_is_read_to_no_end(run: Run) -> None:
    """A client that goes on sending after its violation is cut at close_timeout at the latest (rows 20, 24)."""

    async def main() -> None:
        async with partyline_server(close_timeout=0.2) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                clock = Clock()
                await peer.send(b"\xff\xff")
                assert (await socket.until_close())[1].code == 1002
                async with dribbling(peer, b"a"):
                    await nothing_is_held(partyline)
                assert clock.shows(0.2)
            assert partyline.counters.violations == 1

    run(main())


# Heartbeats


@pytest.mark.alone
def test_ping_timeout(run: Run) -> None:
    """A client that does not answer pings is closed ping_interval + ping_timeout after it was last heard (rows 18,
    19)."""

    async def main() -> None:
        async with partyline_server(ping_interval=0.3, ping_timeout=0.2) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                clock = Clock()
                socket = await websocket(peer, path)
                assert await socket.next() == Ping(b"")
                assert clock.shows(0.3)
                assert await socket.until_close() == ([], Close(1011, "ping timeout"))
                assert await socket.next() is None
                assert clock.shows(0.5)
            assert partyline.counters.limits == {"ping_timeout": 1}
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.alone
@pytest.mark.parametrize("answer", ["pong", "text"])
def test_answered_pings(run: Run, answer: str) -> None:
    """A client that answers pings, or sends anything else, is not closed, and is pinged at each ping_interval."""

    async def main() -> None:
        async with partyline_server(ping_interval=0.2, ping_timeout=0.1) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                clock = Clock()
                socket = await websocket(peer, path)
                for _ in range(3):
                    while not isinstance(await socket.next(), Ping):
                        pass
                    assert clock.shows(0.2)
                    clock = Clock()
                    await peer.send(socket.wire.pong() if answer == "pong" else socket.wire.text(b"ping"))
                await socket.say("ping")
                assert await socket.text() == "pong"
                assert (await socket.close()).code == 1000
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


def test_ping_timeout_of_a_peer_that_takes_nothing(run: Run) -> None:
    """A client that neither reads nor answers is cut at the heartbeat, although no close frame can be sent (row 18)."""

    async def main() -> None:
        settings = {"ping_interval": 0.2, "ping_timeout": 0.2, "close_timeout": 30.0, "drop_oldest_topics": ("cats",)}
        async with partyline_server(**settings) as (partyline, url):
            small_send_buffers(partyline)
            path = await registered(url)
            async with connected(url, buffer=4096) as peer:
                clock = Clock()
                await websocket(peer, path)
                peer.stop_reading()
                for number in range(50):
                    publish(partyline, "cats", number)
                await nothing_is_held(partyline)
                assert clock.shows(0.4)
            assert partyline.counters.limits == {"ping_timeout": 1}

    run(main())


# Slow consumers

NUMBERS = itertools.count()
FILLING = "." * 8000


def publish(partyline: Partyline, topic: str, number: int, key: str | None = None) -> None:
    """A message of 8 kB that begins with its number."""
    data = json.dumps(f"{number} {FILLING}").encode()
    partyline.hub.publish(Draft(topic, data, str(next(NUMBERS)), key=key))


def numbers(events: Sequence[Any]) -> list[int]:
    return [int(event.partition(" ")[0]) for event in events]


def test_outbox_bytes(run: Run) -> None:
    """A client that does not read is closed with 4008 once outbox_bytes wait for it; others miss nothing (row 17)."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=100_000) as (partyline, url):
            small_send_buffers(partyline)
            paths = [await registered(url, name) for name in ("slow", "quick")]
            async with connected(url, buffer=4096) as one, connected(url) as two:
                slow, quick = await websocket(one, paths[0]), await websocket(two, paths[1])
                one.stop_reading()
                heard = []
                for number in range(200):
                    publish(partyline, "cats", number)
                    heard.append(await quick.text())
                    if partyline.counters.limits:
                        break
                assert partyline.counters.limits == {"outbox_bytes": 1}
                assert numbers(heard) == list(range(number + 1))
                assert 10 < number < 60, "more was held for the slow one than its outbox and the buffers below it"
                assert partyline.counters.dropped >= 10
                one.read_again()
                before = numbers(await closed_with(slow, 4008, "slow consumer"))
                assert before == list(range(len(before)))
                publish(partyline, "cats", 1000)
                assert numbers([await quick.text()]) == [1000]
                assert (await quick.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


def test_a_consumer_that_never_reads_is_cut(run: Run) -> None:
    """A slow consumer that does not even read its 4008 is cut at close_timeout, and its memory is freed (row 17)."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=100_000, close_timeout=0.3) as (partyline, url):
            small_send_buffers(partyline)
            path = await registered(url)
            async with connected(url, buffer=4096) as peer:
                await websocket(peer, path)
                peer.stop_reading()
                clock = Clock()
                for number in range(100):
                    publish(partyline, "cats", number)
                await eventually(lambda: partyline.counters.limits.get("outbox_bytes"), "its outbox is full")
                await nothing_is_held(partyline)
                assert clock.shows(0.3)
            assert partyline.counters.limits == {"outbox_bytes": 1, "close_timeout": 1}

    run(main())


def test_drop_oldest(run: Run) -> None:
    """A slow consumer of a drop_oldest topic stays and gets the newest messages in order; the others are counted."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=100_000, drop_oldest_topics=("cats",)) as (partyline, url):
            small_send_buffers(partyline)
            path = await registered(url)
            async with connected(url, buffer=4096) as peer:
                socket = await websocket(peer, path)
                peer.stop_reading()
                for number in range(200):
                    publish(partyline, "cats", number)
                peer.read_again()
                heard = []
                while not heard or heard[-1] != 199:
                    heard += numbers([await socket.text()])
                assert heard == sorted(set(heard))
                assert 10 < len(heard) < 60
                assert (await socket.close()).code == 1000
            assert partyline.counters.dropped == 200 - len(heard)
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


def test_conflate(run: Run) -> None:
    """A slow consumer of a conflated topic stays and gets the newest message of each key."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=100_000, conflate_topics=("cats",)) as (partyline, url):
            small_send_buffers(partyline)
            path = await registered(url)
            async with connected(url, buffer=4096) as peer:
                socket = await websocket(peer, path)
                peer.stop_reading()
                publish(partyline, "cats", 0, "rare")
                for number in range(1, 201):
                    publish(partyline, "cats", number, f"key {number % 3}")
                peer.read_again()
                heard = []
                while not heard or heard[-1] != 200:
                    heard += numbers([await socket.text()])
                assert heard == sorted(set(heard))
                assert heard[-3:] == [198, 199, 200]
                assert heard[0] == 0
                assert len(heard) < 60
                assert (await socket.close()).code == 1000
            assert partyline.counters.dropped == 201 - len(heard)
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


# Too many events


def test_events_per_second(run: Run) -> None:
    """Messages beyond the rate get the error `rate_limited`; a client that goes on all the same is closed with 4429."""

    async def main() -> None:
        async with partyline_server(events_per_second=0.001, events_burst=3) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                await socket.say(*["ping"] * 20)
                before = await closed_with(socket, 4429, "too many events")
                assert before[:3] == ["pong"] * 3
                assert [json.loads(text)["error"]["code"] for text in before[3:]] == ["rate_limited"] * 3
            assert partyline.counters.limits == {"events_per_second": 4}
            await nothing_is_held(partyline)

    run(main())


def test_events_after_a_pause(run: Run) -> None:
    """A client that slows down after `rate_limited` is heard again, and stays."""

    async def main() -> None:
        async with partyline_server(events_per_second=50, events_burst=2) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                for round_ in range(1, 5):
                    await socket.say(*["ping"] * 3)
                    heard = [await socket.text() for _ in range(3)]
                    assert heard[:2] == ["pong"] * 2
                    assert json.loads(heard[2])["error"]["code"] == "rate_limited"
                    assert partyline.counters.limits == {"events_per_second": round_}
                    await asyncio.sleep(0.05)  # two events more
                assert (await socket.close()).code == 1000
            await nothing_is_held(partyline)

    run(main())


# Ends


def test_close_timeout(run: Run) -> None:
    """A client that does not answer our close frame is cut at close_timeout."""

    async def main() -> None:
        async with partyline_server(close_timeout=0.2) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer, connected(url) as other:
                socket = await websocket(peer, path)
                clock = Clock()
                await other.send(request("DELETE", f"/register/{path.removeprefix('/ws/')}"))
                assert (await other.answer()).status == 200
                assert await socket.until_close() == ([], Close(4001, "unregistered"))
                assert await socket.next() is None
                assert clock.shows(0.2)
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"close_timeout": 1}

    run(main())


def test_drain_time(run: Run) -> None:
    """When the server stops, clients get 1012; one that ignores it is cut at drain_time, and not before (row 42)."""

    async def main() -> None:
        async with partyline_server(drain_time=0.4) as (partyline, url):
            paths = [await registered(url, name) for name in ("polite", "deaf")]
            async with connected(url) as one, connected(url) as two, connected(url) as idle:
                polite, deaf = await websocket(one, paths[0]), await websocket(two, paths[1])
                await idle.send(GET)
                assert (await idle.answer()).status == 200
                clock = Clock()
                partyline.shell.stop()
                assert await polite.until_close() == ([], Close(1012, "server restarting"))
                await one.send(close_frame(1012))
                assert await polite.next() is None
                assert await idle.rest() == b""
                assert clock.shows(0.0)
                with pytest.raises(ConnectionRefusedError):
                    await connected(url).__aenter__()
                assert await deaf.until_close() == ([], Close(1012, "server restarting"))
                assert await deaf.next() is None
                assert clock.shows(0.4)
                await nothing_is_held(partyline)
            assert partyline.counters.limits == {"drain_time": 1}

    run(main())


def test_requests_in_hand_when_the_server_stops(run: Run) -> None:
    """A publish whose body is still arriving when the server stops is answered, and then the drain is over (row 42)."""

    async def main() -> None:
        async with partyline_server(drain_time=5.0) as (partyline, url), connected(url) as peer:
            whole = request("POST", "/publish", b'{"topic": "cats", "message": "a last word"}')
            await peer.send(whole[:-10])
            await eventually(lambda: partyline.counters.requests, "its head is read")
            clock = Clock()
            partyline.shell.stop()
            await eventually(lambda: partyline.site.draining, "the drain begins")
            await peer.send(whole[-10:])
            assert (await peer.answer()).status == 200
            assert await peer.rest() == b""
            assert clock.shows(0.0)
            await nothing_is_held(partyline)
        assert partyline.counters.published == 1

    run(main())


# Malformed requests

HOST = b"Host: 127.0.0.1\r\n"
MALFORMED: dict[str, bytes] = {
    "garbage": bytes(range(255, 0, -1)),
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an invalid method": b"get /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "version 2.0": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n",
    "an invalid version": b"GET /health HTTP/7.3\r\n" + HOST + b"\r\n",
    "a target beyond ASCII": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "an invalid port": b"GET http://127.0.0.1:999999/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "lengths that differ": b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length twice": b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a length in a list": b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: +2\r\n\r\n{}",
    "a length beyond 2^64": b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551616\r\n\r\n{}",
    "length and chunked": b"POST /register HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST /register HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunked, but not last": b"POST /register HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "an invalid chunk size": post("Transfer-Encoding: chunked") + b"xyz\r\n",
    "NUL in a value": b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "NUL in a name": b"GET /health HTTP/1.1\r\n" + HOST + b"X\x00: a\r\n\r\n",
    "CR in a value": b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "LF for CR LF": b"GET /health HTTP/1.1\n" + HOST + b"\n",
    "LF for CR LF in a header": b"GET /health HTTP/1.1\r\nX: a\n" + HOST + b"\r\n",
    "a folded header": b"GET /health HTTP/1.1\r\nX: a\r\n b\r\n" + HOST + b"\r\n",
    "a space before the colon": b"GET /health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\n" + HOST + b"nothing\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request(data: bytes) -> None:
    """Anything but an HTTP/1.1 request gets 400 in our form without a stack trace, and the end, whole and byte by byte
    (row 30)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            for number, pieces in enumerate(([data], [bytes((byte,)) for byte in data]), 1):
                async with connected(url) as peer:
                    await peer.send(*pieces)
                    answer = await peer.answer()
                    assert (answer.status, answer.code) == (400, "malformed")
                    if answer.headers.get("connection") != "close":  # the syntax was fine, only the meaning was bad
                        await peer.send(GET)
                        assert (await peer.answer()).status == 200
                    else:
                        assert await peer.rest() == b""
                assert partyline.counters.refused == number
            assert partyline.counters.errors == 0
            assert partyline.counters.limits == {}
            assert len(partyline.registry) == 0
            await nothing_is_held(partyline)

    asyncio.run(main())


@pytest.mark.parametrize("headers", [(), ("Connection: Upgrade", "Upgrade: websocket")], ids=["request", "upgrade"])
@pytest.mark.parametrize("target", ["http://127.0.0.1", "http://127.0.0.1?a=b", "*"])
def test_targets_without_a_path(target: str, headers: tuple[str, ...]) -> None:
    """A target without a path is answered as not found, and is not an error of ours (RFC 9112 3.2)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer:
            await peer.send(request("GET", target, None, *headers))
            answer = await peer.answer()
            assert (answer.status, answer.code) == (404, "not_found")
            assert partyline.counters.errors == 0

    asyncio.run(main())


@pytest.mark.check
def test_many_connections_come_and_go(run: Run) -> None:
    """After a thousand connections of each kind nothing is left of them (row 43, on a small scale)."""

    async def main() -> None:
        async with partyline_server(resume_window=0, registrations_per_user=10_000) as (partyline, url):
            paths = [await registered(url) for _ in range(250)]

            async def cycle(path: str) -> None:
                async with connected(url) as peer:
                    await peer.send(GET)
                    await peer.answer()
                async with connected(url) as peer:
                    await peer.send(b"garbage\r\n")
                    await peer.rest()
                async with connected(url) as peer:
                    socket = await websocket(peer, path)
                    await socket.close()
                async with connected(url):
                    pass

            for batch in range(0, len(paths), 50):
                await asyncio.gather(*map(cycle, paths[batch : batch + 50]))
            await nothing_is_held(partyline)
            assert partyline.counters.accepted == 5 * len(paths)
            assert len(partyline.registry) == 0
            assert len(asyncio.all_tasks()) == 2, "this one, and the server's"

    run(main())
