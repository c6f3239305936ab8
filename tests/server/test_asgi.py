"""The ASGI WebSocket against a server that does exactly what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from partyline.errors import Forbidden, NotFound, PartylineError
from partyline.hub.timers import Timers
from partyline.interfaces import Connection
from partyline.metrics import Counters
from partyline.models import Payload, Policy
from partyline.server.asgi import AsgiWebSocket, Cut, mounted_path, serve_websocket
from partyline.server.site import ConnectionLimits, Endpoint, Site, Upgrade
from partyline.trust.perimeter import Perimeter
from partyline.wire.websocket import frames
from partyline.wire.websocket.codec import Limits
from tests.server.peers import WITHIN
from tests.server.servers import eventually


class Session:
    """Records what it receives, and answers texts as they say."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.connection: AsgiWebSocket | None = None

    def opened(self, connection: Connection) -> None:
        assert isinstance(connection, AsgiWebSocket)
        self.connection = connection

    def text(self, text: str) -> None:
        self.heard.append(text)
        assert self.connection is not None
        if text == "fail":
            raise RuntimeError("as asked")
        self.connection.send_text(f"you said {text}")

    def binary(self, data: bytes) -> None:
        self.heard.append(data)
        assert self.connection is not None
        self.connection.send_binary(data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        self.heard.append(error.code)

    def closed(self) -> None:
        self.heard.append("closed")


class Server:
    """One WebSocket of an ASGI server. `sent` has what it was given; while `blocked` it takes no more."""

    def __init__(self, session: Session, endpoint: Endpoint | None = None, **limits: Any) -> None:
        self.session = session
        self.endpoint = endpoint or Endpoint(session)
        timers = Timers(asyncio.get_running_loop())
        self.site = Site(ConnectionLimits(**limits), timers, Counters(), Perimeter(), self.route)
        self.sent: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.gone = False
        self.upgrades: list[Upgrade] = []

    def route(self, upgrade: Upgrade) -> Endpoint | None:
        self.upgrades.append(upgrade)
        if upgrade.path == "/forbidden":
            raise Forbidden("not here")
        if upgrade.path == "/broken":
            raise RuntimeError("a secret")
        return self.endpoint if upgrade.path == "/ws" else None

    async def send(self, message: Any) -> None:
        await self.open.wait()
        if self.gone:
            raise OSError("the client is gone")
        self.sent.append(message)

    def say(self, *messages: str | bytes) -> None:
        for message in messages:
            kind = "text" if isinstance(message, str) else "bytes"
            self.inbox.put_nowait({"type": "websocket.receive", kind: message})

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1005})

    def scope(self, **fields: Any) -> dict[str, Any]:
        return {
            "type": "websocket",
            "path": "/ws",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            **fields,
        }

    @property
    def messages(self) -> list[str | bytes]:
        """The messages among what was sent."""
        sent = [one for one in self.sent if one["type"] == "websocket.send"]
        return [one["text"] if "text" in one else one["bytes"] for one in sent]

    @property
    def farewell(self) -> tuple[int, str] | None:
        last = self.sent[-1]
        return (last["code"], last["reason"]) if last["type"] == "websocket.close" else None

    async def serve(self, **fields: Any) -> None:
        async with asyncio.timeout(WITHIN):
            await serve_websocket(self.site, self.scope(**fields), self.inbox.get, self.send)


@contextlib.asynccontextmanager
async def connected(server: Server, **fields: Any) -> AsyncIterator[AsgiWebSocket]:
    """An open connection; at the end it must have released everything."""
    serving = asyncio.create_task(server.serve(**fields))
    await eventually(lambda: server.session.connection or serving.done(), "the session is opened")
    assert server.session.connection is not None, serving
    yield server.session.connection
    server.open.set()
    server.leave()
    await serving
    site = server.site
    assert not site.live
    assert not site.connections
    assert len(site.timers) == 0
    assert server.session.heard[-1] == "closed"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def settled(server: Server, count: int) -> None:
    await eventually(lambda: len(server.messages) >= count, f"{count} messages are sent")


def run(main: Any) -> None:
    asyncio.run(main)


def payload(text: str, policy: Policy = Policy.CLOSE) -> Payload:
    return Payload(frames.text_frame(text.encode()), "cats", policy)


# Opening and refusing


