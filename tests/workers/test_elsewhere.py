"""Whose a request is, and what happens to requests of workers that are gone."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import pytest

from partyline.metrics import Counters
from partyline.server.exchange import Paths
from partyline.trust.perimeter import Peer
from partyline.workers.elsewhere import Elsewhere


def elsewhere(number: int = 0, count: int = 2, folder: str = "/nowhere", max_body: int = 100) -> Elsewhere:
    return Elsewhere(number, count, folder, Counters(), Paths(), max_body)


@pytest.mark.parametrize(
    ("path", "query", "owner"),
    [
        (b"/ws/abc.1", b"", 1),
        (b"/ws/abc.0", b"", None),
        (b"/ws/abc.3", b"", 1),  # there were more workers once
        (b"/ws/abc", b"", None),
        (b"/ws/abc.x", b"", None),
        (b"/ws/abc.99999", b"", None),
        (b"/register/abc.1", b"", 1),
        (b"/publish", b"", None),
        (b"/v1/topics/a.1", b"", None),
        (b"/socket.io/", b"EIO=4&sid=abc.1", 1),
        (b"/socket.io/", b"sid=abc.1&EIO=4", 1),
        (b"/socket.io/", b"EIO=4&sid=abc.0", None),
        (b"/socket.io/", b"EIO=4", None),
        (b"/socket.io/", b"EIO=4&xsid=abc.1", None),
    ],
)
def test_owners(path: bytes, query: bytes, owner: int | None) -> None:
    """An id says which worker it is from; without one any worker will do."""
    assert elsewhere().owner(path, query) == owner


def scope(path: str, query: bytes = b"") -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(b"host", b"here")],
        "partyline.peer": Peer("192.0.2.1", "https", "here"),
    }


async def asked(one: Elsewhere, where: dict[str, Any], body: bytes = b"") -> tuple[list[dict[str, Any]], list[bytes]]:
    """What is answered to a request, and what bodies `one` was asked to answer itself."""
    here: list[bytes] = []
    sent: list[dict[str, Any]] = []
    told = False
    never = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        here.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    async def receive() -> dict[str, Any]:
        nonlocal told
        if told:
            await never.wait()
        told = True
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await one.wrap(app)(where, receive, send)
    return sent, here


def test_an_owner_that_is_gone_has_no_sessions() -> None:
    """A request for a worker that is not there is answered here, at once, with its whole body."""
    sent, here = asyncio.run(asked(elsewhere(), scope("/socket.io/", b"sid=abc.1"), b"hello"))
    assert sent[0]["status"] == 200
    assert here == [b"hello"]


@pytest.mark.parametrize("body", [b'{"client_id": "abc.1"}', b"{", b'{"client_id": 1}', b'{"client_id": "abc"}'])
def test_a_body_may_say_whose_it_is(body: bytes) -> None:
    """Changes of topics are looked into; what cannot be read is for whoever says what is wrong with it."""
    _, here = asyncio.run(asked(elsewhere(), scope("/add_topic"), body))
    assert here == [body]


def test_a_long_body_is_refused() -> None:
    """A body that is longer than max_body is not handed over."""
    sent, here = asyncio.run(asked(elsewhere(), scope("/socket.io/", b"sid=abc.1"), b"x" * 101))
    assert sent[0]["status"] == 413
    assert not here


def test_the_owner_answers() -> None:
    """The owner gets the request as it was, with the client that asks, and its answer is sent on as it is."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            first, second = elsewhere(0, folder=folder), elsewhere(1, folder=folder)
            seen: list[Any] = []

            async def app(scope: Any, receive: Any, send: Any) -> None:
                seen.append((scope, await receive()))
                await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"1")]})
                await send({"type": "http.response.body", "body": b"there", "more_body": True})
                await send({"type": "http.response.body", "body": b"!"})

            second.wrap(app)
            for one in (first, second):
                await one.start(asyncio.Protocol)
            sent, here = await asked(first, scope("/socket.io/", b"sid=abc.1"), b"hello")
            assert not here
            assert (sent[0]["status"], sent[0]["headers"]) == (201, [(b"x-a", b"1")])
            assert sent[1]["body"] == b"there!"
            ((found, message),) = seen
            wanted = scope("/socket.io/", b"sid=abc.1")
            assert {name: found[name] for name in wanted} == wanted
            assert message["body"] == b"hello"
            second.close()
            first.close()

    asyncio.run(main())
