"""An application's answers over HTTP and its WebSockets, on our own server (ASGI 3.0)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from partyline.entries import ApiKey
from partyline.trust.keys import key_hash
from partyline.wire.websocket.codec import Close
from tests.server.conftest import Run
from tests.server.peers import close_frame, connected, request, upgrade, websocket
from tests.server.servers import eventually, nothing_is_held, partyline_server, small_send_buffers

Start = dict[str, Any]


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Start:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Start:
    return {"type": "http.response.body", "body": data, "more_body": more}


class App:
    """Sends `messages` to every request, then raises `error` if there is one."""

    def __init__(self, *messages: Start, error: BaseException | None = None) -> None:
        self.messages = messages
        self.error = error
        self.failed: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            for message in self.messages:
                await send(message)
        except Exception as error:
            self.failed.append(f"{type(error).__name__}: {error}")
            raise
        if self.error is not None:
            raise self.error


CHUNKED: dict[str, str | None] = {"transfer-encoding": "chunked"}
OWN: dict[str, str | None] = {"cache-control": "max-age=1", "date": "now", "x-content-type-options": "nosniff"}
GOOD: dict[str, tuple[list[Start], bytes, dict[str, str | None]]] = {
    "a length": ([start(200, (b"Content-Length", b"2")), body(b"ok")], b"ok", {"transfer-encoding": None}),
    "a length in pieces": ([start(200, (b"content-length", b"2")), body(b"o", more=True), body(b"k")], b"ok", {}),
    "no length": ([start(), body(b"o", more=True), body(b"", more=True), body(b"k")], b"ok", CHUNKED),
    "nothing": ([start(), body()], b"", CHUNKED),
    "its own framing": ([start(200, (b"transfer-encoding", b"chunked")), body(b"ok")], b"ok", CHUNKED),
    "its own headers": ([start(200, (b"cache-control", b"max-age=1"), (b"date", b"now")), body(b"ok")], b"ok", OWN),
    "a status of its own": ([start(299), body(b"ok")], b"ok", {}),
}


@pytest.mark.parametrize("case", GOOD)
def test_answers(run: Run, case: str) -> None:
    """Bodies are framed by their length or in chunks; headers that the application sets itself are not repeated."""
    messages, content, headers = GOOD[case]

    async def main() -> None:
        async with partyline_server(fallback=App(*messages)) as (partyline, url), connected(url) as peer:
            for _ in range(2):
                await peer.send(request("GET", "/there"))
                answer = await peer.answer()
                assert (answer.status, answer.body) == (messages[0]["status"], content)
                for name, value in headers.items():
                    assert answer.headers.get(name) == value
            assert partyline.counters.errors == 0

    run(main())


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(run: Run, status: int) -> None:
    """204 and 304 have no body and no framing of one; the connection goes on (RFC 9110 6.4.1)."""

    async def main() -> None:
        async with partyline_server(fallback=App(start(status), body())) as (_, url), connected(url) as peer:
            for _ in range(2):
                await peer.send(request("GET", "/there"))
                head = await peer.head()
                assert head.startswith(f"HTTP/1.1 {status} ")
                assert "transfer-encoding" not in head

    run(main())


FAILING: dict[str, tuple[App, str]] = {
    "it raises": (App(error=ValueError("as asked")), ""),
    "it ends the process": (App(error=SystemExit(3)), ""),
    "it says nothing": (App(), ""),
    "a body first": (App(body(b"x")), "RuntimeError: http.response.start was expected, not http.response.body"),
    "two heads": (App(start(), start()), "RuntimeError: http.response.body was expected, not http.response.start"),
    "a line in a header": (
        App(start(200, (b"x", b"a\r\nset-cookie: b"))),
        "ValueError: b'x' cannot be sent as a header",
    ),
    "an invalid name": (App(start(200, (b"x y", b"a"))), "ValueError: b'x y' cannot be sent as a header"),
    "too long": (App(start(200, (b"content-length", b"1")), body(b"ab")), "RuntimeError: the answer's body is longer"),
    "too short": (App(start(200, (b"content-length", b"3")), body(b"ab")), "RuntimeError: the answer's body is 1 byte"),
    "it stops": (App(start(), body(b"x", more=True)), ""),
    "it raises late": (App(start(), body(b"x", more=True), error=ValueError("as asked")), ""),
    "after the end": (App(start(), body(b"x"), body(b"y")), "RuntimeError: http.response.body was sent after"),
}


@pytest.mark.parametrize("case", FAILING)
def test_applications_that_fail(run: Run, case: str) -> None:
    """An application that breaks its contract gets the error; only its own client is affected and gets a 500 or a
    broken end, without details of the error."""
    app, told = FAILING[case]
    app.failed.clear()

    async def main() -> None:
        async with partyline_server(fallback=app) as (partyline, url), connected(url) as peer:
            await peer.send(request("GET", "/there"))
            heard = await peer.some()
            if heard.startswith(b"HTTP/1.1 500"):
                assert json.loads(heard.partition(b"\r\n\r\n")[2])["error"]["code"] == "internal"
            elif case != "after the end":
                rest = await peer.rest()
                assert b"0\r\n\r\n" not in heard + rest
            assert b"as asked" not in heard
            assert not told or app.failed[0].startswith(told)
            await peer.close()
            async with connected(url) as other:
                await other.send(request("GET", "/health"))
                assert (await other.answer()).status == 200
            await nothing_is_held(partyline)

    run(main())


def test_a_stream_whose_client_goes(run: Run) -> None:
    """A stream learns that its client has gone, from receive and from the next piece that it sends."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x", more=True))
        assert (await receive())["type"] == "http.request"
        heard.append((await receive())["type"])
        await send(body(b"y", more=True))  # the first goes nowhere
        try:
            await send(body(b"y", more=True))
        except OSError as error:
            heard.append(type(error).__name__)
        await send(body(b"z"))  # the end is not sent, and is not an error

    async def main() -> None:
        async with partyline_server(fallback=app) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(request("GET", "/there"))
                assert " 200 " in await peer.head()
            await nothing_is_held(partyline)
            assert heard == ["http.disconnect", "ClientGone"]
            assert partyline.counters.errors == 0
            heard.clear()

    run(main())