def test_messages_go_both_ways_in_order() -> None:
    """Text and binary pass in and out in order; several frames in one payload are several messages; pings are not
    sent."""

    async def main() -> None:
        server = Server(session := Session())
        async with connected(server) as connection:
            assert server.sent[0] == {"type": "websocket.accept", "subprotocol": None, "headers": []}
            server.say("é🎉", b"\x00\xff", "")
            await settled(server, 3)
            ping = frames.frame(frames.PING, b"x")
            connection.send(frames.text_frame(b"one") + ping + frames.frame(frames.BINARY, b"2" * 70_000))
            connection.offer(payload("x" * 300))
            await settled(server, 6)
        assert server.messages == ["you said é🎉", b"\x00\xff", "you said ", "one", b"2" * 70_000, "x" * 300]
        assert session.heard == ["é🎉", b"\x00\xff", "", "closed"]

    run(main())


def test_half_a_character_is_replaced() -> None:
    """Half a surrogate pair from an application is U+FFFD for the client."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            connection.send_text("a\ud83db")
            await settled(server, 1)
        assert server.messages == ["a\ufffdb"]

    run(main())


def test_a_compressed_frame_is_nobodys() -> None:
    """A compressed frame, which was not agreed on, ends the connection instead of reaching a client unchanged."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            assert connection.deflate is None
            connection.send(frames.frame(frames.TEXT, b"\x00", rsv1=True))
            await eventually(lambda: not server.site.live, "it ends")
        assert server.messages == []

    run(main())


def test_what_the_endpoint_wants_is_agreed() -> None:
    """The first of our subprotocols that is offered is chosen, and the endpoint's headers are in the answer."""

    async def main() -> None:
        session = Session()
        endpoint = Endpoint(session, subprotocols=("best", "good"), headers=((b"x-a", b"b"),))
        server = Server(session, endpoint)
        async with connected(server, subprotocols=["good", "best"], query_string=b"a=1"):
            accepted = {"type": "websocket.accept", "subprotocol": "best", "headers": [(b"x-a", b"b")]}
            assert server.sent[0] == accepted
        (upgrade,) = server.upgrades
        assert (upgrade.path, upgrade.query, upgrade.peer.address) == ("/ws", b"a=1", "127.0.0.1")
        assert (b"sec-websocket-protocol", b"good, best") in upgrade.headers  # uvicorn's wsproto leaves this out

    run(main())


REFUSED = [
    ({"path": "/nowhere"}, 404, "not_found"),
    ({"path": "/forbidden"}, 403, "forbidden"),
    ({"path": "/broken"}, 500, "internal"),
    ({"headers": [(b"host", b"evil.example")]}, 421, "foreign_host"),
    ({"headers": [(b"host", b"localhost"), (b"origin", b"https://evil.example")]}, 403, "foreign_origin"),
    ({"headers": []}, 400, "malformed"),
]


@pytest.mark.parametrize(("fields", "status", "code"), REFUSED)
@pytest.mark.parametrize("extension", [True, False])
def test_refusals(fields: dict[str, Any], status: int, code: str, extension: bool) -> None:
    """A refusal is our usual answer if the server can send one, and otherwise a close, which stands for 403."""

    async def main() -> None:
        server = Server(session := Session())
        extensions: Any = {"websocket.http.response": {}} if extension else None
        await server.serve(**fields, extensions=extensions)
        if extension:
            start, body = server.sent
            assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
            assert (b"x-content-type-options", b"nosniff") in start["headers"]
            assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
            assert json.loads(body["body"])["error"]["code"] == code
            assert b"secret" not in body["body"]
        else:
            assert [message["type"] for message in server.sent] == ["websocket.close"]
        assert server.site.counters.refused == 1
        assert not server.site.connections
        assert session.heard == []

    run(main())


def test_max_connections() -> None:
    """A connection beyond max_connections is refused with 503, and no longer counted."""

    async def main() -> None:
        server = Server(Session(), max_connections=1)
        async with connected(server):
            waiting, server.inbox = server.inbox, asyncio.Queue()
            server.say("instead of connect")
            await server.serve(extensions={"websocket.http.response": {}})
            assert server.sent[-2]["status"] == 503
            assert server.site.connections == 1
            server.inbox = waiting

    run(main())


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/ws", "", "/ws"),
        ("/live/ws", "/live", "/ws"),
        ("/live/ws", "/live/", "/ws"),
        ("/live", "/live", "/"),
        ("/lively/ws", "/live", "/lively/ws"),
        ("/ws", "/live", "/ws"),  # a server that leaves the prefix out
    ],
)
def test_where_it_is_mounted(path: str, root: str, below: str) -> None:
    """Paths are relative to where the application is mounted, whether the server repeats the prefix or not."""
    assert mounted_path({"path": path, "root_path": root}) == below


