"""Requests that are answered without ASGI, handed from one worker to another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from partyline.errors import MalformedRequest, PartylineError, Unauthenticated
from partyline.metrics import Counters
from partyline.server.exchange import Exchange, Paths
from partyline.trust.perimeter import Peer
from partyline.wire.http.head import Headers
from partyline.workers.elsewhere import Elsewhere

PATH = b"/socket.io/"
QUERY = b"EIO=4&sid=abc.1"


class Echo:
    """A `Direct` that keeps its exchanges, and answers those with a body."""

    max_body = 10
    body_setting = "max_message"

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.exchanges: list[Exchange] = []
        self.left = asyncio.Event()
        self.came = asyncio.Event()

    def begin(self, exchange: Exchange) -> None:
        if (b"x-key", b"wrong") in exchange.headers:
            raise Unauthenticated("who is this?")
        exchange.context = self.name

    def respond(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.came.set()
        assert exchange.context == self.name
        if exchange.body == b"wrong":
            raise MalformedRequest("this is wrong")
        if exchange.body == b"broken":
            raise ZeroDivisionError
        if exchange.body:
            exchange.answer([(b"x-by", self.name)], b"got " + exchange.body, 201)
        else:
            exchange.gone = self.left.set


class Client:
    """The connection of an exchange (`server.exchange.Answering`)."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, Headers, bytes]] = asyncio.get_running_loop().create_future()
        self.refused: list[PartylineError] = []

    def send_answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        self.answer.set_result((status, headers, body))

    def count_refusal(self, error: PartylineError) -> None:
        self.refused.append(error)

    def count_failure(self) -> None:
        raise AssertionError("not here")


class Two:
    """Two workers; the exchanges of `ask` come to the first one."""

    def __init__(self, folder: str) -> None:
        self.echoes = [Echo("first"), Echo("second")]
        self.counters = [Counters(), Counters()]
        self.workers: list[Elsewhere] = []
        for number, echo in enumerate(self.echoes):
            paths = Paths()
            paths.add(PATH.decode(), echo)
            self.workers.append(Elsewhere(number, 2, folder, self.counters[number], paths, 100))

    def ask(self, body: bytes = b"", query: bytes = QUERY) -> tuple[Client, Exchange]:
        client = Client()
        direct = self.workers[0].instead(PATH, query, self.echoes[0])
        method = "POST" if body else "GET"
        peer = Peer("192.0.2.1", "https", "here")
        exchange = Exchange(client, direct, method, "", query, [(b"x-a", b"1")], peer)
        direct.begin(exchange)
        if body:
            exchange.take(body)
        exchange.respond()
        return client, exchange


@asynccontextmanager
async def two(second: bool = True) -> AsyncIterator[Two]:
    with tempfile.TemporaryDirectory() as folder:
        both = Two(folder)
        for worker in both.workers if second else both.workers[:1]:
            await worker.start(asyncio.Protocol)
        yield both
        for worker in both.workers:
            worker.close()


def test_the_owner_answers() -> None:
    """The owner gets the request as it came, with who asks, and its answer is the client's; the first and the next."""

    async def main() -> None:
        async with two() as both:
            for body in (b"one", b"two"):
                client, _ = both.ask(body)
                assert await client.answer == (201, [(b"x-by", b"second")], b"got " + body)
            there = both.echoes[1].exchanges[0]
            assert (there.method, there.query, there.headers) == ("POST", QUERY, [(b"x-a", b"1")])
            assert there.peer == Peer("192.0.2.1", "https", "here")
            assert not both.echoes[0].exchanges

    asyncio.run(main())


def test_what_is_ours_stays_here() -> None:
    """A request for a session of this worker, or for none, is answered by the same `Direct` as without workers."""

    async def main() -> None:
        async with two() as both:
            for query in (b"EIO=4", b"EIO=4&sid=abc.0"):
                client, _ = both.ask(b"one", query)
                assert (await client.answer)[1] == [(b"x-by", b"first")]

    asyncio.run(main())


def test_a_head_that_was_handed_over_is_not_remembered_as_that() -> None:
    """A connection remembers what answers a head, and another session's request may follow on it: the `Direct` of the
    exchange is the worker's own again."""

    async def main() -> None:
        async with two() as both:
            client, exchange = both.ask(b"one")
            await client.answer
            assert exchange.direct is both.echoes[0]

    asyncio.run(main())


def test_an_owner_that_is_not_there() -> None:
    """If the owner cannot be reached, the request is answered here, where nobody knows its session either."""

    async def main() -> None:
        async with two(second=False) as both:
            client, _ = both.ask(b"one")
            assert (await client.answer)[1] == [(b"x-by", b"first")]

    asyncio.run(main())


def test_an_owner_that_dies() -> None:
    """A request that waits for an owner that dies is answered here."""

    async def main() -> None:
        async with two() as both:
            client, _ = both.ask()
            await both.echoes[1].came.wait()
            line = both.workers[0].line_now(1)
            assert line is not None
            line.line.abort()
            await both.echoes[0].came.wait()
            both.echoes[0].exchanges[0].answer([], b"unknown", 400)
            assert (await client.answer)[0] == 400
            await both.echoes[1].left.wait()

    asyncio.run(main())


def test_a_client_that_leaves() -> None:
    """The owner hears that the client of a waiting request has gone, and an answer after that is nobody's."""

    async def main() -> None:
        async with two() as both:
            client, exchange = both.ask()
            await both.echoes[1].came.wait()
            exchange.lost()
            await both.echoes[1].left.wait()
            both.echoes[1].exchanges[0].answer([], b"late")
            another, _ = both.ask(b"one")
            await another.answer
            assert not client.answer.done()

    asyncio.run(main())


def test_who_may_not_ask_is_refused_before_the_body() -> None:
    """What `begin` refuses is refused by the worker that the request came to, before its body is read."""

    async def main() -> None:
        async with two() as both:
            direct = both.workers[0].instead(PATH, QUERY, both.echoes[0])
            peer = Peer("192.0.2.1", "https", "here")
            exchange = Exchange(Client(), direct, "POST", "", QUERY, [(b"x-key", b"wrong")], peer)
            with pytest.raises(Unauthenticated):
                direct.begin(exchange)

    asyncio.run(main())


def test_refusals_and_failures() -> None:
    """What the owner refuses, or fails at, is counted there and comes as its answer; nothing waits for ever."""

    async def main() -> None:
        async with two() as both:
            client, _ = both.ask(b"wrong")
            status, _, body = await client.answer
            assert status == 400
            assert b"this is wrong" in body
            client, _ = both.ask(b"broken")
            assert (await client.answer)[0] == 500
            assert (both.counters[1].errors, both.counters[0].errors) == (1, 0)
            assert not client.refused

    asyncio.run(main())
