"""The streams form: that of `@socket.io/redis-streams-adapter`, with `streamCount` 1.

Events without acknowledgements, joins, leaves and disconnects are entries of one stream of Redis. Questions and answers
are published, always as MessagePack.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from partyline.errors import InvalidValue
from partyline.wire.cluster import family
from partyline.wire.cluster.messages import Emit, Expel, Move, NodeMessage
from partyline.wire.cluster.shapes import Form, Heard, Read, Written, packed, short
from partyline.wire.cluster.sharded import channel, read

MOST_ENTRIES: Final = 10_000
"""About how many entries a stream keeps, as with Node's adapter."""
_SEQUENCE: Final = 64  # bits of the second half of an id
_OFFSET: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class Session(msgspec.Struct, omit_defaults=True):
    """A client that may come back, as Node's servers keep it in Redis. They leave out the later ones, which are ours,
    and ignore them."""

    sid: str
    pid: str
    rooms: list[str | int] = []
    data: Any = None
    nsp: str = ""
    offset: str = ""  # up to which its client has everything, should it name none
    left: str = ""  # the newest entry that its server had read when it left
    uid: str = ""  # of that server, and the number of the newest entry that it had written
    n: int = 0


_read_session = packed(Session)


class Streams(Form):
    """The form as one node speaks it. `stream` is Node's `streamName`."""

    def __init__(self, node: str, key: str = "socket.io", stream: str = "socket.io", *, sharded: bool = False) -> None:
        self.node = node
        self.sharded = sharded
        self._key = key
        self.stream = stream

    def counted(self, namespace: str) -> str:
        return channel(self._key, namespace)

    def subscriptions(self, namespace: str) -> tuple[dict[str, Read], dict[str, Read]]:
        """No patterns, and the channels of a namespace with their readers."""
        return {}, dict.fromkeys((channel(self._key, namespace), channel(self._key, namespace, self.node)), self.read)

    def write(self, message: NodeMessage, to: str = "") -> Written:
        if self._kept(message):
            return []
        return [
            (
                channel(self._key, message.namespace, *([to] if kind in family.ANSWERS else [])),
                family.pack({"type": kind, "data": data, "uid": self.node, "nsp": message.namespace}),
            )
            for kind, data in family.write(message)
        ]

    def entries(self, message: NodeMessage, number: int = 0) -> list[tuple[str | bytes, ...]]:
        """The commands that add a message to the stream; none for messages that are published.

        With a `number`, by which this node knows its own entry again; Node ignores that field.
        """
        if not self._kept(message):
            return []
        head = ("XADD", self.stream, "MAXLEN", "~", str(MOST_ENTRIES), "*", "uid", self.node, "nsp", message.namespace)
        tail = ("n", str(number)) if number else ()
        return [(*head, "type", str(kind), "data", _data(kind, data), *tail) for kind, data in family.write(message)]

    @staticmethod
    def _kept(message: NodeMessage) -> bool:
        return isinstance(message, Move | Expel) or (isinstance(message, Emit) and message.request is None)

    def read(self, namespace: str, data: bytes) -> Heard | None:
        """Read a publication."""
        said = read(data, self.node, namespace)
        return None if said is None else (said[0], said[2])

    @staticmethod
    def number(fields: Sequence[bytes], node: str) -> int:
        """The number of a node's entry; 0 if it is another node's, or has none."""
        said = dict(zip(fields[::2], fields[1::2], strict=False))
        number = said.get(b"n", b"")
        return int(number) if said.get(b"uid") == node.encode() and number.isdigit() and len(number) < 20 else 0

    def read_entry(self, fields: Sequence[bytes], *, own: bool = False) -> Heard | None:
        """Read an entry of the stream: names and values in turn. None if it is not a message at all, or ours and not
        wanted.

        Raises one of UNREADABLE.
        """
        said = dict(zip(fields[::2], fields[1::2], strict=False))
        sender = said.get(b"uid", b"").decode()
        if b"nsp" not in said or (sender == self.node and not own):
            return None
        data = said.get(b"data", b"{}")
        short(data)
        number = said.get(b"type", b"")
        if not number.isdigit() or len(number) > 3:
            raise InvalidValue("type: it must be a number")
        if data[:1] == b"{":
            read_data = family.read_text(data)
        else:
            try:
                read_data = family.read_packed(base64.b64decode(data, validate=True))
            except binascii.Error as error:
                raise InvalidValue(f"data: {error}") from None
        message = family.read(said[b"nsp"].decode(), int(number), read_data)
        return None if message is None else (sender, message)


def is_offset(text: object) -> bool:
    """Whether this may be the id of an entry, as clients get them."""
    return isinstance(text, str) and _OFFSET.fullmatch(text) is not None


def offset_number(identifier: str) -> int:
    """The id of an entry as a number that grows with it."""
    milliseconds, _, sequence = identifier.partition("-")
    return int(milliseconds) << _SEQUENCE | int(sequence or 0)


def offset_text(number: int) -> str:
    """The id again."""
    return f"{number >> _SEQUENCE}-{number & (1 << _SEQUENCE) - 1}"


def session_key(pid: str) -> str:
    """The key of a client's session."""
    return f"sio:session:{pid}"


def write_session(session: Session) -> bytes:
    """Encode a session, as it is kept."""
    return base64.b64encode(family.pack(session))


def read_session(data: bytes) -> Session:
    """Decode a session that a server has kept. Raises one of UNREADABLE."""
    short(data)
    try:
        return _read_session(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise InvalidValue(f"a session is base64: {error}") from None


def _data(kind: int, data: dict[str, Any]) -> bytes:
    return base64.b64encode(family.pack(data)) if family.binary(kind, data) else family.text(data)
