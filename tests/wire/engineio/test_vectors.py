"""Against the npm parsers: we read what they write, they read what we write, and both write the same."""

from __future__ import annotations

from typing import Any

import pytest

from partyline.wire.engineio import packets, payloads
from partyline.wire.engineio.packets import Packet
from partyline.wire.websocket.frames import Frames
from tests.vectors.node import from_plain, run, vectors

TYPES = {"open": "0", "close": "1", "ping": "2", "pong": "3", "message": "4", "upgrade": "5", "noop": "6"}
PARSERS = [(4, "engineio4"), (3, "engineio3")]


def ours(packet: dict[str, Any]) -> Packet:
    """One of their packets as one of ours."""
    data = packet.get("data", "")
    return data if isinstance(data, bytes) else TYPES[packet["type"]] + data


@pytest.mark.parametrize(("protocol", "name"), PARSERS)
def test_websocket_messages(protocol: int, name: str) -> None:
    """Each packet on a WebSocket is what the npm parser sends."""
    rows = from_plain(vectors(name)["packets"])
    assert len(rows) > 20
    for row in rows:
        packet, message = ours(row["packet"]), row["websocket"]
        if isinstance(message, str):
            assert packets.read_text(message, protocol) == packet == message
        else:
            assert packets.read_binary(message, protocol) == packet
            assert Frames.of([packet], packets.BINARY_HEADS[protocol]).endswith(message)


@pytest.mark.parametrize(("protocol", "name"), PARSERS)
def test_polling_bodies(protocol: int, name: str) -> None:
    """Each polling body is read, and written byte for byte, as by the npm parser."""
    rows = from_plain(vectors(name)["payloads"])
    assert len(rows) > 20
    for row in rows:
        written = [ours(packet) for packet in row["packets"]]
        body = row["body"].encode() if isinstance(row["body"], str) else row["body"]
        octets = isinstance(row["body"], bytes)
        assert payloads.read(body, protocol, octets=octets) == written
        kind = payloads.OCTETS if octets else payloads.TEXT
        assert payloads.write(written, protocol, base64=row.get("base64", False)) == (body, kind)


@pytest.mark.check
def test_the_npm_parsers_read_ours() -> None:
    """The npm parsers read the same packets from bodies that we write."""
    written: list[list[Packet]] = [
        ["4hello"],
        [b"\x00\xff", "4日本🎉", "3probe", b""],
        [f"4{n}" for n in range(16)],
        ["4" + "🎉" * 5000, bytes(range(256)) * 50],
    ]
    asked: dict[str, list[str | bytes]] = {
        "engineio4": [payloads.write(p, 4)[0].decode() for p in written],
        "engineio3": [payloads.write(p, 3, base64=True)[0].decode() for p in written],
    }
    asked["engineio3"] += [body for p in written for body, kind in [payloads.write(p, 3)] if kind == payloads.OCTETS]
    answer = from_plain(run("read.cjs", asked))
    assert [[ours(packet) for packet in body] for body in answer["engineio4"]] == written
    binary = [p for p in written if any(isinstance(packet, bytes) for packet in p)]
    assert [[ours(packet) for packet in body] for body in answer["engineio3"]] == written + binary
