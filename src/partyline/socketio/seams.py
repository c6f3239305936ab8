"""What the parts of Socket.IO know of each other, and no more: each file names here what it needs of those above it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from partyline.hub.delivery import Delivery, Lane
from partyline.interfaces import Connection
from partyline.models import Audience
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.packets import Messages, Parser


class Member(Connection, Protocol):
    """A socket, as rooms, delivery and the log know it."""

    id: str
    data: dict[str, Any]

    @property
    def reachable(self) -> bool:
        """Whether what has waited is still for it."""
        ...

    @property
    def writable(self) -> bool:
        """Whether an event would leave at once."""
        ...

    def write(self, messages: Messages) -> None:
        """Send a packet of its namespace, in order."""
        ...

    def waits(self, size: int) -> None:
        """A packet for it waits for its turn: so much less is read from its client."""
        ...

    def waited(self, size: int) -> None:
        """The packet has had its turn."""
        ...


class Server(Protocol):
    """A server, as its namespaces know it."""

    parser: Parser
    delivery: Delivery


class Space(Protocol):
    """A namespace, as what it says and its log know it."""

    name: str
    lane: Lane
    dynamic: bool

    @property
    def key(self) -> str:
        """Its name among those of all servers in one log."""
        ...

    @property
    def io(self) -> Server: ...

    @property
    def watched(self) -> Collection[Any]:
        """Sockets that want to know what leaves."""
        ...

    def select(self, audience: Audience) -> Collection[Any]:
        """The sockets of an audience, each once. May be a live view."""
        ...

    def tell_outgoing(self, body: Body, sockets: Collection[Any]) -> None:
        """An event has left: tell those of these sockets that want to know."""
        ...

    def broken(self) -> None:
        """An event goes out without a place in the log: no session can go on over it."""
        ...

    def vanish(self) -> None:
        """Go, if nobody is in it any more and nothing of it waits."""
        ...
