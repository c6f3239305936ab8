"""HTTP as our own server speaks it to peers that are merely odd: upgrades, ends, proxies, TLS.

tests/server/test_limits.py has the limits, tests/server/test_hostile_http.py the malicious peers.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httptools
import pytest

from partyline.entries import ApiKey
from partyline.server.http import HttpConnection
from partyline.trust.keys import key_hash
from partyline.wire.websocket.codec import Codec, Limits
from tests.process import serving
from tests.server.apps import app
from tests.server.conftest import Certificate
from tests.server.peers import connected, request, upgrade, websocket
from tests.server.servers import echo, eventually, nothing_is_held, partyline_server, registered

SECRET = "sesame-0123456789"


def test_bytes_behind_the_upgrade() -> None:
    """A frame in the same segment as the handshake is read, on our own paths and an application's (hostile 53)."""

    async def main() -> None:
        async def probe(url: str, path: str) -> list[str]:
            client = Codec(Limits(), client=True)
            async with connected(url) as peer:
                socket = await websocket(peer, path, behind=client.text(b"first"))
                await socket.say("second")
                heard = []
                while not heard or heard[-1] != "second":
                    heard.append(await socket.text())
                return heard

        async with partyline_server(fallback=app) as (partyline, url):
            assert await probe(url, "/echo") == ["first", "second"]
            partyline.site.route = echo
            assert await probe(url, "/native") == ["first", "second"]

    asyncio.run(main())


def test_exit_code() -> None:
    """After SIGTERM the process exits with 0 instead of dying by the signal, which would look like a crash (hostile
    42)."""

    async def main() -> None:
        async with serving() as server, connected(server.url):
            assert await server.end(signal.SIGTERM) == 0

    asyncio.run(main())


@pytest.mark.alone
def test_open_stream_at_shutdown() -> None:
    """An endless answer keeps a stopped server until the drain time, and no longer (hostile 42)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with partyline_server(fallback=app, drain_time=0.4) as (partyline, url), connected(url) as peer:
            await peer.send(request("GET", "/stream"))
            assert " 200 " in await peer.head()
            began = loop.time()
            partyline.shell.stop()
            await peer.rest()
            assert 0.4 <= loop.time() - began < 0.7
            await nothing_is_held(partyline)

    asyncio.run(main())


def test_forwarded_headers() -> None:
    """Forwarded headers are believed only from trusted_proxies, and not from loopback as such (hostile 36)."""
    forged = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example")
    key = "a key"
    keys = (ApiKey(key_hash(key), admin=True),)

    async def main() -> None:
        async def probe(url: str) -> Any:
            async with connected(url) as peer:
                await peer.send(request("GET", "/there", None, *forged))
                facts = (await peer.answer()).json
                return facts["client"], facts["scheme"]

        async def register(url: str) -> Any:
            host = url.partition("//")[2]
            async with connected(url) as peer:
                authorization = f"Authorization: Bearer {key}"
                await peer.send(request("POST", "/register", b'{"user_id": 1}', *forged, authorization, host=host))
                return await peer.answer()

        async with partyline_server(fallback=app, api_keys=keys) as (_, url):
            assert await probe(url) == ("127.0.0.1", "http")
            assert (await register(url)).json["url"].startswith(f"ws://{url.partition('//')[2]}/ws/")
        async with partyline_server(api_keys=keys, trusted_proxies=("127.0.0.1",), allowed_hosts=("evil.example",)) as (
            _,
            url,
        ):
            assert (await register(url)).json["url"].startswith("wss://evil.example/ws/")
        async with partyline_server() as (_, url):
            refused = await register(url)
            assert (refused.status, refused.code) == (403, "forwarded_in_open_mode")

    asyncio.run(main())


def test_tokens_in_logs() -> None:
    """Neither a `?token=` nor an id in /ws/<id> is ever logged (hostile 39)."""

    async def main() -> None:
        def asks(path: str) -> list[bytes]:
            query = f"{path}?token={SECRET}"
            return [
                request("GET", query),
                upgrade(query),
                request("GET", query, None, "Connection: Upgrade", "Upgrade: h2c"),
                request("GET", query, None, f"Authorization: Bearer {SECRET}", host="foreign.example"),
                request("GET", query).replace(b"\r\n", b"\n"),
            ]

        async with serving("--log-level", "debug") as server:
            known = await registered(server.url)
            statuses = []
            for path in ("/health", "/there", known, f"/ws/{SECRET}"):
                for ask in asks(path):
                    async with connected(server.url) as peer:
                        await peer.send(ask)
                        statuses.append((await peer.answer()).status)
            assert set(statuses) == {101, 200, 400, 404, 421, 426}
            server.process.terminate()
            output, errors = await server.process.communicate()
            assert errors.count(b'"refused"') >= 7, "nothing was logged, so the test shows nothing"
            for secret in (SECRET, known.removeprefix("/ws/")):
                assert secret.encode() not in output + errors

    asyncio.run(main())


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")


def test_body_with_an_upgrade_to_http2() -> None:
    """A POST that offers h2c, as Java's client does, is served as if it did not (RFC 9110 7.8)."""

    async def main() -> None:
        async with partyline_server(fallback=app) as (partyline, url), connected(url) as peer:
            whole = request("POST", "/there", b'"a body"', *H2C)
            chunked = request("POST", "/there", None, *H2C, "Transfer-Encoding: chunked")
            chunks = b'3\r\n"a \r\n5\r\nbody"\r\n0\r\n\r\n'
            empty = request("GET", "/there", None, *H2C)
            large = b'"%b"' % (b"a" * 300_000)
            for number, (pieces, body) in enumerate(
                [
                    ([whole], b'"a body"'),
                    ([whole[:-4], whole[-4:]], b'"a body"'),
                    ([whole[:-8], whole[-8:]], b'"a body"'),
                    ([bytes((byte,)) for byte in whole], b'"a body"'),
                    ([chunked + chunks], b'"a body"'),
                    ([chunked, chunks[:4], chunks[4:]], b'"a body"'),
                    ([empty], b""),
                    ([request("POST", "/there", large, *H2C)], large),
                    ([request("POST", "/there", b'"a body"')], b'"a body"'),
                ],
                1,
            ):
                await peer.send(*pieces)
                answer = await peer.answer()
                assert answer.status == 200
                assert answer.json["body"].encode() == body
                assert partyline.counters.requests == number
            await peer.send(whole + request("GET", "/behind"))
            assert (await peer.answer()).json["body"] == '"a body"'
            assert (await peer.answer()).json["path"] == "/behind"
            socket = await websocket(peer, await registered(url))
            await socket.say("ping")
            assert await socket.text() == "pong"

    asyncio.run(main())


