"""A socket as another node sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from partyline.models import Audience
from partyline.socketio.broadcast import Broadcast

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace


class RemoteSocket:
    """A socket on some node, as it was when it was asked for: `id`, `rooms`, `data`."""

    __slots__ = ("_namespace", "data", "id", "rooms")

    def __init__(self, namespace: Namespace, id: str, rooms: Iterable[str], data: dict[str, Any]) -> None:  # noqa: A002
        self._namespace = namespace
        self.id = id
        self.rooms = frozenset(rooms)
        self.data = data

    def __repr__(self) -> str:
        return f"<RemoteSocket {self.id} in {self._namespace.name}>"

    @property
    def _itself(self) -> Broadcast:
        return Broadcast(self._namespace, Audience(frozenset((self.id,))))

    def emit(self, event: str, *arguments: Any) -> None:
        """As `Socket.emit`, wherever it is."""
        self._itself.emit(event, *arguments)

    def join(self, *rooms: str | Iterable[str]) -> None:
        """Let it join rooms."""
        self._itself.sockets_join(*rooms)

    def leave(self, *rooms: str | Iterable[str]) -> None:
        """Let it leave rooms."""
        self._itself.sockets_leave(*rooms)

    def disconnect(self, close: bool = False) -> None:
        """Disconnect it."""
        self._itself.disconnect_sockets(close)
