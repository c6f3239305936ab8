"""Requests that are answered without ASGI: for HTTP they are like all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from partyline.entries import ApiKey
from partyline.errors import Conflict, Forbidden, MalformedRequest
from partyline.metrics import Counters
from partyline.server.exchange import Exchange, OverAsgi, Paths
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.trust.keys import key_hash

from .conftest import Run
from .peers import connected, request
from .servers import eventually, nothing_is_held, partyline_server

_LATER = "/direct?later"


class Telling:
    """Answers with what was asked; `?later` waits for `release`, `?refuse` refuses and `?fail` fails."""

    max_body = 1_000
    body_setting = "max_message"

    def __init__(self) -> None:
        self.waiting: list[Exchange] = []
        self.gone = 0

    def attach(self, site: Site) -> None:
        site.direct.add("/direct", self)

    def routes(self) -> Sequence[BaseRoute]:
        async def asgi(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"asgi {(await request.body()).decode()}")

        return [Route("/direct", asgi, methods=["GET", "POST"])]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        return None

    def begin(self, exchange: Exchange) -> None:
        if exchange.header(b"x-stranger") is not None:
            raise Forbidden("no strangers")

    def respond(self, exchange: Exchange) -> None:
        if exchange.query == b"later":
            self.waiting.append(exchange)
            exchange.gone = self.count
        elif exchange.query == b"refuse":
            raise Conflict("not twice")
        elif exchange.query == b"fail":
            raise RuntimeError("as asked")
        else:
            self.tell(exchange)

    def count(self) -> None:
        self.gone += 1

    def tell(self, exchange: Exchange) -> None:
        text = f"{exchange.method} {exchange.peer.address} {exchange.query.decode()} {exchange.body.decode()}"
        exchange.answer([(b"x-direct", b"1")], text.encode())


def test_requests_on_one_connection(run: Run) -> None:
    """Answers are sent one after the other, with the headers that every answer has, on a connection that stays."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()]) as (partyline, url), connected(url) as peer:
            for method, query, body in (
                ("GET", "a=1", None),
                ("POST", "", b"hello"),
                ("PUT", "", b""),
                ("GET", "", None),
            ):
                await peer.send(request(method, f"/direct?{query}", body))
                answer = await peer.answer()
                assert answer.status == 200
                assert answer.body.decode() == f"{method} 127.0.0.1 {query} {(body or b'').decode()}"
                assert answer.headers["x-direct"] == "1"
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "date" in answer.headers
            await peer.send(request("GET", "/health"))
            assert (await peer.answer()).status == 200
            assert partyline.counters.requests == 5

    run(main())


def test_a_body_in_pieces(run: Run) -> None:
    """A body may arrive byte by byte and in chunks."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()]) as (_, url), connected(url) as peer:
            data = request("POST", "/direct", b"hello")
            await peer.send(*[data[at : at + 1] for at in range(len(data))])
            assert (await peer.answer()).body.endswith(b" hello")
            head = request("POST", "/direct", None, "Transfer-Encoding: chunked")
            await peer.send(head, b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\n\r\n")
            assert (await peer.answer()).body.endswith(b" hello")

    run(main())


@pytest.mark.parametrize(
    "head", ["GET /direct HTTP/1.0\r\nHost: x", "GET /direct HTTP/1.1\r\nHost: x\r\nConnection: close"]
)
def test_the_last_request_of_a_connection(run: Run, head: str) -> None:
    """If the client wants no further answer, the connection ends after this one."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()], allowed_hosts=("x",)) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(head.encode() + b"\r\n\r\n")
                answer = await peer.answer()
                assert answer.headers["connection"] == "close"
                assert await peer.ends_in_order()
            await nothing_is_held(partyline)

    run(main())


def test_an_answer_that_comes_later(run: Run) -> None:
    """The connection waits for a late answer and then goes on; pipelined requests are answered after it, in order."""
    telling = Telling()

    async def main() -> None:
        async with partyline_server(extras=[telling]) as (_, url), connected(url) as peer:
            await peer.send(request("GET", _LATER) + request("POST", "/direct", b"second") + request("GET", "/health"))
            await eventually(lambda: telling.waiting, "it waits")
            assert await peer.hears_nothing(0.05)
        async with partyline_server(extras=[telling]) as (_, url), connected(url) as peer:
            telling.waiting.clear()
            await peer.send(request("GET", _LATER) + request("POST", "/direct", b"second") + request("GET", "/health"))
            await eventually(lambda: telling.waiting, "it waits")
            telling.tell(telling.waiting[0])
            telling.tell(telling.waiting[0])  # only the first answer counts
            assert (await peer.answer()).body == b"GET 127.0.0.1 later "
            assert (await peer.answer()).body == b"POST 127.0.0.1  second"
            assert (await peer.answer()).json == {"status": "ok"}
            await peer.send(request("GET", "/direct"))
            assert (await peer.answer()).headers["x-direct"] == "1"

    run(main())