@asynccontextmanager
async def without_collector() -> AsyncIterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def parsers() -> int:
    return sum(type(thing) is httptools.HttpRequestParser for thing in gc.get_objects())


def test_what_stays_of_the_request_after_an_upgrade() -> None:
    """After an upgrade nothing is left of the HTTP connection, even without the garbage collector."""

    async def main() -> None:
        async def probe(url: str, connections: set[Any], path: str, kind: type) -> tuple[bool, int]:
            """Whether the HTTP connection under a WebSocket still exists, and how many parsers were added."""
            before = parsers()
            async with connected(url) as peer:
                await eventually(lambda: any(isinstance(one, kind) for one in connections), "the connection is there")
                protocol = weakref.ref(next(one for one in connections if isinstance(one, kind)))
                socket = await websocket(peer, path)
                await socket.say("ping")
                assert await socket.text() in ("ping", "pong")
                return protocol() is not None, parsers() - before

        async with partyline_server(fallback=app) as (partyline, url):
            path = await registered(url)
            await nothing_is_held(partyline)
            async with without_collector():
                live: set[Any] = partyline.site.live
                assert await probe(url, live, path, HttpConnection) == (False, 0)
                assert await probe(url, live, "/echo", HttpConnection) == (False, 0)

    asyncio.run(main())


@pytest.mark.alone
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "half a hello"])
def test_tls_handshake_deadline(certificate: Certificate, hello: bytes) -> None:
    """A TLS handshake that does not end is cut at tls_handshake_timeout (hostile 19, 20)."""
    files = {"certfile": certificate.certfile, "keyfile": certificate.keyfile}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with partyline_server(tls_handshake_timeout=0.3, **files) as (partyline, url):
            began = loop.time()
            async with connected(url) as peer:
                await peer.send(hello)
                assert await peer.rest() == b""
                assert 0.29 <= loop.time() - began < 0.6
            async with connected(url, tls=certificate.trust) as peer:
                await peer.send(request("GET", "/health"))
                assert (await peer.answer()).json == {"status": "ok"}
            await nothing_is_held(partyline)
            assert partyline.counters.limits == {"tls_handshake_timeout": 1}

    asyncio.run(main())
