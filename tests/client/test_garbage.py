"""A peer that is not a server, or says what no server of ours says, causes documented errors and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partyline.client import Line, State, connect
from partyline.client.link import Link, Options
from partyline.client.socket import Address
from partyline.errors import Disconnected, PartylineError, RateLimited, Unauthenticated
from partyline.wire.websocket.codec import Close, Codec, Event, Limits
from partyline.wire.websocket.frames import TEXT, frame, text_frame
from partyline.wire.websocket.handshake import accept_value

WELCOME = b'{"type":"welcome","connection":"1","server":"fake","heartbeat":25.0}'


@contextlib.asynccontextmanager
async def fake(
    answer: Callable[[bytes], bytes], *, end: bool = True, heard: list[Event] | None = None
) -> AsyncIterator[str]:
    """A server that reads one request, writes what `answer` makes of it, and ends the connection at once, or when it
    receives a close frame or the end. What it receives is appended to `heard`."""

    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(request))
            await writer.drain()
            wire = Codec(Limits())
            while not end and (data := await reader.read(1 << 16)):
                events = wire.receive(data)
                if heard is not None:
                    heard.extend(events)
                if any(isinstance(event, Close) for event in events):
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if handlers:
            await asyncio.wait(handlers, timeout=10)


def upgraded(request: bytes, *frames: bytes, headers: str = "") -> bytes:
    """A correct 101, and what follows it."""
    key = next(line[18:].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_value(key).decode()}\r\n{headers}\r\n"
    )
    return head.encode() + b"".join(frames)


async def meet(answer: Callable[[bytes], bytes]) -> BaseException | None:
    """What connecting to such a server raises; None if it does not."""
    async with fake(answer) as url:
        try:
            line = await connect(url, open_timeout=0)
        except PartylineError as error:
            return error
        await line.aclose()
        return None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\n{}x",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>",
        b"x" * 40_000,
    ],
    ids=ascii,
)
def test_what_is_no_server(answer: bytes) -> None:
    """Anything but a correct 101 is a temporary error: a server may be about to start."""
    error = asyncio.run(meet(lambda _: answer))
    assert isinstance(error, PartylineError)
    assert error.temporary


@pytest.mark.parametrize(
    "headers",
    ["Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Extensions: x-made-up\r\n", "Sec-WebSocket-Extensions: ;\r\n"],
)
def test_an_upgrade_to_something_else(headers: str) -> None:
    """A subprotocol or an extension that nobody asked for is refused (RFC 6455 4.1)."""
    assert isinstance(asyncio.run(meet(lambda request: upgraded(request, headers=headers))), Disconnected)


def test_refusals_keep_their_words() -> None:
    """The server's error is raised with its class, code and message, and with Retry-After."""
    body = b'{"error":{"code":"unauthenticated","message":"no"}}'
    answer = b"HTTP/1.1 401 x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    error = asyncio.run(meet(lambda _: answer))
    assert isinstance(error, Unauthenticated)
    assert error.message == "no"
    body = b'{"error":{"code":"too_many_connections","message":"later"}}'
    answer = b"HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    error = asyncio.run(meet(lambda _: answer))
    assert isinstance(error, RateLimited)
    assert (error.code, error.retry_after) == ("too_many_connections", 7.0)


async def hear(*frames: bytes) -> Line:
    """A line to a server that says welcome and sends these frames once; it is closed afterwards."""
    async with fake(lambda request: upgraded(request, text_frame(WELCOME), *frames), end=False) as url:
        line = await connect(url, open_timeout=0)
        subscription = line.subscribe("cats", after="earliest")
        publishing = asyncio.create_task(line.publish("cats", 1))
        for _ in range(20):
            await asyncio.sleep(0)
        await line.aclose()
        await asyncio.gather(publishing, return_exceptions=True)
        async for message in subscription:
            assert message.topic == "cats"
        return line


@pytest.mark.check
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=40).map(lambda text: text_frame(text.encode())),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["message", "reply", "error", "position", "welcome", "join", 7]),
                "id": st.one_of(st.integers(-1, 4), st.text(max_size=3), st.none()),
                "topic": st.sampled_from(["cats", "dogs", "", None]),
                "position": st.sampled_from(["0123456789abcdef-3", "x", None, 3]),
                "oldest": st.sampled_from(["0123456789abcdef-1", "x", None]),
                "recovered": st.one_of(st.booleans(), st.none()),
                "data": st.recursive(
                    st.none() | st.integers(), lambda inner: st.lists(inner, max_size=2), max_leaves=3
                ),
                "time": st.sampled_from([1.0, "x"]),
                "code": st.sampled_from(["forbidden", "store_unavailable", "x", 3]),
                "message": st.text(max_size=5),
                "heartbeat": st.sampled_from([1.0, 25.0, "x"]),
            },
        ).map(lambda value: text_frame(msgspec.json.encode(value))),
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_frames_of_every_shape(garbage: bytes) -> None:
    """Whatever a server sends, a line ends or goes on, and raises nothing but its documented errors."""

    async def main() -> None:
        unheard: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        with contextlib.suppress(PartylineError):
            line = await hear(garbage, text_frame(b'{"type":"reply","id":1,"position":"0123456789abcdef-0"}'))
            assert line.state is State.CLOSED
        assert unheard == []

    asyncio.run(main())


def test_a_silent_server_is_left() -> None:
    """If nothing at all arrives for the server's heartbeat and our patience, the connection is given up."""
    welcome = WELCOME.replace(b"25.0", b"0.1")

    async def main() -> None:
        async with fake(lambda request: upgraded(request, text_frame(welcome)), end=False) as url:
            waited = asyncio.Event()
            reasons: list[str] = []

            def on_state(state: State, reason: str) -> None:
                if state is State.WAITING:
                    reasons.append(reason)
                    waited.set()

            link = Link(Options(Address.parse(url, "/v1/ws"), patience=0.1, on_state=on_state))
            await link.open(0)
            async with asyncio.timeout(10):
                await waited.wait()
            assert reasons == ["the server is silent"]
            await link.close()

    asyncio.run(main())


def test_a_masked_frame_is_a_violation() -> None:
    """A server that breaks the WebSocket protocol is told so and left."""

    async def main() -> None:
        masked = frame(TEXT, b"{}", key=b"\x01\x02\x03\x04")
        async with fake(lambda request: upgraded(request, masked), end=False) as url:
            line = await connect(url, open_timeout=0)
            with pytest.raises(Disconnected, match="broke the protocol"):
                await line.publish("cats", 1)
            assert line.state is State.CLOSED

    asyncio.run(main())