def test_a_body_that_is_not_taken(run: Run) -> None:
    """While an application does not read the body, the client has to wait; once it reads, it gets all of it."""
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        await send(start())
        await send(body(str(size).encode()))

    async def main() -> None:
        size = 5_000_000
        async with partyline_server(fallback=app) as (partyline, url), connected(url) as peer:
            go_on.clear()
            sending = asyncio.create_task(peer.send(request("POST", "/there", bytes(size))))
            await eventually(lambda: partyline.shell.served.tasks, "it runs")
            await asyncio.sleep(0.1)
            (connection,) = (one for one in partyline.site.live if type(one).__name__ == "HttpConnection")
            held = connection._in_hand.backlog + len(connection._ahead)
            assert 0 < held < 1_000_000
            go_on.set()
            assert (await peer.answer()).body == str(size).encode()
            await sending

    run(main())


@pytest.mark.parametrize("path", ["/there", "/register"], ids=["an application", "a call of ours"])
@pytest.mark.parametrize("begun", [b"", b"{"], ids=["none of it", "a part"])
def test_an_answer_before_the_body_says_that_it_is_the_last(run: Run, path: str, begun: bytes) -> None:
    """An answer that leaves before the request's body has come says `connection: close`, since the rest is not read
    (RFC 9112 9.6), and the connection ends in order; with the whole body there the connection stays."""
    app = App(start(403, (b"content-length", b"2")), body(b"no"))

    async def main() -> None:
        keys = [ApiKey(key_hash("key"))]
        async with partyline_server(fallback=app, api_keys=keys) as (_, url), connected(url) as peer:
            for _ in range(2):
                await peer.send(request("POST", path, b"{}", "Content-Type: application/json"))
                answer = await peer.answer()
                assert answer.status in (401, 403)
                assert "connection" not in answer.headers
            late = request("POST", path, None, "Content-Type: application/json", "Content-Length: 500000")
            await peer.send(late + begun)
            answer = await peer.answer()
            assert answer.status in (401, 403)
            assert answer.headers["connection"] == "close"
            await peer.send(bytes(500_000 - len(begun)))
            assert await peer.rest() == b""

    run(main())


# WebSockets

Script = Callable[[Any, Any], Any]


def served(script: Script) -> Any:
    """An application whose WebSockets do what `script(receive, send)` does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert (await receive())["type"] == "websocket.connect"
        await script(receive, send)

    return app


def test_subprotocols_and_headers(run: Run) -> None:
    """The application chooses among the offered subprotocols, and adds headers to the 101."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], scope["query_string"], scope["subprotocols"], scope["scheme"]))
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "two", "headers": [(b"x-one", b"1")]})
        await receive()

    async def main() -> None:
        async with partyline_server(fallback=app) as (_, url), connected(url) as peer:
            socket = await websocket(peer, "/caf%C3%A9?a=b", "Sec-WebSocket-Protocol: one, two")
            assert socket.answer.headers["sec-websocket-protocol"] == "two"
            assert socket.answer.headers["x-one"] == "1"
            assert seen.pop() == ("/caf\u00e9", b"a=b", ["one", "two"], "ws")

    run(main())


