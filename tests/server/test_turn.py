"""What is written in one turn of the loop is sent together."""

from __future__ import annotations

import asyncio
from typing import Any

from partyline.server.websocket import WebSocket
from partyline.server.writing import Turn

from .conftest import Run
from .peers import close_frame, connected, websocket
from .servers import echo, nothing_is_held, partyline_server


class Leaver:
    def __init__(self, left: list[str], name: str) -> None:
        self.left = left
        self.name = name

    def leave(self) -> None:
        self.left.append(self.name)
        if self.name == "bad":
            raise RuntimeError("as asked")


def test_all_leave_at_the_end_of_the_turn(run: Run) -> None:
    """Calls at the end of a turn run in order, each once, and one that fails does not stop the next."""

    async def main() -> None:
        left: list[str] = []
        turn = Turn()
        for name in ("a", "bad", "b"):
            turn.add(Leaver(left, name))
        assert left == []
        await asyncio.sleep(0)
        assert left == ["a", "bad", "b"]
        turn.add(Leaver(left, "c"))
        await asyncio.sleep(0)
        assert left == ["a", "bad", "b", "c"]

    run(main())


class Counting:
    """A transport that counts writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.writes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(len(data))
        self._transport.write(data)


def test_messages_of_one_turn_are_one_write(run: Run) -> None:
    """Small frames wait for the end of the turn, in order; beyond 64 KiB they do not; a close follows them."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            partyline.site.route = echo
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                (ours,) = (one for one in partyline.site.live if isinstance(one, WebSocket))
                ours._transport = counting = Counting(ours._transport)  # type: ignore[assignment]
                for text in ("a", "b", "c"):
                    ours.send_text(text)
                assert counting.writes == []
                assert [await client.text() for _ in range(3)] == ["a", "b", "c"]
                assert counting.writes == [9]
                for _ in range(3):
                    ours.send_binary(b"x" * 40_000)
                assert counting.writes == [9, 80_008]
                ours.send_text("last")
                ours.close(1000)
                assert counting.writes[2:] == [40_004 + 6, 4]
                before, close = await client.until_close()
                assert [len(event) for event in before if isinstance(event, str | bytes)] == [40_000] * 3 + [4]
                assert close.code == 1000
                await peer.send(close_frame(1000))
            await nothing_is_held(partyline)

    run(main())


def test_a_client_that_ends_right_behind_its_message_is_answered(run: Run) -> None:
    """The answers to the last read are sent before the connection closes itself."""

    async def main() -> None:
        async with partyline_server() as (partyline, url):
            partyline.site.route = echo
            async with connected(url) as peer:
                client = await websocket(peer, "/")
                await client.say("a", "b")
                peer.transport.write_eof()
                assert [await client.text() for _ in range(2)] == ["a", "b"]
            await nothing_is_held(partyline)

    run(main())
