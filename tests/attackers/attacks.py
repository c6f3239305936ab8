"""Attacks of strangers on a server, one row each.

`python -m tests.attackers.attacks PORT ATTACK COUNT [tls]` attacks until it is ended, with COUNT connections at once,
each opened again a little after the server has ended it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, product

from .wire import Peer, frames, handshake, text

V1 = ("Sec-WebSocket-Protocol: partyline.v1",)
SOCKETIO = "/socket.io/?EIO=4&transport=websocket"
TOGETHER = 256 * 1024  # bytes of one write

Attack = Callable[[Peer], Awaitable[None]]


def _many(data: bytes) -> bytes:
    return data * max(1, TOGETHER // len(data))


def _squeezed(data: bytes) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def v1(data: bytes, *headers: str) -> Attack:
    """Flood /v1/ws with these bytes."""
    blob = _many(data)

    async def attack(peer: Peer) -> None:
        await peer.upgrade("/v1/ws", (*V1, *headers))
        await peer.flood(blob)

    return attack


def socketio(data: bytes, *first: str) -> Attack:
    """Flood a Socket.IO connection on WebSocket, after these packets."""
    blob = _many(data)

    async def attack(peer: Peer) -> None:
        await peer.upgrade(SOCKETIO)
        await peer.until(b'"maxPayload"')
        for packet in first:
            await peer.write(text(packet))
            await peer.until(b"sid")
        await peer.flood(blob)

    return attack


def http(data: bytes) -> Attack:
    """Write these bytes again and again on a fresh connection, and read the answers."""
    blob = _many(data)

    async def attack(peer: Peer) -> None:
        await peer.flood(blob)

    return attack


def one(data: bytes) -> Attack:
    """Write these bytes once and wait for the answer; then start again at once."""

    async def attack(peer: Peer) -> None:
        await peer.write(data)
        await peer.reader.read(65536)
        peer.close()

    return attack


def asking(data: bytes) -> Attack:
    """Write these bytes, wait for the answer, and again on the same connection."""

    async def attack(peer: Peer) -> None:
        while True:
            await peer.write(data)
            if not await peer.reader.read(65536):
                return

    return attack


async def leaving(peer: Peer) -> None:
    """Come, say nothing, and go."""


async def dripping(peer: Peer) -> None:
    """Pongs, a few in each read, so that no single read is large."""
    await peer.upgrade("/v1/ws", V1)
    while True:
        await peer.write(frames(10) * 20)
        await asyncio.sleep(0)


async def patterns(peer: Peer) -> None:
    """Subscribe to as many patterns as are accepted, all of which cover one topic, and replace them with others."""
    await peer.upgrade("/v1/ws", V1)
    tail = ".a" * 12
    names = ["".join(("*" if wild else "a") + "." for wild in mask) + tail[1:] for mask in product((0, 1), repeat=4)]
    names += [".".join("a" for _ in range(length)) + ".>" for length in range(1, 15)]
    commands = [text({"type": kind, "topic": name}) for name in names for kind in ("subscribe", "unsubscribe")]
    await peer.flood(_many(b"".join(commands)))


def _names(count: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ", ".join("".join(name) for name in islice(product(letters, repeat=4), count))


BRACKETS = json.dumps({"type": "publish", "topic": "a", "data": [[]] * 2_000})


GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """An attack, and what it needs of a server."""

    attack: Attack
    idle: bool = False  # it asks for nothing that an open server does for anybody
    open: bool = False  # it needs no credential anywhere: within its rate it is served while there is time
    again: float = 0.5  # seconds until it comes again

    def bounded(self, kind: str) -> bool:
        """Whether it may take no more than a quarter of the loop (docs/decisions/0024)."""
        return self.idle or not (self.open or kind == "open")


ROWS: dict[str, Row] = {
    "pings": Row(v1(frames(9)), idle=True),
    "pings of 125 bytes": Row(v1(frames(9, b"x" * 125)), idle=True),
    "pongs": Row(v1(frames(10)), idle=True),
    "pongs, a few in each read": Row(dripping, idle=True),
    "empty fragments": Row(v1(frames(1, fin=False) + frames(0, fin=False) * 1_000 + frames(0)), idle=True),
    "fragments of a byte": Row(
        v1(frames(1, b"x", fin=False) + frames(0, b"x", fin=False) * 1_000 + frames(0)), idle=True
    ),
    "empty messages": Row(v1(frames(1))),
    "commands": Row(v1(text({"type": "ping", "id": 1}))),
    "unknown commands": Row(v1(text({"type": "?" * 500, "id": 1}))),
    "no JSON": Row(v1(text('{"type":"' + "\\" * 3_000))),
    "brackets": Row(v1(text(BRACKETS))),
    "large messages": Row(v1(text('{"type":"' + "\\\\" * 450_000 + '\\ud800"}'))),
    "large messages that go nowhere": Row(v1(text('{"type":"publish","topic":"a","data":"' + "x" * 900_000 + '"'))),
    "inflation": Row(
        v1(
            frames(1, _squeezed(b'{"type":"' + b"\\\\" * 450_000 + b'"}'), rsv1=True),
            "Sec-WebSocket-Extensions: permessage-deflate",
        )
    ),
    "wrong tokens": Row(v1(text({"type": "auth", "token": "x" * 3_000}))),
    "patterns": Row(patterns),
    "handshakes": Row(one(handshake("/v1/ws", *V1)), idle=True, again=0.0),
    "subprotocols": Row(one(handshake("/v1/ws", "Sec-WebSocket-Protocol: " + _names(5_000))), idle=True, again=0.0),
    "extensions": Row(one(handshake("/v1/ws", "Sec-WebSocket-Extensions: " + _names(5_000))), idle=True, again=0.0),
    "unknown registrations": Row(one(handshake("/ws/" + "0" * 32)), idle=True, again=0.0),
    "unknown sessions": Row(
        asking(
            b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n3"
        ),
        idle=True,
    ),
    "unknown paths": Row(asking(b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"), idle=True),
    "Engine.IO pings": Row(socketio(text("2"), "40/chat,")),
    "Engine.IO pongs": Row(socketio(text("3"), "40/chat,")),
    "Engine.IO before CONNECT": Row(socketio(text("3")), idle=True),
    "large CONNECT": Row(socketio(text("40/chat," + json.dumps({"key": "k" * 900_000}))), idle=True),
    "names": Row(
        socketio(
            text("42/chat,0" + json.dumps(["enter", {"room": "r", "name": "a" + "\u0301\u0323" * 30_000, "key": "k"}])),
            "40/chat,",
        ),
        open=True,
    ),
    "events": Row(socketio(text('42/chat,["typing",true]'), "40/chat,"), open=True),  # the chat lets everybody in
    "requests": Row(http(GET), idle=True),
    "heads": Row(http(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 90 + b"\r\n"), idle=True),
    "garbage": Row(one(b"\x16\x03\x01" * 8_000), idle=True, again=0.0),
    "connections": Row(leaving, open=True, again=0.0),  # nothing can put off accepting them
}


async def main(port: int, name: str, count: int, tls: bool) -> None:
    """Attack until this process is ended."""
    row = ROWS[name]

    async def attacker() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                peer = await Peer.open(port, tls)
                try:
                    await row.attack(peer)
                finally:
                    peer.close()
            await asyncio.sleep(row.again)

    attackers = [asyncio.create_task(attacker()) for _ in range(count)]
    print("attacking", flush=True)
    await asyncio.gather(*attackers)


if __name__ == "__main__":
    os.nice(10)  # real attackers have their own machines
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "tls" in sys.argv[4:]))
