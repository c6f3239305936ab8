"""Hostile peers, row 47: what a connection may send before it has authenticated, if it has to."""

from __future__ import annotations

import json

import pytest

from partyline.entries import ApiKey
from partyline.server.websocket import STRANGERS, STRANGERS_BYTES
from partyline.trust.keys import key_hash
from partyline.wire.websocket.frames import PONG, TEXT, frame
from tests.server.conftest import Run
from tests.server.peers import WebSocketPeer, connected, websocket
from tests.server.servers import nothing_is_held, partyline_server

MASK = b"\x01\x02\x03\x04"
V1 = "Sec-WebSocket-Protocol: partyline.v1"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def command(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


async def welcomed(client: WebSocketPeer) -> None:
    """The first frame, which is sent once the client says something."""
    assert json.loads(await client.text())["type"] == "welcome"


def test_47_a_stranger_sends_little(run: Run) -> None:
    """hostile 47: a message above 4 KiB, from its head, and more than 16 KiB in all end a connection that has not
    authenticated, whatever the frames are.
    """

    async def main() -> None:
        async with partyline_server(api_keys=(ApiKey(key_hash("k1")),)) as (partyline, url):
            large = frame(TEXT, bytes(STRANGERS.max_message + 1), key=MASK)
            pings = frame(TEXT, command("ping").encode(), key=MASK)
            for sent, code in (
                (large[:8], 1009),
                (frame(PONG, b"", key=MASK) * (STRANGERS_BYTES // 6 + 1), 4401),
                (pings * (STRANGERS_BYTES // len(pings) + 1), 4401),
            ):
                async with connected(url) as peer:
                    client = await websocket(peer, "/v1/ws", V1)
                    await peer.send(sent)
                    _, close = await client.until_close()
                    assert close.code == code
            assert partyline.site.counters.limits["stranger_bytes"] == 3
            await nothing_is_held(partyline)

    run(main())


def test_47_nothing_of_a_stranger_is_inflated(run: Run) -> None:
    """hostile 47: compression is not agreed on with a connection that has to authenticate, and a compressed frame ends
    it; a connection whose handshake has a credential may compress.
    """

    async def main() -> None:
        async with partyline_server(api_keys=(ApiKey(key_hash("k1")),)) as (_, url):
            async with connected(url) as peer:
                client = await websocket(peer, "/v1/ws", V1, DEFLATE)
                assert "sec-websocket-extensions" not in client.answer.headers
                await peer.send(frame(TEXT, b"\x00", rsv1=True, key=MASK))
                _, close = await client.until_close()
                assert close.code == 1002
            async with connected(url) as peer:
                client = await websocket(peer, "/v1/ws", V1 + ", bearer.k1", DEFLATE)
                assert "permessage-deflate" in client.answer.headers["sec-websocket-extensions"]

    run(main())


@pytest.mark.parametrize("together", [True, False], ids=["in one write", "one by one"])
def test_whoever_has_authenticated_may_send_what_it_likes(run: Run, together: bool) -> None:
    """After `auth`, even in the same write, the usual limits apply: megabytes, in large messages."""

    async def main() -> None:
        async with partyline_server(api_keys=(ApiKey(key_hash("k1")),)) as (partyline, url):
            texts = [command("auth", token="k1", id=0)]
            texts += [command("publish", topic="a", data="x" * 100_000, durable=False, id=n) for n in range(1, 21)]
            async with connected(url) as peer:
                client = await websocket(peer, "/v1/ws", V1)
                for batch in [texts] if together else [[text] for text in texts]:
                    await client.say(*batch)
                await welcomed(client)
                assert [json.loads(await client.text())["id"] for _ in texts] == list(range(21))
                await client.close()
            await nothing_is_held(partyline)

    run(main())
