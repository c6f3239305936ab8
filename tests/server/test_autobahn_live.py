"""The numbered WebSocket cases against one echo server in this process, on the standard library's loop.

`make conformance` and tests/e2e play them against a process on uvloop. Here the chunks that a case wants refused are
held back, so that the server must fail the connection without them, and the test checks what it holds afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import groupby

import pytest

from partyline import Partyline
from partyline.server.site import Endpoint, Upgrade
from partyline.wire.websocket.codec import Limits
from tests.server.peers import Peer, connected, upgrade
from tests.server.servers import Echo, nothing_is_held, partyline_server
from tests.wire.websocket.autobahn_cases import (
    CASES,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    Case,
    Output,
    OutputReader,
    settled,
    told,
)

pytestmark = pytest.mark.check

LIMITS = Limits(MAX_MESSAGE, MAX_MESSAGE, MAX_FRAGMENTS)
GROUPS = {group: list(cases) for group, cases in groupby(CASES, lambda case: case.id.partition(".")[0])}


class Live:
    """An echo server, and the loop that it and its clients run on."""

    def __init__(self, runner: asyncio.Runner, partyline: Partyline, url: str) -> None:
        self.runner = runner
        self.partyline = partyline
        self.url = url


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    def echo(upgrade: Upgrade) -> Endpoint:
        return Endpoint(Echo(), limits=LIMITS, deflate=True)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        server = partyline_server(outbox_bytes=4 * MAX_MESSAGE, compress_from=126)
        partyline, url = runner.run(server.__aenter__())
        try:
            partyline.site.route = echo
            yield Live(runner, partyline, url)
        finally:
            runner.run(server.__aexit__(None, None, None))


@pytest.mark.parametrize("group", GROUPS)
def test_group(live: Live, group: str) -> None:
    """The server answers every case of the group correctly, and holds nothing afterwards."""

    async def main() -> None:
        for case in GROUPS[group]:
            outputs = await play(case, live.url)
            assert told(settled(outputs, case.expect())) == told(case.expect()), f"{case.id}: {case.claim}"
        await nothing_is_held(live.partyline)

    live.runner.run(main())
    assert live.partyline.counters.errors == 0


async def play(case: Case, url: str) -> list[Output]:
    """Everything the server sends until it ends the connection."""
    offer = [] if case.offer is None else [f"Sec-WebSocket-Extensions: {case.offer}"]
    async with connected(url) as peer:
        await peer.send(upgrade("/echo", *offer))
        answer = await peer.answer()
        assert (answer.status, answer.headers.get("sec-websocket-extensions")) == (101, case.answer)
        reader = OutputReader(deflate=case.answer is not None, window_bits=case.window_bits)
        reading = asyncio.create_task(outputs_of(peer, reader))
        try:
            for count, chunk in enumerate(case.send(), 1):
                await peer.send(chunk)
                if count == case.fail_by or reading.done():
                    break
            return await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def outputs_of(peer: Peer, reader: OutputReader) -> list[Output]:
    outputs: list[Output] = []
    while data := await peer.some():
        outputs += reader.feed(data)
    return outputs