def test_a_client_that_goes_away(run: Run) -> None:
    """When a client leaves before its late answer, the handler is told once, and an answer after that is dropped."""
    telling = Telling()

    async def main() -> None:
        async with partyline_server(extras=[telling]) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("GET", _LATER))
                await eventually(lambda: telling.waiting, "it waits")
                assert telling.gone == 0
            await eventually(lambda: telling.gone == 1, "it is told")
            telling.tell(telling.waiting[0])
            await nothing_is_held(partyline)
            assert telling.gone == 1

    run(main())


def test_refusals_and_failures(run: Run) -> None:
    """Errors have the usual form, a failure of ours is a 500 without details, and the connection goes on."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()]) as (partyline, url), connected(url) as peer:
            for query, status, code in (("refuse", 409, "conflict"), ("fail", 500, "internal")):
                await peer.send(request("GET", f"/direct?{query}"))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (status, code)
                assert "as asked" not in answer.body.decode()
            await peer.send(request("GET", "/direct", host="evil.example"))
            assert (await peer.answer()).status == 421
        assert (partyline.counters.errors, partyline.counters.refused) == (1, 2)

    run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(run: Run, chunked: bool) -> None:
    """A body that is too large is refused from its length, or once it is too long, and the connection ends."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()]) as (partyline, url):
            async with connected(url) as peer:
                if chunked:
                    head = request("POST", "/direct", None, "Transfer-Encoding: chunked")
                    await peer.send(head + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
                else:
                    await peer.send(request("POST", "/direct", None, "Content-Length: 1001"))
                answer = await peer.answer()
                assert (answer.status, answer.code) == (413, "payload_too_large")
                assert await peer.ends_in_order()
            await nothing_is_held(partyline)
            assert partyline.counters.limits["max_message"] == 1

    run(main())


def test_expected_body(run: Run) -> None:
    """A client that waits for 100 Continue gets it if its body is welcome, and otherwise a refusal."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()]) as (_, url), connected(url) as peer:
            whole = request("POST", "/direct", b"hello", "Expect: 100-continue")
            await peer.send(whole[:-5])
            assert (await peer.answer()).status == 100
            await peer.send(whole[-5:])
            assert (await peer.answer()).body == b"POST 127.0.0.1  hello"
            await peer.send(request("POST", "/direct", None, "Expect: 100-continue", "Content-Length: 1001"))
            assert (await peer.answer()).status == 413

    run(main())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cors_origins": ("https://app.example",)}, {"allow-origin": "https://app.example"}),
        (
            {"cors_origins": ("https://app.example",), "cors_credentials": True},
            {"allow-origin": "https://app.example", "allow-credentials": "true"},
        ),
        ({"cors_origins": ("*",), "api_keys": (ApiKey(key_hash("k")),)}, {"allow-origin": "*"}),
    ],
)
def test_pages_of_other_origins(settings: dict[str, Any], expected: dict[str, str]) -> None:
    """Pages of other origins get the headers that the ASGI application would add, on a known head and on refusals, too;
    pages that may not ask are refused. Programs get none of them but Vary."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()], **settings) as (_, url), connected(url) as peer:
            for path in ("/direct?", "/direct?", "/direct?refuse", "/health"):
                await peer.send(
                    request("POST" if "?" in path else "GET", path, b"hello", "Origin: https://app.example")
                )
                answer = await peer.answer()
                assert answer.status == (409 if "refuse" in path else 200)
                assert answer.headers.get("x-direct") == ("1" if path == "/direct?" else None)
                start = "access-control-"
                found = {name.removeprefix(start): v for name, v in answer.headers.items() if name.startswith(start)}
                assert found == expected
                assert answer.headers["vary"] == "Origin"
                await peer.send(request("POST" if "?" in path else "GET", path, b"hello"))
                answer = await peer.answer()
                assert not any(name.startswith(start) for name in answer.headers)
                assert answer.headers["vary"] == "Origin", "a cache must not give this answer to a page"
            if "*" not in settings["cors_origins"]:
                await peer.send(request("POST", "/direct?", b"hello", "Origin: https://evil.example"))
                assert (await peer.answer()).code == "foreign_origin"

    asyncio.run(main())


def test_limits_hold_where_the_head_is_known(run: Run) -> None:
    """A longer body and a longer query meet the same limits after requests with the same head."""

    async def main() -> None:
        async with partyline_server(extras=[Telling()], max_head_bytes=1_024) as (partyline, url):
            for query, body, status in (("", b"x" * 1_001, 413), ("x" * 1_000, b"hello", 431)):
                async with connected(url) as peer:
                    for _ in range(2):
                        await peer.send(request("POST", "/direct?", b"hello"))
                        assert (await peer.answer()).headers["x-direct"] == "1"
                    await peer.send(request("POST", f"/direct?{query}", body))
                    assert (await peer.answer()).status == status
                    assert await peer.ends_in_order()
            await nothing_is_held(partyline)

    run(main())


def test_deadlines(run: Run) -> None:
    """A body that does not arrive gets a 408; a connection that is idle after an answer ends."""

    async def main() -> None:
        settings = {"body_timeout": 0.2, "keep_alive_timeout": 0.2}
        async with partyline_server(extras=[Telling()], **settings) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("POST", "/direct", None, "Content-Length: 5") + b"he")
                assert (await peer.answer()).status == 408
            async with connected(url) as peer:
                await peer.send(request("GET", "/direct"))
                await peer.answer()
                assert await peer.ends_in_order()
            await nothing_is_held(partyline)

    run(main())