# Limits


def test_max_message() -> None:
    """A message beyond max_message, counted in bytes, gets 1009; one of just that size is accepted."""

    async def main() -> None:
        session = Session()
        server = Server(session, Endpoint(session, limits=Limits(125, 125)))
        async with connected(server):
            server.say("é" * 62, b"x" * 125, "é" * 63, "not heard")
            await eventually(lambda: server.farewell, "it is closed")
            assert server.farewell == (1009, "a message is larger than 125 bytes")
        assert session.heard == ["é" * 62, b"x" * 125, "closed"]
        assert server.site.counters.limits == {"max_message": 1}

    run(main())


def test_events_per_second() -> None:
    """A client that sends too much is refused message by message, and closed with 4429 if it goes on."""

    async def main() -> None:
        server = Server(session := Session(), events_per_second=0.001, events_burst=2.0)
        async with connected(server):
            server.say(*map(str, range(9)))
            await eventually(lambda: server.farewell, "it is closed")
            assert server.farewell == (4429, "too many events")
        assert session.heard == ["0", "1", "rate_limited", "rate_limited", "closed"]

    run(main())


def test_a_slow_consumer_is_closed() -> None:
    """An outbox overflow ends the connection with 4008: what was queued is dropped, and the close is bounded in
    time."""

    async def main() -> None:
        server = Server(Session(), outbox_bytes=1_000, close_timeout=0.05)
        async with connected(server) as connection:
            server.open.clear()
            for _ in range(11):
                connection.offer(payload("x" * 98))
                await asyncio.sleep(0)
            assert not server.site.counters.limits  # one is with the server, ten are queued
            connection.offer(payload("one too many"))
            assert server.site.counters.limits == {"outbox_bytes": 1}
            assert server.site.counters.dropped == 10
            connection.offer(payload("after the close"))
            await eventually(lambda: not server.site.live, "the client that takes nothing is cut off")
            assert server.site.counters.limits["close_timeout"] == 1
        assert server.messages == []

    run(main())


def test_policies_of_a_full_outbox() -> None:
    """If the room's policy says so, the oldest messages are dropped instead, and the connection stays."""

    async def main() -> None:
        server = Server(Session(), outbox_bytes=1_000)
        async with connected(server) as connection:
            server.open.clear()
            connection.offer(payload("first"))
            await asyncio.sleep(0)
            for number in range(100):
                connection.offer(payload(f"{number:098}", Policy.DROP_OLDEST))
            server.open.set()
            await eventually(lambda: server.messages[-1:] == [f"{99:098}"], "the newest comes")
            assert server.messages[0] == "first"
            numbers = [int(text) for text in server.messages[1:]]
            assert numbers == list(range(100 - len(numbers), 100))
            assert server.farewell is None
        assert server.site.counters.dropped == 100 - len(numbers)

    run(main())


def test_an_idle_connection_takes_any_message() -> None:
    """A message larger than the outbox reaches a client that reads."""

    async def main() -> None:
        server = Server(Session(), outbox_bytes=1_000)
        async with connected(server) as connection:
            connection.offer(payload("x" * 5_000))
            await settled(server, 1)
            connection.offer(payload("y" * 5_000))
            await settled(server, 2)

    run(main())


def test_who_does_not_read_the_answers_waits() -> None:
    """The server stops reading from a client that asks without reading, before its answers fill the outbox."""

    async def main() -> None:
        server = Server(session := Session(), outbox_bytes=10_000)
        async with connected(server):
            server.open.clear()
            server.say(*["x" * 1_000] * 50)
            await eventually(lambda: len(session.heard) >= 6, "some are heard")
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(session.heard) < 9
            server.open.set()
            await settled(server, 50)
            assert len(session.heard) == 50
        assert not server.site.counters.limits

    run(main())


def test_drained() -> None:
    """`drained` waits for the client, and returns when it has taken everything or is gone."""

    async def main() -> None:
        server = Server(Session(), outbox_bytes=10_000)
        async with connected(server) as connection:
            await connection.drained()
            server.open.clear()
            for _ in range(8):
                connection.offer(payload("x" * 1_000))
            waiting = asyncio.create_task(connection.drained())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not waiting.done()
            server.open.set()
            await waiting
            assert len(server.messages) == 8
            server.open.clear()
            for _ in range(8):
                connection.offer(payload("x" * 1_000))
            waiting = asyncio.create_task(connection.drained())
            await asyncio.sleep(0)
            connection.close(1000)
            await waiting

    run(main())


