"""Against the npm parsers: we read what they write, they read what we write, and in JSON both write the same."""

from __future__ import annotations

from typing import Any

import pytest

from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Messages, Parser
from tests.vectors.node import from_plain, run, vectors

from .values import read_all

PARSERS: list[tuple[str, int, Parser]] = [("socketio5", 5, JSON), ("socketio4", 4, JSON), ("msgpack", 5, MSGPACK)]


def meaning(packet: dict[str, Any], protocol: int) -> tuple[Any, ...]:
    """One of their packets as `seen` gives one of ours."""
    namespace, data, number = packet["nsp"], packet.get("data"), packet.get("id")
    match packet["type"]:
        case 0:
            if protocol == 4 and "?" in namespace:
                return ("connect", namespace.partition("?")[0], {"token": "a b", "x": "1"})
            return ("connect", namespace, data)
        case 1:
            return ("disconnect", namespace)
        case 4:
            return ("connect_error", namespace, data)
        case 2 | 5:
            return ("event", namespace, number, data[0], data[1:])
    return ("ack", namespace, number, data)


def write(parser: Parser, packet: dict[str, Any], protocol: int) -> Messages | None:
    """The same packet by us; None for what only a client writes."""
    namespace, data = packet["nsp"], packet.get("data")
    match packet["type"]:
        case 0 if data is None and "?" not in namespace:
            return parser.connect(namespace)
        case 0 if data and "sid" in data:
            return parser.connect(namespace, data["sid"], data.get("pid"))
        case 1:
            return parser.disconnect(namespace)
        case 4 if isinstance(data, str):
            return parser.connect_error(namespace, data, protocol=protocol)
        case 4:
            return parser.connect_error(namespace, data["message"], data.get("data"))
        case 2 | 5:
            return parser.event(namespace, data[0], data[1:], packet.get("id"))
        case 3 | 6:
            return parser.ack(namespace, packet["id"], data)
    return None


@pytest.mark.parametrize(("name", "protocol", "parser"), PARSERS, ids=[name for name, *_ in PARSERS])
def test_read(name: str, protocol: int, parser: Parser) -> None:
    """We read what the npm parser writes."""
    rows = from_plain(vectors(name)["packets"])
    assert len(rows) > 100
    for row in rows:
        assert read_all(parser.reader(protocol), tuple(row["messages"])) == meaning(row["packet"], protocol)


@pytest.mark.parametrize(("name", "protocol"), [("socketio5", 5), ("socketio4", 4)])
def test_written_alike(name: str, protocol: int) -> None:
    """In JSON we write the same packet to the byte."""
    for row in from_plain(vectors(name)["packets"]):
        ours = write(JSON, row["packet"], protocol)
        if ours is not None:
            assert list(ours) == row["messages"]


@pytest.mark.check
@pytest.mark.parametrize(("name", "protocol", "parser"), PARSERS, ids=[name for name, *_ in PARSERS])
def test_the_npm_parser_reads_ours(name: str, protocol: int, parser: Parser) -> None:
    """The npm parser reads the same packet from what we write."""
    rows = [row["packet"] for row in from_plain(vectors(name)["packets"])]
    # Values that JavaScript wrote as a Date, or that are too long for a file of vectors.
    rows = [row for row in rows if "date" not in str(row)]
    rows.append({"type": 2, "nsp": "/", "data": ["long", "x" * 70_000, {"a": bytes(70_000)}, list(range(70_000))]})
    asked = [(row, ours) for row in rows if (ours := write(parser, row, protocol)) is not None]
    assert len(asked) > 100
    answer = from_plain(run("read.cjs", {name: [list(ours) for _, ours in asked]}))[name]
    for (row, _), packets in zip(asked, answer, strict=True):
        (packet,) = packets
        assert meaning(packet, protocol) == meaning(row, protocol)