class Ordering:
    """Answers below a path with a parameter, and late."""

    max_body = 1_000
    body_setting = "max_body"

    def __init__(self, counters: Counters) -> None:
        self._asgi = OverAsgi(self, counters)
        self.later: list[Exchange] = []
        self.bodies = 0

    def attach(self, site: Site) -> None:
        site.direct.add("/orders/{id}/lines", self, "POST", "HEAD")

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/orders/{id}/lines", self._asgi), Route("/asgi/{id}", self._asgi)]

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        return None

    def begin(self, exchange: Exchange) -> None:
        if exchange.header(b"x-stranger") is not None:
            raise Forbidden("no strangers")

    def respond(self, exchange: Exchange) -> None:
        self.bodies += 1
        if exchange.query:
            exchange.gone = lambda: None
            self.later.append(exchange)
        else:
            exchange.json(b'"%b"' % exchange.parameter.encode(), 201)


def failing(exchange: Exchange) -> None:
    try:
        raise RuntimeError("as asked")
    except RuntimeError:
        exchange.fail()


@pytest.mark.parametrize("path", ["/orders/%s/lines", "/asgi/%s"])
def test_a_direct_answers_alike_natively_and_by_asgi(path: str) -> None:
    """A route with a parameter gets it, refuses before the body is sent, and answers, refuses and fails later."""
    counters = Counters()
    ordering = Ordering(counters)

    async def main() -> None:
        async with partyline_server(extras=[ordering]) as (partyline, url), connected(url) as peer:
            await peer.send(request("POST", path % "caf%C3%A9", b"x"))
            answer = await peer.answer()
            assert (answer.status, answer.json) == (201, "caf\u00e9")
            assert answer.headers["content-type"] == "application/json"
            ways: list[tuple[Callable[[Exchange], object], int, str]] = [
                (lambda exchange: exchange.json(b"1"), 200, ""),
                (lambda exchange: exchange.refuse(Conflict("not twice")), 409, "conflict"),
                (failing, 500, "internal"),
            ]
            for way, status, code in ways:
                await peer.send(request("POST", path % "1" + "?later", b"x"))
                await eventually(lambda: ordering.later, "it waits")
                way(ordering.later.pop())
                answer = await peer.answer()
                assert answer.status == status
                assert not code or answer.code == code
            bodies = ordering.bodies
            await peer.send(request("POST", path % "1", None, "X-Stranger: 1", "Content-Length: 5"))
            assert (await peer.answer()).code == "forbidden"
            assert ordering.bodies == bodies
            refused, errors = partyline.counters.refused + counters.refused, partyline.counters.errors + counters.errors
            assert (refused, errors) == (2, 1)
        async with partyline_server(extras=[ordering]) as (_, url):
            async with connected(url) as peer:
                await peer.send(request("POST", path % "1" + "?later", b"x"))
                await eventually(lambda: ordering.later, "it waits")
            await eventually(lambda: ordering.later[0].disconnected, "it is told")

    asyncio.run(main())


@given(st.binary(max_size=40))
def test_paths(raw: bytes) -> None:
    """A parameter is one segment, decoded; methods that are not registered, and two segments, go to the router."""
    paths, direct = Paths(), Ordering(Counters())
    paths.add("/a/{x}/z", direct, "GET")
    paths.add("/a/b", direct)
    assert paths.find(b"PUT", b"/a/b") == (direct, "")
    try:
        found = paths.find(b"GET", b"/a/" + raw + b"/z")
    except MalformedRequest:
        assert b"\xef\xbf\xbd" in unquote_to_bytes(raw).decode("utf-8", "replace").encode()
        return
    text = unquote_to_bytes(raw).decode()
    assert found == (None if not text or "/" in text else (direct, text))
    assert paths.find(b"POST", b"/a/" + raw + b"/z") is None
