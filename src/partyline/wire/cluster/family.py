"""The messages that the sharded and the streams form share: a number for the kind, and its data.

This file has their meaning; `sharded.py` and `streams.py` have their transport.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from partyline.wire.cluster.messages import (
    Answered,
    Emit,
    Expel,
    Fetch,
    Move,
    NodeMessage,
    Reached,
    ServerSide,
    ServerSideAnswer,
    Sockets,
)
from partyline.wire.cluster.shapes import (
    Options,
    Packet,
    Peer,
    flags,
    has_binary,
    name,
    options,
    packed,
    peers,
    shallow,
    sockets,
    written,
)

BROADCAST: Final = 3
_JOIN: Final = 4
_LEAVE: Final = 5
_DISCONNECT: Final = 6
_FETCH: Final = 7
_SOCKETS: Final = 8
_SERVER_SIDE: Final = 9
_SERVER_SIDE_ANSWER: Final = 10
_CLIENT_COUNT: Final = 11
_ACK: Final = 12
ANSWERS: Final = frozenset((_SOCKETS, _SERVER_SIDE_ANSWER, _CLIENT_COUNT, _ACK))
_WITH_VALUES: Final = frozenset((BROADCAST, _SOCKETS, _SERVER_SIDE, _SERVER_SIDE_ANSWER, _ACK))
_EVENT: Final = 2  # the packet's type in Socket.IO


class _Data(msgspec.Struct, rename={"request": "requestId", "count": "clientCount"}):
    opts: Options = msgspec.field(default_factory=Options)
    request: str = ""
    rooms: list[str | int] = []
    close: bool = False
    packet: Any = None
    sockets: list[Peer] = []
    count: int = 0


pack: Final = msgspec.msgpack.Encoder().encode
text: Final = msgspec.json.Encoder().encode
read_packed: Final[Callable[[bytes], _Data]] = packed(_Data)
read_text: Final[Callable[[bytes], _Data]] = written(_Data)


def binary(kind: int, data: dict[str, Any]) -> bool:
    """Whether it needs a binary encoding. Only kinds that carry applications' values are searched."""
    return kind in _WITH_VALUES and has_binary(data)


def write(message: NodeMessage) -> list[tuple[int, dict[str, Any]]]:
    """The kinds and data of the one or two messages to write; none if this form cannot say it."""
    data: dict[str, Any]
    match message:
        case Emit():
            packet = {"type": _EVENT, "data": [message.event, *message.arguments]}
            data = {"packet": packet, "opts": options(message, flags(message))}
            return [(BROADCAST, data if message.request is None else data | {"requestId": message.request})]
        case Move():
            audience = options(message, {})
            moves = [(_LEAVE, message.out_of), (_JOIN, message.into)]
            return [(kind, {"opts": audience, "rooms": rooms}) for kind, rooms in moves if rooms]
        case Expel():
            return [(_DISCONNECT, {"opts": options(message, {}), "close": message.close})]
        case Fetch():
            return [(_FETCH, {"opts": options(message, {}), "requestId": message.request})]
        case ServerSide():
            data = {"packet": [message.event, *message.arguments]}
            return [(_SERVER_SIDE, data if message.request is None else data | {"requestId": message.request})]
        case Sockets():
            return [(_SOCKETS, {"requestId": message.request, "sockets": peers(message)})]
        case ServerSideAnswer():
            return [(_SERVER_SIDE_ANSWER, {"requestId": message.request, "packet": message.value})]
        case Reached():
            return [(_CLIENT_COUNT, {"requestId": message.request, "clientCount": len(message.sockets)})]
        case Answered():
            first = message.arguments[0] if message.arguments else None
            return [(_ACK, {"requestId": message.request, "packet": first})]
    return []


def read(namespace: str, kind: int, data: _Data) -> NodeMessage | None:
    """The message. None for an unknown kind; raises one of UNREADABLE."""
    rooms, excluded = data.opts.names()
    shallow([data.packet])
    match kind:
        case 3:
            values = msgspec.convert(data.packet, Packet).data
            wanted = data.request or None
            return Emit(
                namespace,
                name(values),
                values[1:],
                rooms,
                excluded,
                volatile=data.opts.volatile,
                request=wanted,
                seconds=data.opts.seconds if wanted else 0.0,
            )
        case 4:
            return Move(namespace, rooms, excluded, [str(room) for room in data.rooms], [])
        case 5:
            return Move(namespace, rooms, excluded, [], [str(room) for room in data.rooms])
        case 6:
            return Expel(namespace, rooms, excluded, data.close)
        case 7:
            return Fetch(namespace, data.request, rooms, excluded)
        case 8:
            return sockets(namespace, data.request, data.sockets)
        case 9:
            values = msgspec.convert(data.packet, list[Any])
            return ServerSide(namespace, name(values), values[1:], data.request or None)
        case 10:
            return ServerSideAnswer(namespace, data.request, data.packet)
        case 11:
            return Reached(namespace, data.request, [], data.count)
        case 12:
            return Answered(namespace, data.request, "", [data.packet])
    return None
