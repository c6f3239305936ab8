"""A WebSocket is served one slice at a time, however much it sends, and nothing is lost or reordered."""

from __future__ import annotations

import asyncio

import pytest

from partyline.server.site import Endpoint, Upgrade
from partyline.server.websocket import WebSocket
from partyline.wire.websocket.frames import CONTINUATION, PING, PONG, TEXT, frame
from tests.server.conftest import Run
from tests.server.peers import WITHIN, close_frame, connected, websocket
from tests.server.servers import Echo, echo, eventually, nothing_is_held, partyline_server, small_send_buffers

KEY = b"\x01\x02\x03\x04"
FLOODS = {
    "pongs": frame(PONG, b"", key=KEY) * 60_000,
    "fragments": b"".join(
        (
            frame(TEXT, b"", fin=False, key=KEY),
            frame(CONTINUATION, b"", fin=False, key=KEY) * 1_000,
            frame(CONTINUATION, b"", key=KEY),
        )
        * 60
    ),
    "pings": frame(PING, b"p", key=KEY) * 40_000,
}


@pytest.mark.check
def test_48_others_are_served_before_a_flood_is_over(run: Run) -> None:
    """hostile 48: another client's message is answered while the bulk that one connection sent at once is still
    read."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            partyline.site.route = echo
            for name, flood in FLOODS.items():
                async with connected(url) as busy, connected(url) as quiet:
                    flooding, asking = await websocket(busy, "/"), await websocket(quiet, "/")
                    sending = asyncio.ensure_future(busy.send(flood + flooding.wire.text(b"last")))
                    await eventually(lambda: len(partyline.site.fair), f"{name}: it waits for its turn")
                    await asking.say("first")
                    assert await asking.text() == "first"
                    assert len(partyline.site.fair), f"{name}: the flood was over too soon"
                    sending.cancel()
            await nothing_is_held(partyline, WITHIN)  # the floods are read first

    run(main())


def test_slices_keep_the_order(run: Run) -> None:
    """Each of thousands of messages in one write, with pings in between, is answered in order, up to the close."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            partyline.site.route = echo
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                texts = [f"message {number}" for number in range(8_000)]
                sent = b"".join(client.wire.text(text.encode()) + frame(PING, b"p", key=KEY) for text in texts)
                sending = asyncio.ensure_future(peer.send(sent + close_frame(1000)))
                before, close = await client.until_close()
                await sending
                assert [event for event in before if isinstance(event, str)] == texts
                assert len(before) == 2 * len(texts)
                assert close.code == 1000
            await nothing_is_held(partyline)

    run(main())


class Holding(Echo):
    """A session that holds the connection at its first message, and counts."""

    def __init__(self) -> None:
        self.heard = 0

    def text(self, text: str) -> None:
        self.heard += 1
        if self.heard == 1:
            self._connection.hold()
        super().text(text)


def test_a_held_connection_is_not_served_what_was_read_already(run: Run) -> None:
    """What a held connection has sent, except for a few messages, waits until it is released; then all of it
    arrives."""

    async def main() -> None:
        session = Holding()

        def route(upgrade: Upgrade) -> Endpoint:
            return Endpoint(session)

        async with partyline_server() as (partyline, url):
            partyline.site.route = route
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                await client.say(*(str(number) for number in range(1_000)))
                await eventually(lambda: session.heard, "the first one is heard")
                for _ in range(20):
                    await asyncio.sleep(0)
                assert session.heard <= 32
                session._connection.release()
                assert [await client.text() for _ in range(1_000)] == [str(number) for number in range(1_000)]
            await nothing_is_held(partyline)

    run(main())


def test_a_flood_whose_answers_are_not_read_waits(run: Run) -> None:
    """If a client sends megabytes and reads no answers, the server stops reading from it instead of closing it."""

    async def main() -> None:
        async with partyline_server(outbox_bytes=65_536) as (partyline, url):
            partyline.site.route = echo
            small_send_buffers(partyline)
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                texts = [f"{number:0100}" for number in range(30_000)]
                sending = asyncio.ensure_future(client.say(*texts))
                (ours,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
                await eventually(lambda: ours._outbox, "its answers do not get out")
                assert [await client.text() for _ in texts] == texts
                await sending
                await client.close()
            await nothing_is_held(partyline)

    run(main())


def test_what_arrives_in_a_crowded_turn_is_only_later(run: Run) -> None:
    """Messages that are read when the turn's time is used up are answered in the next turns, in order."""

    async def main() -> None:
        async with partyline_server(events_per_second=1_000.0) as (partyline, url):
            partyline.site.route = echo
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                (ours,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
                for texts in (["short"], ["x" * 500], ["one", "two"]):
                    partyline.site.fair.took(1.0)
                    for text in texts:
                        ours.data_received(client.wire.text(text.encode()))
                    assert [await client.text() for _ in texts] == texts
                await client.close()
            await nothing_is_held(partyline)

    run(main())