# The end


def test_a_close_comes_after_what_is_queued() -> None:
    """Our close is sent once, after everything sent before it; its reason is cut between characters."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            connection.send_text("last words")
            connection.close(4000, "é" * 100)
            connection.close(4001, "again")
            connection.send_text("nobody hears this")
            await eventually(lambda: server.farewell, "it is closed")
            assert server.messages == ["last words"]
            assert server.farewell == (4000, "é" * 61)

    run(main())


@pytest.mark.parametrize("code", [4001, 4401])
def test_who_has_no_right_any_more_gets_nothing_queued(code: int) -> None:
    """What is queued for a client that does not read is dropped when the client's right to it ends."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            connection.offer(payload("in the server's hands"))
            server.open.clear()
            await asyncio.sleep(0)
            connection.offer(payload("a secret"))
            connection.close(code)
            server.open.set()
            await eventually(lambda: server.farewell, "it is closed")
            assert server.messages == ["in the server's hands"]

    run(main())


def test_what_is_said_with_the_close_is_heard() -> None:
    """An answer that gives the reason is sent before a 4401 in the same turn."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            connection.send_text("why")
            connection.close(4401)
            await eventually(lambda: server.farewell, "it is closed")
            assert server.messages == ["why"]

    run(main())


def test_the_client_leaves_while_it_is_written_to() -> None:
    """A failed write ends the connection without logging an error."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            server.gone = True
            connection.send_text("to nobody")
            await eventually(lambda: not server.site.live, "it ends")
            assert server.site.counters.errors == 0

    run(main())


def test_the_client_leaves_before_it_is_accepted() -> None:
    """A client that is gone before our answer causes no error."""

    async def main() -> None:
        server = Server(session := Session())
        server.gone = True
        await server.serve()
        assert session.heard == []
        assert not server.site.connections

    run(main())


def test_shutdown() -> None:
    """A server that drains tells its clients to come back (1012), including those that connect meanwhile."""

    async def main() -> None:
        server = Server(Session())
        server.site.draining = True
        async with connected(server):
            await eventually(lambda: server.farewell, "it is closed")
            assert server.farewell == (1012, "server restarting")

    run(main())


def test_a_server_that_cancels_us() -> None:
    """A connection cancelled by its server sends 1012 after what is queued, and the cancellation propagates."""

    async def main() -> None:
        server = Server(session := Session())
        serving = asyncio.create_task(server.serve())
        await eventually(lambda: session.connection, "the session is opened")
        assert session.connection is not None
        session.connection.send_text("last words")
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert server.messages == ["last words"]
        assert server.farewell == (1012, "server restarting")
        assert session.heard == ["closed"]
        assert not server.site.live

    run(main())


