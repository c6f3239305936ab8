"""The classic form: that of `@socket.io/redis-adapter` (createAdapter) and `@socket.io/redis-emitter`.

Events are MessagePack on a channel of their namespace, or of its room if they are for one room. Everything else is a
request on a second channel and an answer on a third; both are JSON, except events that want acknowledgements, and the
acknowledgements. A request has a number for its kind, on which the form of the answer depends: here a request of
another node is called `<kind>:<its id>`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from partyline.errors import InvalidValue
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
    Form,
    Heard,
    Options,
    Packet,
    Peer,
    Read,
    Written,
    as_buffers,
    buffers,
    flags,
    has_binary,
    name,
    options,
    packed,
    peers,
    shallow,
    short,
    sockets,
    written,
)

_SOCKETS: Final = 0
_ALL_ROOMS: Final = 1
_JOIN: Final = 2
_LEAVE: Final = 3
_DISCONNECT: Final = 4
_FETCH: Final = 5
_SERVER_SIDE: Final = 6
_BROADCAST: Final = 7
_CLIENT_COUNT: Final = 8
_ACK: Final = 9
_EVENT: Final = 2  # the packet's type in Socket.IO


class _Broadcast(msgspec.Struct, array_like=True, gc=False):
    uid: str
    packet: Packet
    options: Options


class _Request(msgspec.Struct, rename={"request": "requestId"}):
    type: int
    uid: str = ""
    request: str = ""
    opts: Options | None = None
    rooms: list[str | int] = []
    close: bool = False
    data: list[Any] = []
    packet: Packet | None = None
    sid: str = ""  # of an older version, for one socket
    room: str | int = ""


class _Answer(msgspec.Struct, rename={"request": "requestId", "count": "clientCount"}):
    request: str
    type: int | None = None
    sockets: list[Any] = []
    count: int = 0
    packet: Any = None
    data: Any = None


_read_broadcast = packed(_Broadcast)
_read_request, _read_packed_request = written(_Request), packed(_Request)
_read_answer, _read_packed_answer = written(_Answer), packed(_Answer)
_pack = msgspec.msgpack.Encoder().encode
_write = msgspec.json.Encoder().encode


class Classic(Form):
    """The form as one node speaks it. `key` is the prefix of all channels, the same for all nodes of a cluster."""

    def __init__(self, node: str, key: str = "socket.io") -> None:
        self.node = node
        self._key = key
        self._own = b"\x93" + _pack(node)  # the beginning of our own events

    # Channels

    def events(self, namespace: str) -> str:
        """The channel for events of a namespace; for those of one room, its name and a # follow."""
        return f"{self._key}#{namespace}#"

    def pattern(self, namespace: str) -> str:
        """The pattern to PSUBSCRIBE to, for this prefix. Wildcards in a name are escaped."""
        return "".join("\\" + sign if sign in "*?[]\\" else sign for sign in self.events(namespace)) + "*"

    def requests(self, namespace: str) -> str:
        """The channel of requests: its subscribers are the nodes that answer."""
        return f"{self._key}-request#{namespace}#"

    def answers(self, namespace: str) -> tuple[str, str]:
        """The channels of answers: the shared one, and this node's own."""
        return f"{self._key}-response#{namespace}#", f"{self._key}-response#{namespace}#{self.node}#"

    def subscriptions(self, namespace: str) -> tuple[dict[str, Read], dict[str, Read]]:
        channels: dict[str, Read] = dict.fromkeys(self.answers(namespace), self.read_answer)
        channels[self.requests(namespace)] = self.read_request
        return {self.pattern(namespace): self.read_event}, channels

    counted = requests

    # Out

    def write(self, message: NodeMessage, to: str = "") -> Written:
        """What to publish, and on which channels; nothing if this form cannot say it. Answers go to all nodes.

        Raises InvalidValue, and whatever msgspec raises.
        """
        namespace = message.namespace
        body: dict[str, Any]
        match message:
            case Emit(request=None):
                packet = {"type": _EVENT, "data": [message.event, *message.arguments], "nsp": namespace}
                channel = self.events(namespace)
                if len(message.rooms) == 1:
                    channel += message.rooms[0] + "#"
                return [(channel, _pack([self.node, packet, options(message, flags(message))]))]
            case Emit():
                packet = {"type": _EVENT, "data": [message.event, *message.arguments], "nsp": namespace}
                body = {"packet": packet, "opts": options(message, flags(message))}
                return [(self.requests(namespace), _pack(self._request(_BROADCAST, message.request) | body))]
            case Fetch():
                return self._ask(namespace, self._request(_FETCH, message.request) | {"opts": options(message)})
            case Move():
                asked: Written = []
                for kind, rooms in ((_LEAVE, message.out_of), (_JOIN, message.into)):
                    if rooms:
                        body = {"opts": options(message), "rooms": rooms}
                        asked += self._ask(namespace, self._request(kind) | body)
                return asked
            case Expel():
                body = {"opts": options(message), "close": message.close}
                return self._ask(namespace, self._request(_DISCONNECT) | body)
            case ServerSide():
                if has_binary(message.arguments):
                    raise InvalidValue(
                        "arguments: bytes cannot be sent to servers of a cluster of the classic form, which writes "
                        "JSON: send them as text (base64)",
                        field="arguments",
                    )
                body = {"data": [message.event, *message.arguments]}
                return self._ask(namespace, self._request(_SERVER_SIDE, message.request) | body)
        return self._answer(message)

    def _request(self, kind: int, request: str | int | None = None) -> dict[str, Any]:
        head: dict[str, Any] = {"uid": self.node, "type": kind}
        return head if request is None else head | {"requestId": request}

    def _ask(self, namespace: str, body: dict[str, Any]) -> Written:
        return [(self.requests(namespace), _write(body))]

    def _answer(self, message: NodeMessage) -> Written:
        channel = self.answers(message.namespace)[0]
        match message:
            case Reached():
                body = {"type": _CLIENT_COUNT, "requestId": _id(message.request), "clientCount": len(message.sockets)}
                return [(channel, _write(body))]
            case Answered():
                first = message.arguments[0] if message.arguments else None
                return [(channel, _pack({"type": _ACK, "requestId": _id(message.request), "packet": first}))]
            case Sockets():
                kind, _, request = str(message.request).partition(":")
                found: list[Any]
                if kind == str(_SOCKETS):
                    return [(channel, _write({"requestId": request, "sockets": [one[0] for one in message.sockets]}))]
                if kind == str(_ALL_ROOMS):
                    found = sorted({room for _, rooms, _ in message.sockets for room in rooms})
                    return [(channel, _write({"requestId": request, "rooms": found}))]
                found = as_buffers(peers(message))
                return [(channel, _write({"requestId": request, "sockets": found}))]
            case ServerSideAnswer():
                body = {"type": _SERVER_SIDE, "requestId": _id(message.request), "data": as_buffers(message.value)}
                return [(channel, _write(body))]
        return []

    # In

    def read_event(self, namespace: str, data: bytes) -> Heard | None:
        """Read a message on a channel of events: its sender and the message. None if it is to be ignored.

        Raises one of UNREADABLE if it is not a message of this form.
        """
        if data.startswith(self._own):
            return None
        short(data)
        said = _read_broadcast(data)
        if said.uid == self.node or said.packet.nsp != namespace:
            return None
        rooms, excluded = said.options.names()
        values = said.packet.data
        shallow(values)
        return said.uid, Emit(namespace, name(values), values[1:], rooms, excluded, said.options.volatile)

    def read_request(self, namespace: str, data: bytes) -> Heard | None:
        """The same for the channel of requests."""
        short(data)
        said = _read_request(data) if data[:1] == b"{" else _read_packed_request(data)
        if said.uid == self.node:
            return None
        if said.sid:
            return self._older(namespace, said)
        rooms, excluded = (said.opts or Options(rooms=said.rooms)).names()
        request = f"{said.type}:{said.request}"
        names = [str(room) for room in said.rooms]
        match said.type:
            case 0 | 5:
                return said.uid, Fetch(namespace, request, rooms, excluded)
            case 1:
                return said.uid, Fetch(namespace, request, [], [])
            case 2:
                return said.uid, Move(namespace, rooms, excluded, names, [])
            case 3:
                return said.uid, Move(namespace, rooms, excluded, [], names)
            case 4:
                return said.uid, Expel(namespace, rooms, excluded, said.close)
            case 6:
                values = buffers(said.data)
                wants = request if said.request else None
                return said.uid, ServerSide(namespace, name(values), values[1:], wants)
            case 7 if said.packet is not None and said.opts is not None:
                if said.packet.nsp != namespace:
                    return None
                values = said.packet.data
                shallow(values)
                wait = said.opts.seconds
                return said.uid, Emit(
                    namespace, name(values), values[1:], rooms, excluded, request=request, seconds=wait
                )
        return None

    def _older(self, namespace: str, said: _Request) -> Heard | None:
        """Read a request for one socket, as older versions write it."""
        rooms = [str(room) for room in (*said.rooms, *([said.room] if said.room != "" else []))]
        match said.type:
            case 2:
                return said.uid, Move(namespace, [said.sid], [], rooms, [], said.sid)
            case 3:
                return said.uid, Move(namespace, [said.sid], [], [], rooms, said.sid)
            case 4:
                return said.uid, Expel(namespace, [said.sid], [], said.close, said.sid)
        return None

    def read_answer(self, namespace: str, data: bytes) -> Heard | None:
        """The same for the channels of answers, which do not name their senders."""
        short(data)
        said = _read_answer(data) if data[:1] == b"{" else _read_packed_answer(data)
        match said.type:
            case None:
                if said.sockets and not isinstance(said.sockets[0], dict):
                    return None  # names only, for a node that asked for these
                found = msgspec.convert(buffers(said.sockets), list[Peer])
                return "", sockets(namespace, said.request, found)
            case 6:
                return "", ServerSideAnswer(namespace, said.request, buffers(said.data))
            case 8:
                return "", Reached(namespace, said.request, [], said.count)
            case 9:
                shallow([said.packet])
                return "", Answered(namespace, said.request, "", [said.packet])
        return None


def _id(request: str | int) -> str:
    """The asking node's id for a request."""
    return str(request).partition(":")[2]
