"""HTTP from peers that are malicious, dead or just unlucky: none costs more than its share or harms the others."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from partyline import Partyline, SocketIO
from partyline.entries import ApiKey
from partyline.models import Draft
from partyline.server.http import HttpConnection
from partyline.trust.keys import key_hash
from partyline.wire.http.phases import Phase
from partyline.wire.websocket.codec import Close
from tests.process import serving
from tests.server.apps import app
from tests.server.conftest import Certificate, Run
from tests.server.peers import Peer, connected, request, upgrade, websocket
from tests.server.servers import eventually, nothing_is_held, partyline_server, registered, small_send_buffers

GET = request("GET", "/health")
PUBLISH = request("POST", "/publish", b'{"topic": "cats", "message": "hello"}')
LARGE = 3_000_000
ORIGIN = "https://app.example"


def http_connections(partyline: Partyline) -> list[HttpConnection]:
    return [one for one in partyline.site.live if isinstance(one, HttpConnection)]


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answers with LARGE bytes, in one piece."""
    headers = [(b"content-length", str(LARGE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


# Pipelines


@pytest.mark.check
def test_a_pipeline_is_bounded(run: Run) -> None:
    """What a client sends ahead waits unread: at most a few hundred kilobytes are held, whatever it sends (hostile
    49)."""
    count, padded = 3_000, GET[:-2] + b"X-Padding: " + b"x" * 400 + b"\r\n\r\n"

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer:
            sending = asyncio.create_task(peer.send(*[padded * 100] * (count // 100)))
            most = answers = 0
            tail = b""
            while answers < count:
                piece = await peer.some()
                assert piece, "the connection ended"
                answers += (tail + piece).count(b'{"status":"ok"}')
                tail = piece[-14:]
                most = max(most, *(len(one._ahead) for one in http_connections(partyline)))
            await sending
            assert most < 600_000
            assert partyline.counters.requests == count
            await peer.close()
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.alone
def test_a_pipeline_leaves_the_loop_to_others() -> None:
    """A client that sends ahead as fast as it can gets at most about a quarter of the loop (hostile 48)."""

    def cpu(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def read(peer: Peer) -> None:
        while await peer.some():
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving() as server, connected(server.url) as peer:
            reading = asyncio.create_task(read(peer))
            flooding = asyncio.create_task(peer.send(*[GET * 2_000] * 1_000))
            await asyncio.sleep(0.5)
            spent, began = cpu(server.pid), loop.time()
            await asyncio.sleep(1.5)
            share = (cpu(server.pid) - spent) / (loop.time() - began)
            assert not flooding.done()
            assert share < 0.35
            for task in (reading, flooding):
                task.cancel()
            await asyncio.wait((reading, flooding))

    asyncio.run(main())


@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_a_pipeline_of_everything(run: Run, certificate: Certificate, over: str) -> None:
    """Requests with and without bodies, in pieces of any size, are answered one for one, in order."""
    files = {"certfile": certificate.certfile, "keyfile": certificate.keyfile} if over == "tls" else {}
    chunked = (
        request("POST", "/there", None, "Transfer-Encoding: chunked") + b'3\r\n"ch\r\n4\r\nunk"\r\n0\r\nX: 1\r\n\r\n'
    )
    asks = [GET, PUBLISH, request("POST", "/there", b'"sized"'), chunked, request("HEAD", "/health"), GET] * 20
    data = b"\r\n".join(asks)  # RFC 9112 2.2: empty lines before a request are skipped

    async def main() -> None:
        async with partyline_server(fallback=app, **files) as (partyline, url):
            for step in (1_000_000, 700, 53):
                async with connected(url, tls=certificate.trust if files else None) as peer:
                    sending = asyncio.create_task(
                        peer.send(*(data[at : at + step] for at in range(0, len(data), step)))
                    )
                    for _ in range(20):
                        assert (await peer.answer()).json == {"status": "ok"}
                        assert (await peer.answer()).json["topic"] == "cats"
                        assert (await peer.answer()).json["body"] == '"sized"'
                        assert (await peer.answer()).json["body"] == '"chunk"'
                        assert "content-length: 15" in await peer.head()
                        assert (await peer.answer()).json == {"status": "ok"}
                    await sending
            await nothing_is_held(partyline)

    run(main())


def test_bytes_after_an_upgrade_that_waits(run: Run) -> None:
    """Frames that arrive with an upgrade that still has to wait, in one read or in more, are kept (hostile 53)."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await app(scope, receive, send)

    async def main() -> None:
        ping = b"\x81\x84\x00\x00\x00\x00ping"
        async with partyline_server(fallback=slow) as (partyline, url):
            path = await registered(url)
            for pieces in ([ping * 3], [ping, ping[:5], ping[5:] + ping]):
                go_on.clear()
                async with connected(url) as peer:
                    await peer.send(request("GET", "/slow") + upgrade(path), *pieces)
                    await eventually(lambda: partyline.shell.served.tasks, "the first is read")
                    await asyncio.sleep(0.01)
                    go_on.set()
                    assert (await peer.answer()).status == 200
                    assert (await peer.answer()).status == 101
                    pongs = b""
                    while len(pongs) < 18:
                        pongs += await peer.some()
                    assert pongs == b"\x81\x04pong" * 3
            await nothing_is_held(partyline)

    run(main())


# Answers that nobody reads


def test_an_answer_that_is_not_read_is_cut(run: Run) -> None:
    """A client that does not read its answer is cut at body_timeout, and what was held for it is freed (hostile 49)."""

    async def main() -> None:
        async with partyline_server(fallback=large, body_timeout=0.3) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=4096) as peer:
                peer.stop_reading()
                await peer.send(request("GET", "/large"))
                await eventually(lambda: partyline.site.unread > 2_000_000, "it is held")
                await nothing_is_held(partyline)
            assert partyline.counters.limits == {"body_timeout": 1}
            assert partyline.site.unread == 0

    run(main())


def test_an_answer_that_is_read_slowly_arrives(run: Run) -> None:
    """A client that keeps reading, however slowly, gets its whole answer."""

    async def main() -> None:
        async with partyline_server(fallback=large, body_timeout=0.2) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=65536) as peer:
                await peer.send(request("GET", "/large"))
                assert "200 OK" in await peer.head()
                left = LARGE
                while left:
                    left -= len(await peer.some())
                    await asyncio.sleep(0.01)
                await peer.send(request("GET", "/large"))
                assert len((await peer.answer()).body) == LARGE
            assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())


def test_all_answers_that_are_not_read_are_bounded(run: Run) -> None:
    """When too much is held for clients that do not read, a large answer becomes a 503; small ones are still sent
    (hostile 49)."""

    async def main() -> None:
        async with partyline_server(fallback=large, outbox_bytes=65_536, body_timeout=60) as (partyline, url):
            small_send_buffers(partyline)
            peers = [connected(url, buffer=4096) for _ in range(5)]
            for one in peers:
                peer = await one.__aenter__()
                peer.stop_reading()
                await peer.send(request("GET", "/large"))
            await eventually(lambda: partyline.site.unread > 128 * 65_536, "they are held")
            async with connected(url) as peer:
                await peer.send(request("GET", "/large"))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (503, "overloaded")
                assert int(answer.headers["retry-after"]) > 0
                await peer.send(GET)
                assert (await peer.answer()).status == 200
                for one in peers:
                    await one.__aexit__(None, None, None)
                await eventually(lambda: not partyline.site.unread, "everything is freed")
                await peer.send(request("GET", "/large"))
                assert (await peer.answer()).status == 200
            assert partyline.counters.limits == {"outbox_bytes": 3}, "two of the five, and this one"
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.check
def test_requests_of_a_client_that_does_not_read_wait(run: Run) -> None:
    """While its answers are not read, a client's further requests are not served."""

    async def main() -> None:
        async with partyline_server(fallback=large) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=4096) as peer:
                peer.stop_reading()
                await peer.send(request("GET", "/large") * 20)
                await eventually(lambda: partyline.site.unread > 2_000_000, "the first is held")
                await asyncio.sleep(0.05)
                assert partyline.counters.requests == 1
                assert partyline.site.unread < LARGE
                peer.read_again()
                for _ in range(20):
                    assert len((await peer.answer()).body) == LARGE
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.check
def test_a_refusal_that_is_read_late_lingers_no_longer(run: Run) -> None:
    """A client that is refused while its earlier answers wait, and reads them then, is cut as any other that was
    refused (hostile 49)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=4096) as peer:
                peer.stop_reading()
                await eventually(lambda: bool(http_connections(partyline)), "it is there")
                (connection,) = http_connections(partyline)
                waits = connection._transport.get_write_buffer_size
                while waits() <= 65_300:  # the next one goes beyond the 64 KiB that a transport holds
                    count = partyline.counters.requests
                    await peer.send(GET)
                    await eventually(lambda before=count: partyline.counters.requests > before, "it is answered")
                    await asyncio.sleep(0)
                assert not connection.blocked
                await peer.send(b"malformed\r\n\r\n")
                await eventually(lambda: connection.blocked, "the refusal waits")
                assert connection._phase is Phase.LINGER
                peer.read_again()
                assert b" 400 Bad Request" in await peer.rest()
                await nothing_is_held(partyline)

    run(main())


# Ends


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/nowhere",
        "/metrics",
        "/v1/topics/cats/messages",
        "/v1/topics/cats/events",
        "/socket.io/?EIO=4&transport=polling",
        "/stream",
        "/there",
    ],
)
def test_head(run: Run, path: str) -> None:
    """HEAD on any path is answered without a body, and the next request on that connection is answered, whatever GET
    would stream there (hostile 53)."""

    async def main() -> None:
        async with partyline_server(fallback=None if path == "/nowhere" else app) as (partyline, url):
            async with connected(url) as peer:
                for _ in range(2):
                    await peer.send(request("HEAD", path))
                    head = await peer.head()
                    assert head.startswith("HTTP/1.1 ")
                    assert "transfer-encoding" not in head
                    await peer.send(GET)
                    assert (await peer.answer()).json == {"status": "ok"}
            await nothing_is_held(partyline)
            assert partyline.counters.errors == 0

    run(main())


@pytest.mark.parametrize("ask", [GET, PUBLISH, GET * 3 + PUBLISH], ids=["get", "publish", "a pipeline"])
def test_half_closed(run: Run, ask: bytes) -> None:
    """A client that sends its requests and then ends its side gets all its answers, and the end (hostile 53)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            async with connected(url) as peer:
                await peer.send(ask)
                peer.end()
                for _ in range(ask.count(b"HTTP/1.1")):
                    assert (await peer.answer()).status == 200
                assert await peer.ends_in_order()
            async with connected(url) as peer:
                await peer.send(ask + b"GET /hea")
                peer.end()
                for _ in range(ask.count(b"HTTP/1.1")):
                    assert (await peer.answer()).status == 200
                assert await peer.ends_in_order()
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize("path", ["/v1/topics/cats/events", "/stream", "/socket.io/?EIO=4&transport=polling&sid="])
def test_half_closed_and_waiting(run: Run, path: str) -> None:
    """A client that ends its side while it waits for an answer that may never come counts as gone."""

    async def main() -> None:
        async with partyline_server(fallback=app, extras=[SocketIO()]) as (partyline, url):
            async with connected(url) as peer:
                target = path
                if path.endswith("sid="):
                    await peer.send(request("GET", path.removesuffix("&sid=")))
                    target += json.loads((await peer.answer()).body[1:])["sid"]
                await peer.send(request("GET", target))
                await eventually(lambda: partyline.counters.requests, "it is read")
                await asyncio.sleep(0.02)
                peer.end()
                await peer.rest()
            await eventually(lambda: not (partyline.site.connections or partyline.shell.served.tasks), "it is released")

    run(main())


def test_http_1_0(run: Run) -> None:
    """An event stream to a client of HTTP/1.0 is not chunked, and ends with its connection (hostile 53)."""

    async def main() -> None:
        async with partyline_server(fallback=app) as (_, url), connected(url) as peer:
            await peer.send(b"GET /v1/topics/cats/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            head = await peer.head()
            assert "transfer-encoding" not in head
            assert "connection: close" in head
            async with connected(url) as publisher:
                await publisher.send(PUBLISH)
                assert (await publisher.answer()).status == 200
            heard = b""
            while b"hello" not in heard:
                heard += await peer.some()
            assert heard.startswith((b"id:", b"data:", b":")), "no chunk size precedes it"

    run(main())


@pytest.mark.parametrize("ask", ["GET /health", "OPTIONS /", "OPTIONS *", "HEAD /health"])
def test_health_checks_without_host(run: Run, ask: str) -> None:
    """The default request of proxies, HTTP/1.0 without a Host, is answered 2xx (hostile 59)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            async with connected(url) as peer:
                await peer.send(f"{ask} HTTP/1.0\r\n\r\n".encode())
                assert (await peer.head()).startswith("HTTP/1.1 200 OK")
            async with connected(url) as peer:  # a page, which has an origin, cannot ask like that
                await peer.send(b"GET /v1/topics HTTP/1.0\r\nOrigin: https://evil.example\r\n\r\n")
                assert (await peer.answer()).code == "foreign_origin"
            async with connected(url) as peer:
                await peer.send(b"GET /health HTTP/1.1\r\n\r\n")
                assert (await peer.answer()).status == 400
            await nothing_is_held(partyline)

    run(main())


# The origin of a request


KEY = "a key"
KEYS = (ApiKey(key_hash(KEY), admin=True),)


def test_trailers_are_not_headers(run: Run) -> None:
    """A credential, a Host, an origin or a forwarded address in a trailer is ignored (hostile 53)."""
    body = b'{"topic": "cats", "message": 1}'
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(body), body)

    async def main() -> None:
        async with partyline_server(api_keys=KEYS, trusted_proxies=("127.0.0.1",)) as (partyline, url):

            async def ask(*headers: str, trailer: str, split: bool) -> int:
                chunked = ("Content-Type: application/json", "Transfer-Encoding: chunked")
                head, tail = request("POST", "/publish", None, *headers, *chunked), trailer.encode() + b"\r\n\r\n"
                async with connected(url) as peer:
                    await peer.send(*([head, chunks, tail] if split else [head + chunks + tail]))
                    status = (await peer.answer()).status
                    if status == 200:
                        await peer.send(GET)
                        assert (await peer.answer()).status == 200
                    return status

            with_key = f"Authorization: Bearer {KEY}"
            for split in (False, True):
                assert await ask(trailer=with_key, split=split) == 401
                assert await ask(trailer="Content-Type: text/plain", split=split) == 401
                for trailer in ("Host: evil.example", "Origin: https://evil.example", "Authorization: no"):
                    assert await ask(with_key, trailer=trailer, split=split) == 200
            wrong = [
                await ask("Authorization: Bearer wrong", trailer=f"X-Forwarded-For: 198.51.100.{n}", split=False)
                for n in range(40)
            ]
            assert 429 in wrong, "a limit on guessing counts by the connection's address"
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize(
    "ask",
    [
        request("GET", "http://%s/health"),
        request("POST", "http://%s/publish", b'{"topic": "a", "message": 1}'),
        upgrade("http://%s/ws/0"),
    ],
    ids=["get", "publish", "upgrade"],
)
def test_absolute_targets(run: Run, ask: bytes) -> None:
    """The host of an absolute target counts, not the Host header: a foreign one gets 421 (RFC 9112 3.2.2)."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            for host, served in ((b"evil.example", False), (b"127.0.0.1:1", True), (b"localhost", True)):
                async with connected(url) as peer:
                    await peer.send(ask.replace(b"%s", host))
                    assert ((await peer.answer()).status == 421) is not served
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize("raw", ["%E8", "%E9", "%C3", "caf%E9.x"])
def test_paths_that_are_not_utf8(run: Run, raw: str) -> None:
    """Paths that are not UTF-8 are refused, because two of them must not become one topic."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            for ask in (
                request("POST", f"/v1/topics/{raw}/messages", b'{"data": 1}'),
                request("GET", f"/v1/topics/{raw}/events"),
                request("DELETE", f"/register/{raw}"),
                upgrade(f"/ws/{raw}"),
            ):
                async with connected(url) as peer:
                    await peer.send(ask)
                    answer = await peer.answer()
                    assert (answer.status, answer.code) == (400, "malformed")
            assert partyline.counters.published == 0
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize(
    "path", ["/publish", "/register", "/v1/publish", "/v1/topics/cats/messages", "/socket.io/?EIO=4&transport=polling"]
)
def test_coded_bodies(run: Run, path: str) -> None:
    """A body with a Content-Encoding gets 415, which says so, however often it is repeated; `identity` is not an
    encoding."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), connected(url) as peer:
            for _ in range(2):
                await peer.send(request("POST", path, b"\x1f\x8b\x08", "Content-Encoding: gzip"))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (415, "unsupported_media_type")
            await peer.send(request("POST", path, b"{}", "Content-Encoding: identity"))
            assert (await peer.answer()).status != 415
            assert partyline.counters.errors == 0

    run(main())


def publish(*headers: str, path: str = "/publish") -> bytes:
    return request("POST", path, None, "Origin: %s", "Content-Type: application/json", *headers)


REFUSED: dict[str, tuple[Sequence[bytes], int]] = {
    "a head that does not end": ([b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: %s\r\nX: "], 408),
    "a body that does not end": ([publish("Content-Length: 5")], 408),
    "a head too large": ([b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: %s\r\nX: " + b"a" * 3_000], 431),
    "too many headers": ([request("GET", "/health", None, "Origin: %s", *["X: a"] * 200)], 431),
    "a body too large": ([publish("Content-Length: 5000")], 413),
    "chunks too large": ([publish("Transfer-Encoding: chunked"), b"7d0\r\n" + b" " * 2_000], 413),
    "a polling body too large": ([publish("Content-Length: 5000000", path="/socket.io/?EIO=4&transport=polling")], 413),
    "no HTTP": ([b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: %s\r\nX\r\n\r\n"], 400),
}  # fmt: skip


@pytest.mark.parametrize("refused", REFUSED)
def test_pages_may_read_their_refusals(run: Run, refused: str) -> None:
    """A refusal before any application is asked can be read by pages of allowed origins, and by no others."""
    pieces, status = REFUSED[refused]

    async def main() -> None:
        settings = {"cors_origins": (ORIGIN,), "max_head_bytes": 2_048, "max_body": 1_000}
        async with partyline_server(**settings, head_timeout=0.2, body_timeout=0.2) as (partyline, url):
            for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
                async with connected(url) as peer:
                    await peer.send(*(piece.replace(b"%s", origin.encode()) for piece in pieces))
                    answer = await peer.answer()
                    assert answer.headers.get("access-control-allow-origin") == allowed
                    assert answer.status == status if allowed else answer.status in (status, 403)
            await nothing_is_held(partyline)

    run(main())


# Dead peers


def go_dead(peer: Peer) -> None:
    """Let the kernel discard everything sent to this client, unacknowledged, as if its network were gone."""
    sock = peer.transport.get_extra_info("socket")
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HL", 1, ctypes.addressof(code))
    attach = 26  # SO_ATTACH_FILTER
    sock.setsockopt(socket.SOL_SOCKET, attach, program)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["websocket", "event stream", "idle", "polling"])
def test_dead_peers_do_not_lengthen_a_drain(run: Run, kind: str) -> None:
    """A restart while connected clients cannot be reached by any packet takes about a second (hostile 55)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with partyline_server(drain_time=30.0) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                if kind == "websocket":
                    await websocket(peer, path)
                elif kind == "event stream":
                    await peer.send(request("GET", "/v1/topics/cats/events"))
                    await peer.head()
                elif kind == "idle":
                    await peer.send(GET)
                    await peer.answer()
                else:
                    await peer.send(request("GET", "/socket.io/?EIO=4&transport=polling"))
                    sid = json.loads((await peer.answer()).body[1:])["sid"]
                    await peer.send(request("GET", f"/socket.io/?EIO=4&transport=polling&sid={sid}"))
                    await asyncio.sleep(0.02)
                go_dead(peer)
                began = loop.time()
                partyline.shell.stop()
                await eventually(lambda: not partyline.site.connections, "the dead one is dropped", within=4.0)
                assert loop.time() - began < 1.5

    run(main())


@pytest.mark.alone
def test_a_websocket_that_does_not_answer_a_close_holds_a_drain_for_close_timeout(run: Run) -> None:
    """The server waits for a live client that does not answer our 1012 for close_timeout, not for the drain time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with partyline_server(drain_time=30.0, close_timeout=0.4) as (partyline, url):
            path = await registered(url)
            async with connected(url) as peer:
                socket = await websocket(peer, path)
                began = loop.time()
                partyline.shell.stop()
                assert await socket.until_close() == ([], Close(1012, "server restarting"))
                await nothing_is_held(partyline)
                assert 0.39 <= loop.time() - began < 1.0

    run(main())


@pytest.mark.alone
@pytest.mark.parametrize("path", ["/v1/topics/cats/events", "/drip"])
def test_dead_event_streams_are_reaped(run: Run, path: str) -> None:
    """A stream to a client that cannot be reached by any packet ends within ping_interval + ping_timeout (hostile
    55)."""

    async def drip(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b": drip\n\n", "more_body": True})
            await asyncio.sleep(0.05)

    async def main() -> None:
        async with partyline_server(fallback=drip, ping_interval=0.5, ping_timeout=0.4) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("GET", path))
                await peer.head()
                go_dead(peer)
                async with connected(url) as publisher:
                    await publisher.send(PUBLISH)
                    assert (await publisher.answer()).status == 200
                await eventually(lambda: not partyline.site.connections, "the dead stream is reaped", within=4.0)
            await eventually(lambda: not partyline.shell.served.tasks, "its application has ended")

    run(main())


# The server stops


def test_publishes_in_hand_when_the_server_stops(run: Run) -> None:
    """What a WebSocket published before a SIGTERM is answered before its close frame (hostile 42)."""

    async def main() -> None:
        async with partyline_server(drain_time=5.0) as (partyline, url), connected(url) as peer:
            socket = await websocket(peer, "/v1/ws", "Sec-WebSocket-Protocol: partyline.v1")
            assert json.loads(await socket.text())["type"] == "welcome"
            append, held = partyline.store.append, []

            def late(*drafts: Draft) -> None:
                held.extend(drafts)
                asyncio.get_running_loop().call_later(0.1, append, *drafts)

            partyline.store.append = late  # type: ignore[method-assign]
            await socket.say(*(json.dumps({"type": "publish", "topic": "a", "data": n, "id": n}) for n in range(5)))
            await eventually(lambda: len(held) == 5, "they are read")
            partyline.shell.stop()
            before, close = await socket.until_close()
            assert sorted(json.loads(str(one))["id"] for one in before) == [0, 1, 2, 3, 4]
            assert close == Close(1012, "server restarting")

    run(main())
