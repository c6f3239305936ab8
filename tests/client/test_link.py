"""When a line comes back, how soon, and with which token; what ends it, and what fails only one command."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest

from partyline import Partyline
from partyline.client import State, connect
from partyline.client.feed import Feed
from partyline.client.frames import error_of
from partyline.client.link import Link, Options
from partyline.client.socket import Address
from partyline.errors import (
    Disconnected,
    InvalidValue,
    Overloaded,
    PartylineError,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
)
from partyline.server.websocket import WebSocket
from partyline.wire.websocket.codec import Close
from partyline.wire.websocket.frames import frame
from tests.client.test_garbage import WELCOME, fake, text_frame, upgraded
from tests.client.test_line import WITHIN, quick, take
from tests.server.servers import eventually, partyline_server

LIMITS = Path(__file__).parent.parent.parent / "docs/reference/limits.md"


def cut(partyline: Partyline, code: int, reason: str = "") -> None:
    """Close every WebSocket there is."""
    for live in tuple(partyline.site.live):
        assert isinstance(live, WebSocket)
        live.close(code, reason)


async def back(partyline: Partyline, line: Any, before: int) -> None:
    """Wait for a connection after the first `before`."""
    await eventually(lambda: partyline.counters.upgrades > before and line.state is State.OPEN, "it comes back")


def test_a_new_token_each_time_one_ends() -> None:
    """A line closed with 4401 comes back as long as its function returns another token, and ends when it has none."""

    async def main() -> None:
        tokens = iter(["a", "b", "c", "d", "d"])
        async with partyline_server() as (partyline, url), quick(url, token=lambda: next(tokens)) as line:
            cats = await line.subscribe("cats").ready()
            for number in range(3):
                before = partyline.counters.upgrades
                cut(partyline, 4401, "token expired")
                await back(partyline, line, before)
                await line.publish("cats", number)
            assert await take(cats, 3) == [0, 1, 2]
            cut(partyline, 4401, "token expired")
            with pytest.raises(Unauthenticated, match="there is no other"):
                await asyncio.wait_for(anext(cats), WITHIN)
            assert line.closed

    asyncio.run(main())


def test_a_token_that_cannot_be_had() -> None:
    """An exception of the token function is raised at opening and retried later; a refusal that it raises ends the
    line."""

    async def main() -> None:
        trouble: list[Exception] = [OSError("the network is down")]

        async def token() -> str:
            if trouble:
                raise trouble.pop()
            return "key"

        async with partyline_server() as (partyline, url):
            with pytest.raises(Disconnected, match="OSError: the network is down"):
                await quick(url, token=token, open_timeout=0)
            async with quick(url, token=token) as line:
                trouble += [ValueError("odd"), OSError("still down")]
                before = partyline.counters.upgrades
                cut(partyline, 1012)
                await back(partyline, line, before)
                assert trouble == []
                trouble.append(InvalidValue("no account"))
                cut(partyline, 1012)
                with pytest.raises(InvalidValue, match="no account"):
                    await asyncio.wait_for(line.publish("cats", 1), WITHIN)

    asyncio.run(main())


def test_a_token_function_that_hangs() -> None:
    """Asking for a token counts towards the time for opening."""

    async def token() -> str:
        await asyncio.Event().wait()
        return ""

    async def main() -> None:
        with pytest.raises(Disconnected, match="could not get a token within"):
            await asyncio.wait_for(connect("http://127.0.0.1:9", token=token, open_timeout=0.1)._open(), WITHIN)

    asyncio.run(main())


@pytest.mark.parametrize("token", ["", "two words", "line\n", "key\r\nX-Header: 1", "ключ", None], ids=ascii)
def test_tokens_that_are_none(token: Any) -> None:
    """A token that cannot be a header value is refused before anything is sent, and the message does not repeat it."""

    async def main() -> None:
        for given in (token, lambda: token) if token is not None else (lambda: asyncio.sleep(0),):
            with pytest.raises(InvalidValue) as caught:
                await asyncio.wait_for(connect("http://127.0.0.1:9", token=given, open_timeout=0)._open(), WITHIN)
            assert caught.value.field == "token"
            assert not token or token not in caught.value.message

    asyncio.run(main())


def test_a_message_that_is_too_large() -> None:
    """A publish larger than the server takes is the only one that fails: the line comes back, and the others are stored
    once."""

    async def main() -> None:
        async with partyline_server(max_message=10_000) as (_, url), quick(url) as line:
            cats = await line.subscribe("cats").ready()
            large = [line.publish("cats", "x" * size) for size in (20_000, 30_000)]
            small = [line.publish("cats", number) for number in range(5)]
            outcomes = await asyncio.wait_for(asyncio.gather(*large, *small, return_exceptions=True), WITHIN)
            assert [isinstance(one, PayloadTooLarge) for one in outcomes] == [True] * 2 + [False] * 5
            await line.publish("cats", "after")
            assert await take(cats, 6) == [0, 1, 2, 3, 4, "after"]
            page = await line.history("cats")
            assert [message.data for message in page.messages] == [0, 1, 2, 3, 4, "after"]

    asyncio.run(main())


def test_a_message_that_is_too_large_for_us() -> None:
    """A message larger than the client takes ends its line, and no publish is blamed for it."""

    async def main() -> None:
        async with partyline_server() as (partyline, url), quick(url) as line, quick(url, max_message=2_000) as narrow:
            cats = await narrow.subscribe("cats").ready()
            partyline.store.append = lambda *_: None  # type: ignore[method-assign]  # nothing is answered from now on
            waiting = asyncio.create_task(narrow.publish("dogs", 1))
            await eventually(lambda: partyline.counters.published == 1, "it is on its way")
            await line.publish("cats", "x" * 5_000, durable=False)
            for ended in (anext(cats), waiting):
                with pytest.raises(Disconnected, match="max_message of this line"):
                    await asyncio.wait_for(ended, WITHIN)

    asyncio.run(main())


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when(status: int) -> None:
    """The client waits for Retry-After of a refused handshake; if the time for opening ends earlier, it says so at
    once."""

    async def main() -> None:
        body = b'{"error":{"code":"overloaded","message":"full"}}'
        refusal = b"HTTP/1.1 %d x\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        asked: list[float] = []

        def answer(request: bytes) -> bytes:
            asked.append(time.monotonic())
            return refusal if len(asked) == 1 else upgraded(request, text_frame(WELCOME))

        async with fake(answer) as url:
            line = await quick(url, open_timeout=5)
            await line.aclose()
        assert asked[1] - asked[0] >= 1
        asked.clear()
        async with fake(answer) as url:
            with pytest.raises((Overloaded, RateLimited)) as caught:
                await quick(url, open_timeout=0.5)
            assert caught.value.retry_after == 1
        assert len(asked) == 1

    asyncio.run(main())


def test_a_full_server() -> None:
    """The client waits while a full server answers 503, and the line opens when there is room."""

    async def main() -> None:
        async with partyline_server(max_connections=1) as (partyline, url):
            first = await quick(url)
            with pytest.raises(Overloaded):
                await quick(url, open_timeout=0)
            second = asyncio.create_task(quick(url, open_timeout=WITHIN)._open())
            await eventually(lambda: partyline.counters.limits["max_connections"] >= 2, "the second is refused")
            await first.aclose()
            line = await asyncio.wait_for(second, WITHIN)
            await line.publish("cats", 1)
            await line.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("999999999999", 3600.0), ("9" * 400, 3600.0), ("²", 1.0), ("-1", 1.0), ("Fri, 1", 1.0)],
    ids=ascii,
)
def test_retry_after_of_every_shape(header: str, seconds: float) -> None:
    """Retry-After counts as a number of seconds, an hour at most; anything else is ignored (RFC 9110 10.2.3)."""
    assert error_of("rate_limited", "", status=429, retry_after=header).retry_after == seconds


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 ²²² x", "HTTP/1.1 5031 x", "HTTP/1.1 503 x\r\nContent-Length: ²"], ids=ascii
)
def test_numbers_that_are_none(head: str) -> None:
    """A head with something else in place of a number is a broken answer, and not an exception in a callback."""

    async def main() -> None:
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        async with fake(lambda _: head.encode("latin-1") + b"\r\n\r\n") as url:
            with pytest.raises(PartylineError) as caught:
                await quick(url, open_timeout=0)
        assert caught.value.temporary
        assert unheard == []

    asyncio.run(main())


def test_delays_grow_until_a_connection_lasts() -> None:
    """Each pause is drawn from a range that doubles up to the bound, also if connections are accepted and then cut
    off."""

    async def main() -> None:
        number = itertools.count()
        pauses: list[float] = []

        def answer(request: bytes) -> bytes:
            return b"" if next(number) % 2 else upgraded(request, frame(0x8, (1013).to_bytes(2, "big")))

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0)

        async with fake(answer) as url:
            address = Address.parse(url, "/v1/ws")
            link = Link(Options(address, least_delay=1.0, most_delay=8.0, random=lambda: 0.5, sleep=sleep))
            await link.open(0)
            await eventually(lambda: len(pauses) > 5, "it tries again and again")
            await link.close()
        assert pauses[:6] == [0.5, 1, 2, 4, 4, 4]

    asyncio.run(main())


@pytest.mark.alone
def test_the_time_for_opening() -> None:
    """A server that accepts the connection and says nothing is given up when the time for opening is over."""

    async def main() -> None:
        async with fake(lambda _: b"", end=False) as url:
            began = time.monotonic()
            with pytest.raises(Disconnected, match="did not answer"):
                await quick(url, open_timeout=0.3)
            assert 0.3 <= time.monotonic() - began < 5

    asyncio.run(main())


def test_cancelled_while_opening() -> None:
    """A cancelled `connect` leaves nothing open, and no exception that is never retrieved."""

    async def main() -> None:
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        async with fake(lambda _: b"", end=False) as url:
            opening = asyncio.create_task(quick(url)._open())
            await asyncio.sleep(0.05)
            opening.cancel()
            await asyncio.wait((opening,))
            assert opening.cancelled()
            del opening
            await eventually(lambda: len(asyncio.all_tasks()) <= 2, "its tasks end")
            gc.collect()
        assert unheard == []

    asyncio.run(main())


def test_a_refusal_that_comes_too_late() -> None:
    """Closing a subscription before the server refuses it does no harm, also to a new one of the same name."""

    async def main() -> None:
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        async with partyline_server() as (partyline, url), quick(url) as line:
            await line.subscribe("no spaces").aclose()
            successor = line.subscribe("no spaces")
            with pytest.raises(InvalidValue):
                await successor.ready()
            await line.publish("cats", 1)
            assert partyline.counters.upgrades == 1
        assert unheard == []

    asyncio.run(main())


def test_a_subscription_that_is_tried_again_after_a_reconnect() -> None:
    """A subscription refused for now is made once, by the retry or by a reconnect, whichever comes first."""

    async def main() -> None:
        times = itertools.count()
        told: list[bytes] = []

        def answer(request: bytes) -> bytes:
            first = next(times) == 0
            reply = b'{"type":"error","id":1,"code":"store_unavailable","message":"later"}'
            again = b'{"type":"reply","id":2,"position":"0123456789abcdef-3"}'
            end = frame(0x8, (1012).to_bytes(2, "big"))
            told.append(request)
            return upgraded(request, text_frame(WELCOME), *([text_frame(reply), end] if first else [text_frame(again)]))

        async with fake(answer, end=False) as url:
            link = Link(Options(Address.parse(url, "/v1/ws"), least_delay=0.01, most_delay=0.01))
            feed = Feed("cats", "latest", 10)
            link.subscribe(feed)
            await link.open(0)
            await eventually(lambda: feed.ready, "the second connection subscribes to it")
            asked = link._number
            await asyncio.sleep(1.1)  # the pause before a refused subscription is tried again
            assert feed.ready
            assert link._number == asked
            await link.close()

    asyncio.run(main())


def test_codes_of_the_reference() -> None:
    """Every code that limits.md lists for frames becomes the class of its status, although no frame carries the
    status."""
    text = LIMITS.read_text("utf-8").partition("The codes, and the status")[2]
    rows = [line for line in text.splitlines() if re.match(r"\| [45][0-9]{2} \|", line)]
    assert len(rows) > 12
    for row in rows:
        status, codes = int(row.split("|")[1]), row.split("|")[2]
        for code in codes.replace("`", "").replace(" ", "").split(","):
            error = error_of(code, "why")
            assert (error.code, error.message) == (code, "why")
            if code not in ("internal", "method_not_allowed"):  # the first has no class, the second is never in a frame
                assert error.http_status == status, code


def test_good_bye_is_said() -> None:
    """`aclose` closes with 1000 and returns when the server has ended the connection, after two seconds at the
    latest."""

    async def main() -> None:
        heard: list[Any] = []
        async with fake(lambda request: upgraded(request, text_frame(WELCOME)), end=False, heard=heard) as url:
            line = await quick(url)
            await line.aclose()
            assert heard == [Close(1000, "")]
        stalled = asyncio.Event()

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(upgraded(await reader.readuntil(b"\r\n\r\n"), text_frame(WELCOME)))
            await stalled.wait()
            writer.close()

        server = await asyncio.start_server(deaf, "127.0.0.1", 0)
        line = await quick(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        socket = line._links[0]._socket
        assert socket is not None
        await asyncio.wait_for(line.aclose(), WITHIN)
        assert line.closed
        assert socket._end.is_set()
        stalled.set()
        server.close()

    asyncio.run(main())