def test_a_handler_that_raises_costs_its_message() -> None:
    """An exception loses only the message that raised it, and is counted."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server):
            server.say("fail", "go on")
            await settled(server, 1)
            assert server.messages == ["you said go on"]
            assert server.site.counters.errors == 1

    run(main())


def test_handing_over() -> None:
    """What arrives after `hand_to` goes to the next session, and so does the end."""

    async def main() -> None:
        server = Server(first := Session())
        second = Session()
        async with connected(server) as connection:
            server.say("one")
            await settled(server, 1)
            second.connection = connection
            connection.hand_to(second)
            server.session = second
            server.say("two")
            await settled(server, 2)
            assert connection.session is second
        assert (first.heard, second.heard) == (["one"], ["two", "closed"])

    run(main())


def test_cut() -> None:
    """A cut ends what waits in its block, and nothing after the block; another cancellation propagates."""

    async def main() -> None:
        cuts: list[Cut] = []
        after = asyncio.Event()

        async def request() -> str:
            with Cut() as cut:
                cuts.append(cut)
                await asyncio.Event().wait()
            await after.wait()
            return "done"

        cut, cancelled = asyncio.create_task(request()), asyncio.create_task(request())
        await asyncio.sleep(0)
        cuts[0]()
        await asyncio.sleep(0)
        cuts[0]()  # after its block it does nothing
        after.set()
        assert await cut == "done"
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(NotFound), Cut():
            raise NotFound("errors pass")

    run(main())


# Bounds


class Slow(Session):
    """A session that takes a moment for each message."""

    def text(self, text: str) -> None:
        self.heard.append(text)
        until = time.monotonic() + 0.0005
        while time.monotonic() < until:
            pass


def test_a_busy_client_leaves_turns_to_others() -> None:
    """A client whose messages have all arrived gets one slice of the loop at a time; others get theirs in between."""

    async def main() -> None:
        server = Server(session := Slow())
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with connected(server):
            other = asyncio.create_task(others())
            server.say(*["x"] * 200)  # 100 ms
            await eventually(lambda: len(session.heard) == 200, "all is heard")
            assert turns > 20
            other.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await other

    run(main())


@pytest.mark.parametrize(
    ("messages", "code", "heard"),
    [
        (["x" * 4_097], 1009, 0),
        (["é" * 2_049], 1009, 0),
        ([b"x" * 4_097], 1009, 0),
        (["x" * 4_000] * 6, 4401, 4),
        ([""] * 10_000, 4401, 2_730),
    ],
)
def test_strangers_say_little(messages: list[str | bytes], code: int, heard: int) -> None:
    """Before it has identified itself, a client may send 4 kB at once and 16 kB in all (hostile 47)."""

    async def main() -> None:
        session = Session()
        server = Server(session, Endpoint(session, stranger=True), outbox_bytes=1 << 22)
        async with connected(server):
            server.say(*messages)
            await eventually(lambda: server.farewell, "it is closed")
            assert server.farewell is not None
            assert server.farewell[0] == code
            assert len(session.heard) == heard
            assert server.site.counters.limits == {"stranger_bytes": 1}

    run(main())


def test_whoever_is_known_may_say_more() -> None:
    """Once the session knows who it is, the limits of strangers end."""

    async def main() -> None:
        session = Session()
        server = Server(session, Endpoint(session, stranger=True))
        async with connected(server) as connection:
            server.say("x" * 4_000)
            await settled(server, 1)
            connection.known()
            server.say("x" * 100_000)
            await settled(server, 2)

    run(main())


def test_a_server_that_holds_on_is_left() -> None:
    """A `send` that never returns, even when cancelled, does not keep the request from ending."""

    async def main() -> None:
        server = Server(Session(), close_timeout=0.05)
        stuck = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "websocket.accept":
                return
            while not stuck.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await stuck.wait()

        async with asyncio.timeout(WITHIN):
            serving = asyncio.create_task(serve_websocket(server.site, server.scope(), server.inbox.get, send))
            await eventually(lambda: server.session.connection, "the session is opened")
            assert server.session.connection is not None
            server.session.connection.send_text("x")
            await asyncio.sleep(0)
            server.session.connection.close(1000)
            await serving
        assert not server.site.live
        assert server.session.heard == ["closed"]
        stuck.set()

    run(main())


def test_a_server_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A `receive` that raises ends its connection, and is named in one line of the log."""
    caplog.set_level("INFO")

    async def main() -> None:
        server = Server(Session())

        async def receive() -> Any:
            if server.inbox.empty():
                raise RuntimeError("out of order")
            return server.inbox.get_nowait()

        async with asyncio.timeout(WITHIN):
            await serve_websocket(server.site, server.scope(), receive, server.send)
        assert server.session.heard == ["closed"]

    asyncio.run(main())
    failures = [record for record in caplog.records if record.getMessage() == "a connection cannot be read from"]
    assert [vars(record)["error"] for record in failures] == ["RuntimeError: out of order"]
    assert not [record for record in caplog.records if record.exc_info]


def test_what_nobody_may_read_any_more_is_dropped() -> None:
    """Unwanted messages that wait for a slow reader are dropped; those the server already has, and all others, stay."""

    async def main() -> None:
        server = Server(Session())
        async with connected(server) as connection:
            server.open.clear()
            connection.offer(payload("with the server"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for text in ("secret 1", "open", "secret 2"):
                connection.offer(payload(text))
            connection.discard(lambda message: str(message).startswith("secret"))
            server.open.set()
            await settled(server, 2)
            connection.offer(payload("secret 3"))  # not yet taken by the server
            connection.discard(lambda message: str(message).startswith("secret"))
            connection.offer(payload("last"))
            await settled(server, 3)
        assert server.messages == ["with the server", "open", "last"]
        assert server.site.counters.dropped == 3

    run(main())
