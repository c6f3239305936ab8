"""The sharded form: that of `createShardedAdapter` in `@socket.io/redis-adapter`, in its three modes.

A namespace has one channel, each node one for answers to it, and a room perhaps one for events that are only for it.
All servers of a cluster have to use the same mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from partyline.wire.cluster import family
from partyline.wire.cluster.messages import Emit, NodeMessage
from partyline.wire.cluster.shapes import Form, Heard, Read, Written, packed, short, written

Mode = Literal["dynamic", "dynamic-private", "static"]
MODES: Final[tuple[Mode, ...]] = ("dynamic", "dynamic-private", "static")
_ID: Final = 20  # characters of a socket's id, by which JavaScript recognizes the room of one socket


class _Message(msgspec.Struct, gc=False):
    uid: str
    nsp: str
    type: int
    data: msgspec.Raw = msgspec.Raw(b"")


_read_packed: Final[Callable[[bytes], _Message]] = packed(_Message)
_read_text: Final[Callable[[bytes], _Message]] = written(_Message)


def read(data: bytes, node: str, namespace: str) -> tuple[str, int, NodeMessage] | None:
    """The sender, the kind and the message; None for our own, or another namespace's. Raises one of UNREADABLE."""
    short(data)
    in_text = data[:1] == b"{"
    said = (_read_text if in_text else _read_packed)(data)
    if said.uid == node or said.nsp != namespace:
        return None
    raw = bytes(said.data)
    empty = b"{}" if in_text else b"\x80"
    message = family.read(namespace, said.type, (family.read_text if in_text else family.read_packed)(raw or empty))
    return None if message is None else (said.uid, said.type, message)


def channel(key: str, namespace: str, *more: str) -> str:
    """A channel's name."""
    return "#".join((key, namespace, *more, ""))


class Sharded(Form):
    """The form as one node speaks it."""

    sharded = True

    def __init__(self, node: str, key: str = "socket.io", mode: Mode = "dynamic") -> None:
        self.node = node
        self._key = key
        self._mode = mode

    def counted(self, namespace: str) -> str:
        return channel(self._key, namespace)

    def subscriptions(self, namespace: str) -> tuple[dict[str, Read], dict[str, Read]]:
        """No patterns, and the channels of a namespace with their readers."""
        return {}, {
            channel(self._key, namespace): self.read,
            channel(self._key, namespace, self.node): self.read_answer,
        }

    def room(self, namespace: str, room: str) -> str:
        if self._mode == "static" or (self._mode == "dynamic" and len(room.encode("utf-16-le")) == 2 * _ID):
            return ""
        return channel(self._key, namespace, room)

    def write(self, message: NodeMessage, to: str = "") -> Written:
        where = ""
        if isinstance(message, Emit) and message.request is None and len(message.rooms) == 1:
            where = self.room(message.namespace, message.rooms[0])
        asked = family.write(message)
        return [
            (
                where or channel(self._key, message.namespace, *([to] if kind in family.ANSWERS else [])),
                self._bytes(message.namespace, kind, data),
            )
            for kind, data in asked
        ]

    def _bytes(self, namespace: str, kind: int, data: dict[str, Any]) -> bytes:
        body = {"type": kind, "data": data, "uid": self.node, "nsp": namespace}
        return family.pack(body) if family.binary(kind, data) else family.text(body)

    def read(self, namespace: str, data: bytes) -> Heard | None:
        """Read a publication on a namespace's channel, or on a room's."""
        said = read(data, self.node, namespace)
        return None if said is None or said[1] in family.ANSWERS else (said[0], said[2])

    def read_answer(self, namespace: str, data: bytes) -> Heard | None:
        """Read a publication on our own channel: only answers count there."""
        said = read(data, self.node, namespace)
        return (said[0], said[2]) if said is not None and said[1] in family.ANSWERS else None
