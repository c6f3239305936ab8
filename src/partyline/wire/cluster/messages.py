"""What nodes send each other about their namespaces: one tagged union, whatever form it takes on the wire.

The names here are the product's. `hub/cluster.py` sends these very structs; the other files of this folder write and
read the forms of Socket.IO's official adapters and of python-socketio.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

Request: TypeAlias = int | str
"""What an answer names: the number of a question of ours, or what another form calls it."""


class _NodeMessage(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", gc=False):
    """About one namespace; `""` for the node itself."""

    namespace: str


# What is for one socket alone names it in `only`; its rooms are then for nodes of an older version, which do not know
# that field and go by the room of the socket's id.


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
    """An event with a request has been sent to these sockets of one node; to so `many` where they have no names."""

    request: Request
    sockets: list[str]
    many: int = 0


class Answered(_NodeMessage, frozen=True, tag=3):
    """One of them has acknowledged."""

    request: Request
    socket: str
    arguments: list[Any]


class Missing(_NodeMessage, frozen=True, tag=4):
    """One of them has gone."""

    request: Request
    socket: str


class Fetch(_NodeMessage, frozen=True, tag=5):
    """Who is there? Answered by Sockets."""

    request: Request
    rooms: list[str]
    excluded: list[str]
    only: str = ""


class Sockets(_NodeMessage, frozen=True, tag=6):
    """The sockets of one node: id, rooms, data; and how they came."""

    request: Request
    sockets: list[tuple[str, list[str], dict[str, Any]]]
    handshakes: list[dict[str, Any]] = []  # of the same sockets, as Node names what is in them


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
    """What a server answered."""

    request: Request
    value: Any


class Here(_NodeMessage, frozen=True, tag=11):
    """A node is there; `first` when it has just come and wants to know which others are. `version` is that of what it
    sends; 0 are those that did not say so yet."""

    first: bool
    version: int = 0


class Gone(_NodeMessage, frozen=True, tag=12):
    """A node leaves."""


NodeMessage: TypeAlias = (
    Emit | Reached | Answered | Missing | Fetch | Sockets | Move | Expel | ServerSide | ServerSideAnswer | Here | Gone
)
