"""Server-sent events over real sockets, as a browser's EventSource sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import quote, urlsplit

import pytest

from partyline import Partyline, running
from partyline.config import Settings
from partyline.errors import StoreUnavailable
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.models import Draft
from partyline.relay.services import Services
from partyline.relay.v1 import events
from partyline.relay.v1.events import EventStream
from partyline.server.site import ConnectionLimits, Site
from partyline.stores.memory import MemoryStore
from partyline.trust.keys import EVERYBODY, Principal
from tests.calls import call
from tests.relay.v1.test_websocket import (
    UNKNOWN,
    WITHIN,
    api_key,
    behind,
    let_in,
    line,
    nothing,
    offset,
    person,
    reads,
    run,
    settings,
    slow_reads,
)
from tests.wire.test_sse import Browser, Event


class Stream:
    """One answer with events. `status` and `headers` are there at once; `browser` keeps what it has read so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self.browser = Browser()
        self.status = 0
        self.headers: dict[str, str] = {}
        self._events: deque[Event] = deque()

    async def head(self) -> None:
        async with asyncio.timeout(WITHIN):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = text.strip().split("\r\n")
        self.status = int(line.split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}

    async def chunk(self) -> bytes:
        """The next piece of the body; empty at its end."""
        async with asyncio.timeout(WITHIN):
            size = int(await self._reader.readline(), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def body(self) -> Any:
        """The body of an answer that is not a stream, as JSON."""
        async with asyncio.timeout(WITHIN):
            return json.loads(await self._reader.readexactly(int(self.headers["content-length"])))

    async def next(self) -> Event:
        """The next event that a page would see."""
        while not self._events:
            data = await self.chunk()
            assert data, "the stream has ended"
            self._events += self.browser.feed(data)
        return self._events.popleft()

    async def data(self, count: int) -> list[Any]:
        """The `data` of the next messages."""
        found = [await self.next() for _ in range(count)]
        assert {event.type for event in found} <= {"message"}, found
        return [json.loads(event.data)["data"] for event in found]

    async def until(self, *, last_id: str) -> None:
        """Read until the browser would resume from here."""
        async with asyncio.timeout(WITHIN):
            while self.browser.last_id != last_id:
                data = await self.chunk()
                assert data, "the stream has ended"
                self._events += self.browser.feed(data)

    async def rest(self) -> list[Event]:
        """What arrives until the stream ends."""
        while data := await self.chunk():
            self._events += self.browser.feed(data)
        found = list(self._events)
        self._events.clear()
        return found


@contextlib.asynccontextmanager
async def stream(
    url: str, topic: str, query: str = "", *, last_id: str | None = None, token: str | None = None, buffer: int = 0
) -> AsyncIterator[Stream]:
    """Open a stream. `last_id` is what a browser that comes back sends; `buffer` a small receive buffer in bytes."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 20)
    lines = [f"GET /v1/topics/{quote(topic, safe='')}/events{query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [] if last_id is None else [f"Last-Event-ID: {last_id}"]
    lines += [] if token is None else [f"Authorization: Bearer {token}"]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    opened = Stream(reader, writer)
    try:
        await opened.head()
        yield opened
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def say(partyline: Partyline, topic: str, *data: Any, **fields: Any) -> list[str]:
    """Publish; the positions."""
    positions: list[str] = []

    def done(outcome: Any) -> None:
        positions.append(str(outcome.position))

    for value in data:
        text = json.dumps(value).encode()
        partyline.hub.publish(Draft(topic, text, f"m{partyline.counters.published}", **fields), done)
    return positions


async def joined(partyline: Partyline, topic: str, count: int = 1) -> None:
    """Wait until this many members are in the topic."""
    async with asyncio.timeout(WITHIN):
        while len(partyline.hub.rooms.members(topic)) < count:
            await asyncio.sleep(0)


async def gone(partyline: Partyline) -> None:
    """Wait until nobody is connected."""
    async with asyncio.timeout(WITHIN):
        while partyline.site.live:
            await asyncio.sleep(0)


# What comes


def test_a_stream_of_events() -> None:
    """The answer is an event stream that no proxy buffers; each message is an event with its position as id."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), stream(url, "cats") as source:
            assert source.status == 200
            assert source.headers["content-type"].partition(";")[0] == "text/event-stream"
            assert source.headers["cache-control"] == "no-store"
            assert source.headers["x-accel-buffering"] == "no"
            await joined(partyline, "cats")
            (position,) = await say(partyline, "cats", {"a": "b\r\nc"}, key="k")
            await say(partyline, "dogs", "not for it")
            event = await source.next()
            message = json.loads(event.data)
            assert (event.type, event.id) == ("message", position)
            _, page = await call(f"{url}/v1/topics/cats/messages")
            assert [{"topic": "cats", **kept} for kept in page["messages"]] == [message]
            assert set(message) == {"topic", "position", "id", "time", "data", "key"}

    run(main())


def test_resuming_streams() -> None:
    """A stream goes on after Last-Event-ID, or else after `after`; without either it begins now."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            first, *_, fourth, _ = await say(partyline, "cats", 1, 2, 3, 4, 5)
            cases: list[tuple[str, str | None, list[Any]]] = [
                ("", None, []),
                ("?after=latest", None, []),
                ("?after=earliest", None, [1, 2, 3, 4, 5]),
                (f"?after={first}", None, [2, 3, 4, 5]),
                ("", fourth, [5]),
                ("?after=earliest", fourth, [5]),  # a browser that comes back sends both
                (f"?after={UNKNOWN}-1", first, [2, 3, 4, 5]),
                ("", behind(first, 4), []),
            ]
            for query, last_id, expected in cases:
                async with stream(url, "cats", query, last_id=last_id) as source:
                    assert source.status == 200
                    await joined(partyline, "cats")
                    await say(partyline, "cats", "live", durable=False)
                    assert await source.data(len(expected) + 1) == [*expected, "live"]
                await gone(partyline)

    run(main())


def test_a_stream_begins_with_its_position() -> None:
    """A browser that drops before the first event comes back with an id, and misses nothing; a stream that begins
    anew, at the oldest or after a position says where it is, before anything else."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            first, second = await say(partyline, "cats", 1, 2)
            for query, begins in (("", second), ("?after=latest", second), (f"?after={first}", first)):
                async with stream(url, "cats", query) as source:
                    assert await source.chunk() == f"id: {begins}\n\n".encode(), query
                await gone(partyline)
            await say(partyline, "cats", "missed")
            async with stream(url, "cats", last_id=second) as source:
                assert await source.data(1) == ["missed"]

    run(main())


def test_ephemeral_events_leave_the_id_alone() -> None:
    """A message without a position has no id, so the browser resumes after the last one that has an id."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), stream(url, "cats") as source:
            await joined(partyline, "cats")
            (position,) = await say(partyline, "cats", 1)
            await say(partyline, "cats", 2, durable=False)
            assert await source.data(2) == [1, 2]
            assert source.browser.last_id == position

    run(main())


def test_hostile_31_data_with_line_ends() -> None:
    """CR, LF, NUL and Unicode's line ends in data, keys and users reach the page unchanged, and do not forge a
    field."""

    async def main() -> None:
        async with running(settings()) as (partyline, url), stream(url, "cats") as source:
            await joined(partyline, "cats")
            sent = ["a\r\nid: forged\r\n\r\ndata: forged", "\0", "\u2028\u2029\u0085", "event: gap\n\n", ":", "\ufeff"]
            for data in sent:
                for body in (json.dumps({"data": data}), json.dumps({"data": data}, ensure_ascii=False)):
                    assert (await call(f"{url}/v1/topics/cats/messages", "POST", json.loads(body)))[0] == 200
            found = [await source.next() for _ in range(2 * len(sent))]
            assert [json.loads(event.data)["data"] for event in found] == [data for data in sent for _ in range(2)]
            assert [offset(event.id) for event in found] == list(range(1, 2 * len(sent) + 1))

    run(main())


def test_a_comment_when_nothing_else_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle stream writes a comment line again and again, so that nothing on the way gives up."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.03)

    async def main() -> None:
        async with running(settings()) as (_, url), stream(url, "cats") as source:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert source.browser.feed(await source.chunk()) == []
            begun = source.browser.last_id
            while source.browser.comments < 3:
                assert source.browser.feed(await source.chunk()) == []
            assert loop.time() - began >= 0.06
            assert source.browser.last_id == begun

    run(main())


def test_the_comment_is_due_within_fifteen_seconds() -> None:
    """A quiet stream is never silent for longer than 15 s."""
    assert events.COMMENT_EVERY <= 15.0


def test_a_quiet_stream_is_advanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """While only other topics have messages the id moves on without an event, and resuming from it is recovered."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.03)

    async def main() -> None:
        async with running(settings(max_messages=2)) as (partyline, url):
            async with stream(url, "cats") as source:
                await joined(partyline, "cats")
                head = (await say(partyline, "dogs", 1, 2, 3, 4))[-1]
                await source.until(last_id=head)
                comments = source.browser.comments
                while source.browser.comments < comments + 2:  # the position is sent once
                    assert source.browser.feed(await source.chunk()) == []
                assert source.browser.last_id == head
            await say(partyline, "cats", 5)
            async with stream(url, "cats", last_id=head) as source:
                assert await source.data(1) == [5]

    run(main())


def test_a_stream_that_resumed_and_found_nothing_is_advanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that resumes a quiet topic from an old id is advanced, too, so that retention does not overtake it."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.03)

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            *_, before, head = await say(partyline, "dogs", 1, 2, 3)
            async with stream(url, "cats", last_id=before) as source:
                await source.until(last_id=head)

    run(main())


def test_an_id_never_overtakes_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a message arrives in the very turn of a heartbeat, its id is not sent before it, or it would be lost."""
    comment_every = 0.05
    monkeypatch.setattr(events, "COMMENT_EVERY", comment_every)

    async def main() -> None:
        hub, opened = lone_stream()
        body = opened.stream("cats", "latest")
        browser = Browser()
        assert browser.feed(await anext(body)) == []
        begun = browser.last_id
        first = asyncio.ensure_future(anext(body))
        await asyncio.sleep(0)  # it waits now, and its heartbeat is armed
        loop = asyncio.get_running_loop()
        loop.call_later(comment_every, hub.publish, Draft("cats", b"1", "m"))
        time.sleep(comment_every + 0.02)  # a busy loop: both are due when it comes back
        found = browser.feed(await first)
        assert browser.last_id == begun or found, "the id came before its message"
        while not found:
            found = browser.feed(await anext(body))
        assert json.loads(found[0].data)["data"] == 1
        await body.aclose()  # type: ignore[attr-defined]

    run(main())


def lone_stream(principal: Principal = EVERYBODY, *, clock: Any = time.time) -> tuple[Hub, EventStream]:
    """A stream of `cats` without a server around it."""
    counters = Counters()
    store = MemoryStore()
    hub = Hub(store, counters)
    timers = Timers(asyncio.get_running_loop())
    services = Services(hub, store, cast("Any", None), timers, Settings(), clock)
    site = Site(ConnectionLimits(close_timeout=0.05), timers, counters, cast("Any", None), lambda upgrade: None)
    return hub, EventStream(services, site, principal, "")


def test_a_token_that_expires_ends_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its token expires, a stream ends, and nothing published later is in it."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.05)

    async def main(quiet: bool) -> None:
        now = 1000.0
        hub, opened = lone_stream(Principal((), (">",), expires=now + 5), clock=lambda: now)
        body = opened.stream("cats", "latest")
        await anext(body)  # its position
        hub.publish(Draft("cats", b"1", "m1"))
        assert b'"data":1' in await anext(body)
        now += 5
        if not quiet:
            hub.publish(Draft("cats", b"2", "m2"))
        assert b'"data":2' not in b"".join([piece async for piece in body])

    for quiet in (True, False):
        run(main(quiet))


# Gaps


@pytest.mark.parametrize("last_id", ["garbage", "5", "\xe9", "x" * 5_000, f"{UNKNOWN}-3", f"{UNKNOWN}-x", "{}"])
def test_an_unknown_last_event_id_is_a_gap(last_id: str) -> None:
    """A meaningless Last-Event-ID does not get a 4xx, on which a browser gives up: the browser gets `gap` and goes
    on."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            await say(partyline, "cats", 1, 2)
            async with stream(url, "cats", last_id=last_id) as source:
                assert source.status == 200
                gap = await source.next()
                assert gap.type == "gap"
                assert json.loads(gap.data) == {"recovered": False, "oldest": f"{partyline.store.epoch}-0"}
                await joined(partyline, "cats")
                await say(partyline, "cats", 3)
                assert await source.data(1) == [3]

    run(main())


def test_hostile_14_ids_that_cannot_be_resumed() -> None:
    """A pruned id, or one ahead of the log, is a gap with the oldest position kept."""

    async def main() -> None:
        async with running(settings(max_messages=3)) as (partyline, url):
            first, *_, head = await say(partyline, "cats", *range(10))
            for last_id in (first, behind(first, 5), behind(head, 1), behind(head, 2**40)):
                for query, header in (("", last_id), (f"?after={last_id}", None)):
                    async with stream(url, "cats", query, last_id=header) as source:
                        gap = await source.next()
                        assert (gap.type, json.loads(gap.data)["oldest"]) == ("gap", behind(first, 6))
            async with stream(url, "cats", last_id=behind(first, 6)) as source:
                assert await source.data(3) == [7, 8, 9]

    run(main())


def test_what_comes_after_a_gap_is_not_lost() -> None:
    """A browser that loses its connection right after `gap` resumes after the gap, because the id moved with it."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            await say(partyline, "cats", 1, 2)
            async with stream(url, "cats", last_id=f"{UNKNOWN}-3") as source:
                assert (await source.next()).type == "gap"
                last_id = source.browser.last_id or f"{UNKNOWN}-3"
            await say(partyline, "cats", "while it was away")
            async with stream(url, "cats", last_id=last_id) as source:
                assert await source.data(1) == ["while it was away"]

    run(main())


def test_a_last_event_id_may_come_in_the_query() -> None:
    """For polyfills of EventSource, which cannot send headers, `?lastEventId=` resumes like the header, and does not
    get a 4xx if it is meaningless, either; the header takes precedence."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            first, second, _ = await say(partyline, "cats", 1, 2, 3)
            async with stream(url, "cats", f"?lastEventId={first}") as source:
                assert await source.data(2) == [2, 3]
            async with stream(url, "cats", f"?lastEventId={first}&after=latest", last_id=second) as source:
                assert await source.data(1) == [3]
            async with stream(url, "cats", "?lastEventId=garbage") as source:
                assert (await source.next()).type == "gap"
            async with stream(url, "cats", "?lastEventId=&after=earliest") as source:
                assert await source.data(3) == [1, 2, 3]

    run(main())


def test_an_overtaken_stream_is_told() -> None:
    """A stream that retention overtakes while it catches up gets `gap`, and goes on from the oldest kept."""

    async def main() -> None:
        async with running(settings(max_messages=5)) as (partyline, url):
            first, *_ = await say(partyline, "cats", 1, 2, 3, 4, 5)

            async def overtake() -> None:
                await say(partyline, "cats", *range(6, 16))

            reads(partyline, nothing, overtake)
            async with stream(url, "cats", last_id=first) as source:
                gap = await source.next()
                assert (gap.type, json.loads(gap.data)) == ("gap", {"recovered": False, "oldest": behind(first, 9)})
                assert gap.id == behind(first, 9)
                await say(partyline, "cats", "live")
                assert await source.data(6) == [11, 12, 13, 14, 15, "live"]

    run(main())


def test_a_log_that_cannot_be_read_ends_the_stream() -> None:
    """If the log fails the stream ends with `retry`, and the browser that comes back misses nothing."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            await say(partyline, "cats", 1, 2, 3)

            async def fail() -> None:
                raise StoreUnavailable("the disk is gone for a moment")

            for before in (0, 1):
                reads(partyline, *[nothing] * before, fail)
                async with stream(url, "cats", "?after=earliest") as source:
                    assert source.status == 200
                    assert await source.rest() == []
                    assert source.browser.retry is not None
            async with stream(url, "cats", "?after=earliest") as source:
                assert await source.data(3) == [1, 2, 3]

    run(main())


# Refusals


def test_what_can_never_succeed_is_refused() -> None:
    """Only what no retry can fix gets a 4xx: an invalid topic, an invalid `after`, missing rights."""

    async def main() -> None:
        keys = (api_key("cats", subscribe=("cats",)),)
        async with running(settings(api_keys=keys)) as (partyline, url):
            cases = [
                ("a b", "", None, "cats", 422, "invalid_topic"),
                ("$sys", "", None, "cats", 422, "invalid_topic"),
                ("cats.*", "", None, "cats", 422, "invalid_topic"),
                ("cats", "?after=garbage", None, "cats", 422, "invalid_position"),
                ("cats", f"?after={UNKNOWN}", None, "cats", 422, "invalid_position"),
                ("dogs", "", None, "cats", 403, "forbidden"),
                ("dogs", "", "garbage", "cats", 403, "forbidden"),
                ("cats", "", None, None, 401, "unauthenticated"),
                ("cats", "", None, "nobody", 401, "unauthenticated"),
            ]
            for topic, query, last_id, token, status, code in cases:
                async with stream(url, topic, query, last_id=last_id, token=token) as refused:
                    assert refused.status == status
                    assert (await refused.body())["error"]["code"] == code
            for last_id in (None, "garbage", f"{UNKNOWN}-1"):
                async with stream(url, "cats", last_id=last_id, token="cats") as source:
                    assert source.status == 200
            await gone(partyline)

    run(main())


def test_hostile_40_streams_keep_users_apart() -> None:
    """A message for one user is in that user's streams, live and resumed, and in no other stream."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"), eve=person("eve"))
            for query in ("", "?after=earliest"):
                async with contextlib.AsyncExitStack() as stack:
                    open_ = {
                        token: await stack.enter_async_context(stream(url, "cats", query, token=token))
                        for token in ("ann", "eve", "k")
                    }
                    if not query:
                        await joined(partyline, "cats", 3)
                        await say(partyline, "cats", "for ann", user="ann")
                        await say(partyline, "cats", "for all")
                    assert await open_["ann"].data(2) == ["for ann", "for all"]
                    for token in ("eve", "k"):
                        assert await open_[token].data(1) == ["for all"]
                await gone(partyline)

    run(main())


def test_a_stream_makes_its_user_present() -> None:
    """A user that reads a topic as events is in its presence as long as the stream is open."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"))
            async with line(url, "k") as watcher:
                await watcher.ask("subscribe", topic="cats", presence=True)
                async with stream(url, "cats", token="ann"):
                    assert await watcher.next() == {"type": "join", "topic": "cats", "user": "ann"}
                assert await watcher.next() == {"type": "leave", "topic": "cats", "user": "ann"}

    run(main())


# No gap, no duplicate


def test_hostile_13_resuming_while_publishing_goes_on() -> None:
    """However often a browser comes back while others publish, it gets every message once, in order."""

    async def main() -> None:
        total = 300
        async with running(settings()) as (partyline, url):
            slow_reads(partyline)

            async def publish() -> None:
                for number in range(total):
                    await say(partyline, ("cats", "dogs")[number % 2], number)
                    await asyncio.sleep(0)

            async def follow(topic: str, expected: list[int], every: int) -> None:
                got: list[int] = []
                last_id: str | None = None
                while len(got) < len(expected):
                    async with stream(url, topic, "?after=earliest", last_id=last_id) as source:
                        got += await source.data(min(every, len(expected) - len(got)))
                        last_id = source.browser.last_id
                assert got == expected

            cats, dogs = list(range(0, total, 2)), list(range(1, total, 2))
            await asyncio.gather(
                publish(), follow("cats", cats, 1000), follow("cats", cats, 7), follow("dogs", dogs, 19)
            )

    run(main())


def test_a_long_history_waits_for_its_reader() -> None:
    """A history far larger than the outbox arrives whole, and does not end the stream."""

    async def main() -> None:
        async with running(settings(outbox_bytes=32 * 1024)) as (partyline, url):
            await say(partyline, "cats", *(f"{number}:" + "x" * 20_000 for number in range(200)))
            async with stream(url, "cats", "?after=earliest") as source:
                got = [text.partition(":")[0] for text in await source.data(200)]
                assert got == [str(number) for number in range(200)]
            assert "outbox_bytes" not in partyline.counters.limits

    run(main())


def test_a_slow_reader_may_come_back() -> None:
    """A reader that does not keep up is sent away with `retry` at the bound, and misses nothing when it comes back."""

    async def main() -> None:
        async with running(settings(outbox_bytes=32 * 1024)) as (partyline, url):
            total = 0
            async with stream(url, "cats", buffer=4096) as source:
                await joined(partyline, "cats")
                source.writer.transport.pause_reading()  # type: ignore[attr-defined]
                while "outbox_bytes" not in partyline.counters.limits:
                    await say(partyline, "cats", f"{total}:" + "x" * 10_000)
                    total += 1
                    await asyncio.sleep(0)
                source.writer.transport.resume_reading()  # type: ignore[attr-defined]
                got = [json.loads(event.data)["data"].partition(":")[0] for event in await source.rest()]
                assert source.browser.retry is not None
                last_id = source.browser.last_id or None
            assert len(got) < total
            async with stream(url, "cats", "?after=earliest", last_id=last_id) as source:
                got += [text.partition(":")[0] for text in await source.data(total - len(got))]
            assert got == [str(number) for number in range(total)]

    run(main())


def test_hostile_17_a_reader_that_stands_still_is_cut() -> None:
    """A reader that never reads again is cut at the bound, so that its socket and memory are freed."""

    async def main() -> None:
        rules = settings(outbox_bytes=32 * 1024, close_timeout=0.1, drain_time=0.1)
        async with running(rules) as (partyline, url), stream(url, "cats", buffer=4096) as source:
            await joined(partyline, "cats")
            source.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while "outbox_bytes" not in partyline.counters.limits:
                await say(partyline, "cats", "x" * 10_000)
                await asyncio.sleep(0)
            await gone(partyline)
            assert partyline.site.connections == 0

    run(main())


def test_a_reader_that_stands_still_while_it_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client takes nothing any more is ended after some heartbeats, even if its outbox is not full: an
    ASGI server waits for its client for ever."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.02)

    async def main() -> None:
        hub, opened = lone_stream()
        body = opened.stream("cats", "latest")
        await anext(body)  # it has its first event, and never asks for the next
        assert hub.audience("cats")
        while hub.audience("cats"):
            await asyncio.sleep(0.01)
        await body.aclose()  # type: ignore[attr-defined]

    run(main())


def test_a_reader_that_is_only_slow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes an event now and then is not ended, however many heartbeats pass."""
    monkeypatch.setattr(events, "COMMENT_EVERY", 0.05)

    async def main() -> None:
        hub, opened = lone_stream()
        body = opened.stream("cats", "latest")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while loop.time() < begun + 0.4:
            await anext(body)
            await asyncio.sleep(0.04)
        assert hub.audience("cats")
        await body.aclose()  # type: ignore[attr-defined]

    run(main())


# Ends


def test_drain_ends_streams_with_retry() -> None:
    """A server that stops ends its streams, after what is queued, with a `retry` that differs between clients."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack, running(settings()) as (partyline, url):
            sources = [await stack.enter_async_context(stream(url, "cats")) for _ in range(8)]
            await joined(partyline, "cats", 8)
            await say(partyline, "cats", "last words")
            partyline.shell.stop()
            retries = set()
            for source in sources:
                assert [json.loads(event.data)["data"] for event in await source.rest()] == ["last words"]
                assert source.browser.retry is not None
                assert 1_000 <= source.browser.retry <= 5_000
                retries.add(source.browser.retry)
            assert len(retries) > 1

    run(main())


def test_a_stream_of_a_draining_server_ends_at_once() -> None:
    """A client that asks for events while the server drains is told when to come back, and does not get a 4xx."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            partyline.site.draining = True
            async with stream(url, "cats") as source:
                assert source.status == 200
                assert await source.rest() == []
                assert source.browser.retry is not None

    run(main())


def test_drain_does_not_wait_for_a_client_that_leaves_as_it_begins() -> None:
    """A client that goes in the moment in which the server stops is not waited for (hostile 55)."""

    async def main() -> None:
        async with running(settings(drain_time=WITHIN)) as (partyline, url):
            async with stream(url, "cats"):
                await joined(partyline, "cats")
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < WITHIN / 2
        assert not partyline.site.live

    run(main())


def test_drain_does_not_wait_for_a_reader_that_stands_still() -> None:
    """A stream whose reader takes nothing is dropped at the drain time, and the server ends cleanly."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with running(settings(drain_time=0.1)) as (partyline, url):
                source = await stack.enter_async_context(stream(url, "cats", buffer=4096))
                await joined(partyline, "cats")
                source.writer.transport.pause_reading()  # type: ignore[attr-defined]
                (opened,) = [one for one in partyline.site.live if isinstance(one, EventStream)]
                while len(opened._outbox) < 3:  # the transport takes no more
                    await say(partyline, "cats", "x" * 50_000)
                    await asyncio.sleep(0)
            assert not partyline.site.live

    run(main())


def test_nothing_is_left_of_a_stream() -> None:
    """A stream whose client leaves, live or catching up, leaves no room, no user and no task."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"))
            await say(partyline, "cats", 1)
            begun, never = asyncio.Event(), asyncio.Event()

            async def wait() -> None:
                begun.set()
                await never.wait()

            async with stream(url, "cats", token="ann"):
                await joined(partyline, "cats")
                reads(partyline, wait)
                async with stream(url, "cats", "?after=earliest", token="ann"):
                    await begun.wait()
            async with asyncio.timeout(WITHIN):
                while partyline.site.live or len(asyncio.all_tasks()) > 2:  # this one and the server's
                    await asyncio.sleep(0)
            assert not partyline.hub.rooms.names()
            assert not partyline.hub._users
            assert len(partyline.site.timers) == 0

    run(main())
