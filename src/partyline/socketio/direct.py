"""Events sent through a socket: to its client, with options, and to everybody else."""

from __future__ import annotations

from collections.abc import Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from partyline.models import Audience
from partyline.socketio.broadcast import Broadcast
from partyline.wire.socketio.packets import event_values
from partyline.wire.socketio.values import frozen

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Member

CALL_TIMEOUT: Final = 10.0  # seconds


class Besides:
    """Operators that reach everybody but one socket."""

    __slots__ = ()

    @property
    def broadcast(self) -> Broadcast:
        """Everybody in the namespace but this socket."""
        raise NotImplementedError

    def to(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Those in any of the rooms, except this socket."""
        return self.broadcast.to(*rooms)

    in_ = to

    def except_(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Everybody except this socket and those in any of the rooms."""
        return self.broadcast.except_(*rooms)

    @property
    def local(self) -> Broadcast:
        """Everybody else on this node."""
        return self.broadcast.local


class Direct(Besides):
    """Events to one socket, with options. With rooms it becomes a `Broadcast`."""

    __slots__ = ("_namespace", "_seconds", "_socket", "_volatile")

    def __init__(
        self, socket: Member, namespace: Namespace, *, volatile: bool = False, seconds: float | None = None
    ) -> None:
        self._socket = socket
        self._namespace = namespace
        self._volatile = volatile
        self._seconds = seconds

    @property
    def volatile(self) -> Direct:
        """Drop the event if the client cannot take it at once."""
        return Direct(self._socket, self._namespace, volatile=True, seconds=self._seconds)

    def timeout(self, seconds: float) -> Direct:
        """How long `call` waits."""
        return Direct(self._socket, self._namespace, volatile=self._volatile, seconds=seconds)

    def compress(self, wanted: bool) -> Direct:
        """As `Socket.compress`."""
        return self

    @property
    def broadcast(self) -> Broadcast:
        """Everybody else, with the same options."""
        others = Broadcast(self._namespace, Audience(besides=self._socket.id))
        if self._volatile:
            others = others.volatile
        return others if self._seconds is None else others.timeout(self._seconds)

    def emit(self, event: str, *arguments: Any) -> None:
        """As `Socket.emit`."""
        home = self._namespace.io._home
        if home.thread != get_ident() and home.call(self.emit, *event_values(event, frozen(arguments), None)):
            return
        if not self._volatile:
            self._socket.emit(event, *arguments)
        elif self._socket.writable:
            self._namespace._emit_to(self._socket, event, arguments, volatile=True)

    def send(self, *arguments: Any) -> None:
        """Send the event `message`."""
        self.emit("message", *arguments)

    async def call(self, event: str, *arguments: Any) -> Any:
        """As `Socket.call`."""
        seconds = CALL_TIMEOUT if self._seconds is None else self._seconds
        return await self._socket.call(event, *arguments, timeout=seconds)
