"""The form of python-socketio: one channel of JSON for all namespaces (`AsyncRedisManager`, 5.14 and newer).

It has events, their acknowledgements by one socket, joins, leaves and disconnects; no questions, no counts. Older
versions wrote pickles: data that does not begin with { is never read.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from partyline.errors import InvalidValue
from partyline.wire.cluster.messages import Answered, Emit, Expel, Move, NodeMessage
from partyline.wire.cluster.shapes import Form, Heard, Read, Written, short, written
from partyline.wire.socketio.attachments import put_in, take_out


class _Said(msgspec.Struct):
    method: str
    host_id: str = ""
    namespace: str | None = None
    event: str = ""
    data: Any = None
    binary: bool = False
    room: str | list[str] | None = None
    skip_sid: str | list[str] | None = None
    callback: tuple[Any, Any, Any] | None = None
    sid: str | None = None
    id: int | None = None
    args: list[Any] = []


_read = written(_Said)
_write = msgspec.json.Encoder().encode


class Python(Form):
    """The form as one server speaks it. `node` is its host_id, `key` the channel."""

    def __init__(self, node: str, key: str = "socketio") -> None:
        self.node = node
        self._key = key

    def always(self) -> dict[str, Read]:
        return {self._key: self.read}

    def write(self, message: NodeMessage, to: str = "") -> Written:
        head = {"namespace": message.namespace, "host_id": self.node}
        return [(self._key, _write(head | body)) for body in self._bodies(message, to)]

    def _bodies(self, message: NodeMessage, to: str) -> list[dict[str, Any]]:
        match message:
            case Emit(request=None):
                data, attachments = take_out(message.arguments)
                written = [data, *(base64.b64encode(one).decode() for one in attachments)] if attachments else data
                return [
                    {
                        "method": "emit",
                        "event": message.event,
                        "data": written,
                        "binary": bool(attachments),
                        "room": _names(message.rooms),
                        "skip_sid": _names(message.excluded),
                        "callback": None,
                    }
                ]
            case Move(only="", into=[]) if message.rooms == message.out_of and not message.excluded:
                return [{"method": "close_room", "room": room} for room in message.rooms]
            case Move():
                moves = (("leave_room", message.out_of), ("enter_room", message.into))
                sid = _single(message)
                return [
                    {"method": method, "sid": sid, "room": room} for method, rooms in moves for room in rooms if sid
                ]
            case Expel() if sid := _single(message):
                return [{"method": "disconnect", "sid": sid}]
            case Answered():
                sid, _, number = str(message.request).rpartition(" ")
                if sid != message.socket:
                    return []
                args = message.arguments
                return [{"method": "callback", "host_id": to, "sid": sid, "id": int(number), "args": args}]
        return []

    def read(self, namespace: str, data: bytes) -> Heard | None:
        """Read a publication, about any namespace. Raises one of UNREADABLE."""
        short(data)
        if data[:1] != b"{":
            raise InvalidValue("it is not JSON: python-socketio before 5.14 writes pickles, which are never read")
        said = _read(data)
        if said.host_id == self.node:
            return None
        message = self._message(said.namespace or "/", said)
        return None if message is None else (said.host_id, message)

    def _message(self, namespace: str, said: _Said) -> NodeMessage | None:
        sid, room = said.sid or "", said.room if isinstance(said.room, str) else ""
        match said.method:
            case "emit":
                return _event(namespace, said)
            case "disconnect":
                return Expel(namespace, [sid], [], close=False, only=sid) if sid else None
            case "enter_room":
                return Move(namespace, [sid], [], [room], [], sid) if sid and room else None
            case "leave_room":
                return Move(namespace, [sid], [], [], [room], sid) if sid and room else None
            case "close_room":
                return Move(namespace, [room], [], [], [room]) if room else None
        return None


def _event(namespace: str, said: _Said) -> Emit:
    values = said.data if isinstance(said.data, list) else [said.data]
    if said.binary:
        if not values or not isinstance(values[0], list) or not all(isinstance(one, str) for one in values[1:]):
            raise InvalidValue("data: binary data must be a list, with its attachments in base64")
        try:
            attachments = [base64.b64decode(one, validate=True) for one in values[1:]]
        except binascii.Error as error:
            raise InvalidValue(f"data: {error}") from None
        values = values[0]
        put_in(values, attachments)
    rooms, excluded = _list(said.room), _list(said.skip_sid)
    if said.callback is None:
        return Emit(namespace, said.event, values, rooms, excluded)
    sid, _, number = said.callback
    if not isinstance(sid, str) or type(number) is not int:
        raise InvalidValue("callback: it must be a socket, a namespace and a number")
    return Emit(namespace, said.event, values, rooms, excluded, request=f"{sid} {number}", seconds=60.0)


def _single(message: Move | Expel) -> str:
    """The socket that a message is for, as far as this form can say it: the only one, or the room of its id."""
    if message.only or message.excluded or len(message.rooms) != 1:
        return message.only
    return message.rooms[0]


def _names(names: list[str]) -> str | list[str] | None:
    return None if not names else names[0] if len(names) == 1 else names


def _list(names: str | list[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else names