def test_messages_and_ends(run: Run) -> None:
    """Text and bytes go both ways; each side hears the other's code; sending after the end is an OSError."""
    heard: list[Any] = []

    async def echo(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "end":
                await send({"type": "websocket.close", "code": 4321, "reason": "as asked"})
            else:
                await send({**message, "type": "websocket.send"})
        heard.append((message["code"], message["reason"]))
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "too late"})

    async def main() -> None:
        async with partyline_server(fallback=served(echo)) as (partyline, url):
            async with connected(url) as peer:
                socket = await websocket(peer, "/there")
                await socket.say("one", "")
                await peer.send(socket.wire.binary(b"\x00\xff"))
                assert [await socket.next() for _ in range(3)] == ["one", "", b"\x00\xff"]
                await peer.send(close_frame(4000))
                assert await socket.until_close() == ([], Close(4000, ""))
            await nothing_is_held(partyline)
            async with connected(url) as peer:
                socket = await websocket(peer, "/there")
                await socket.say("end")
                assert await socket.until_close() == ([], Close(4321, "as asked"))
                await peer.send(close_frame(4321))
            await nothing_is_held(partyline)
            async with connected(url) as peer:
                await websocket(peer, "/there")
            await nothing_is_held(partyline)
            assert [code for code, _ in heard] == [4000, 4321, 1006]
            assert partyline.counters.errors == 0
            heard.clear()

    run(main())


async def refuses(receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})


async def answers(receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"content-length", b"3")]})
    await send({"type": "websocket.http.response.body", "body": b"te", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"a"})


async def raises(receive: Any, send: Any) -> None:
    raise ValueError("as asked")


async def nothing(receive: Any, send: Any) -> None:
    pass


@pytest.mark.parametrize(("script", "status"), [(refuses, 403), (answers, 418), (raises, 500), (nothing, 500)])
def test_refusals(run: Run, script: Script, status: int) -> None:
    """An application that does not accept a WebSocket refuses it: by 403, by an answer of its own, or by failing."""

    async def main() -> None:
        async with partyline_server(fallback=served(script)) as (partyline, url):
            async with connected(url) as peer:
                await peer.send(upgrade("/there"))
                answer = await peer.answer()
                assert answer.status == status
                assert b"as asked" not in answer.body
                assert await peer.rest() == b""
            await nothing_is_held(partyline)

    run(main())


def test_a_refusal_waits_for_its_reader(run: Run) -> None:
    """An application that refuses a WebSocket with a long body waits while its client does not read, and learns when
    the client has gone."""

    async def main() -> None:
        sent, ended = 0, asyncio.Event()

        async def refuses_at_length(receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            try:
                while True:
                    await send({"type": "websocket.http.response.body", "body": bytes(65_536), "more_body": True})
                    sent += 1
            except OSError:
                ended.set()

        async with partyline_server(fallback=served(refuses_at_length), body_timeout=0.5) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url) as peer:
                await peer.send(upgrade("/there"))
                async with asyncio.timeout(20):
                    await ended.wait()
            assert sent < 200
            await nothing_is_held(partyline)

    run(main())


@pytest.mark.parametrize(("script", "code"), [(raises, 1011), (nothing, 1000)])
def test_an_application_that_ends(run: Run, script: Script, code: int) -> None:
    """An application's WebSocket ends with it, with 1011 if it failed."""

    async def accepts(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await script(receive, send)

    async def main() -> None:
        async with partyline_server(fallback=served(accepts)) as (partyline, url):
            async with connected(url) as peer:
                socket = await websocket(peer, "/there")
                _, close = await socket.until_close()
                assert close.code == code
                await peer.send(close_frame(code))
            await nothing_is_held(partyline)

    run(main())


def test_back_pressure(run: Run) -> None:
    """An application that does not receive is not sent more; one that sends to a client that does not read waits."""
    go_on, sent = asyncio.Event(), 0

    async def slow(receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "websocket.accept"})
        await go_on.wait()
        for _ in range(2_000):
            message = await receive()
            await send({"type": "websocket.send", "text": message["text"]})
            sent += 1

    async def main() -> None:
        nonlocal sent
        go_on.clear()
        sent, text = 0, "x" * 2_000
        async with partyline_server(fallback=served(slow), outbox_bytes=200_000) as (partyline, url):
            small_send_buffers(partyline)
            async with connected(url, buffer=4096) as peer:
                socket = await websocket(peer, "/there")
                peer.stop_reading()
                saying = asyncio.create_task(socket.say(*[text] * 2_000))
                await asyncio.sleep(0.1)
                assert partyline.counters.received < 1_000
                go_on.set()
                await asyncio.sleep(0.1)
                assert sent < 1_000
                peer.read_again()
                assert [await socket.text() for _ in range(2_000)] == [text] * 2_000
                await saying
                assert partyline.counters.limits == {}
            await nothing_is_held(partyline)

    run(main())
