"""The messages between nodes about their namespaces: one tagged union, whatever its form on the wire.

The names here are the product's. `hub/cluster.py` sends these very structs; the other files of this folder write and
read the forms of Socket.IO's official adapters and of python-socketio.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

Request: TypeAlias = int | str
"""The question that an answer names: our number for it, or another form's name."""


class _NodeMessage(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", gc=False):
    """About one namespace; `""` for the node itself."""

    namespace: str


# A message for one socket names it in `only`; its rooms are then for nodes of an older version, which do not know
# that field and use the room of the socket's id.


class Emit(_NodeMessage, frozen=True, tag=1):
    """Send an event to an audience. With a `request`, gather acknowledgements for `seconds`: Reached, then Answered or
    Missing for each."""

    event: str
    arguments: list[Any]
    rooms: list[str]
    excluded: list[str]
    volatile: bool = False
    request: Request | None = None
    seconds: float = 0.0
    only: str = ""


class Reached(_NodeMessage, frozen=True, tag=2):
    """An event with a request was sent to these sockets of one node, or to `many` sockets without names."""

    request: Request
    sockets: list[str]
    many: int = 0


class Answered(_NodeMessage, frozen=True, tag=3):
    """One of these sockets has acknowledged."""

    request: Request
    socket: str
    arguments: list[Any]


class Missing(_NodeMessage, frozen=True, tag=4):
    """One of these sockets has gone."""

    request: Request
    socket: str


class Fetch(_NodeMessage, frozen=True, tag=5):
    """Ask for an audience. Answered by Sockets."""

    request: Request
    rooms: list[str]
    excluded: list[str]
    only: str = ""


class Sockets(_NodeMessage, frozen=True, tag=6):
    """The sockets of one node: ids, rooms, data and handshakes."""

    request: Request
    sockets: list[tuple[str, list[str], dict[str, Any]]]
    handshakes: list[dict[str, Any]] = []  # of the same sockets, with Node's names for the fields


class Move(_NodeMessage, frozen=True, tag=7):
    """Let an audience join and leave rooms."""

    rooms: list[str]
    excluded: list[str]
    into: list[str]
    out_of: list[str]
    only: str = ""


class Expel(_NodeMessage, frozen=True, tag=8):
    """Disconnect an audience."""

    rooms: list[str]
    excluded: list[str]
    close: bool
    only: str = ""


class ServerSide(_NodeMessage, frozen=True, tag=9):
    """An event for the servers themselves. With a `request` it wants a ServerSideAnswer."""

    event: str
    arguments: list[Any]
    request: Request | None = None


class ServerSideAnswer(_NodeMessage, frozen=True, tag=10):
    """A server's answer."""

    request: Request
    value: Any


class Here(_NodeMessage, frozen=True, tag=11):
    """A node is alive; `first` if it has just started and wants to hear of the others. `version` is that of its
    messages; 0 for nodes too old to say."""

    first: bool
    version: int = 0


class Gone(_NodeMessage, frozen=True, tag=12):
    """A node leaves."""


# Between servers, besides their namespaces: `namespace` is the subject.


class Say(_NodeMessage, frozen=True, tag=13):
    """Something that nobody answers."""

    data: bytes


class Ask(_NodeMessage, frozen=True, tag=14):
    """Something that wants a Reply."""

    request: Request
    data: bytes


class Reply(_NodeMessage, frozen=True, tag=15):
    """An answer; `data` is None if the node has none, or does not know the subject."""

    request: Request
    data: bytes | None


NodeMessage: TypeAlias = (
    Emit
    | Reached
    | Answered
    | Missing
    | Fetch
    | Sockets
    | Move
    | Expel
    | ServerSide
    | ServerSideAnswer
    | Here
    | Gone
    | Say
    | Ask
    | Reply
)
