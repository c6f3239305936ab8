"""Broadcast operators: to whom, and how. Each returns a new `Broadcast`, so any of them may be kept and reused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from threading import get_ident
from typing import Any, Protocol

from partyline.models import Audience
from partyline.socketio.seams import Server
from partyline.wire.socketio.packets import event_values
from partyline.wire.socketio.values import frozen

EVERYBODY = Audience()


class Target(Protocol):
    """What broadcasts need of a namespace."""

    name: str

    @property
    def io(self) -> Server: ...

    def _broadcast(
        self, event: str, arguments: tuple[Any, ...], audience: Audience, *, local: bool, volatile: bool
    ) -> None: ...

    async def _gather(
        self, event: str, arguments: tuple[Any, ...], audience: Audience, seconds: float, *, local: bool
    ) -> list[Any]: ...

    async def _fetch(self, audience: Audience, *, local: bool) -> list[RemoteSocket]: ...

    def _move(self, audience: Audience, into: frozenset[str], out_of: frozenset[str], *, local: bool) -> None: ...

    def _expel(self, audience: Audience, *, close: bool, local: bool) -> None: ...


class Broadcast:
    """Some sockets of a namespace, chosen by rooms when an event is emitted.

    `namespace.to("a").to("b").except_("c")` are those in a or b, but not in c. The id of a socket is a room of its own.
    """

    __slots__ = ("_audience", "_local", "_namespace", "_timeout", "_volatile")

    def __init__(self, namespace: Target, audience: Audience = EVERYBODY) -> None:
        self._namespace = namespace
        self._audience = audience
        self._local = False
        self._volatile = False
        self._timeout: float | None = None

    # Whom

    def to(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Add those in any of `rooms` to the ones named before."""
        return self._with(replace(self._audience, rooms=self._audience.rooms | names(rooms)))

    in_ = to

    def except_(self, *rooms: str | Iterable[str]) -> Broadcast:
        """Leave out those in any of `rooms`."""
        return self._with(replace(self._audience, excluded=self._audience.excluded | names(rooms)))

    # How

    @property
    def local(self) -> Broadcast:
        """Only those connected to this node."""
        changed = self._with(self._audience)
        changed._local = True
        return changed

    @property
    def volatile(self) -> Broadcast:
        """Neither keep the event for sockets that are away, nor send it to those that cannot take it at once."""
        changed = self._with(self._audience)
        changed._volatile = True
        return changed

    def compress(self, wanted: bool) -> Broadcast:
        """Socket.IO's operator. It changes nothing: broadcasts are never compressed, since their bytes are shared."""
        return self._with(self._audience)

    def timeout(self, seconds: float) -> Broadcast:
        """How long `call` waits for answers."""
        changed = self._with(self._audience)
        changed._timeout = seconds
        return changed

    def _with(self, audience: Audience) -> Broadcast:
        new = Broadcast(self._namespace, audience)
        new._local, new._volatile, new._timeout = self._local, self._volatile, self._timeout
        return new

    # What

    def emit(self, event: str, *arguments: Any) -> None:
        """Send an event. Never waits, and may be called from any thread.

        Raises InvalidValue if the name is reserved or an argument cannot be sent.
        """
        home = self._namespace.io._home
        if home.thread != get_ident() and home.call(self.emit, *event_values(event, frozen(arguments), None)):
            return
        self._namespace._broadcast(event, arguments, self._audience, local=self._local, volatile=self._volatile)

    def send(self, *arguments: Any) -> None:
        """Send the event `message`."""
        self.emit("message", *arguments)

    async def call(self, event: str, *arguments: Any, timeout: float | None = None) -> list[Any]:  # noqa: ASYNC109
        """Send an event and gather everybody's answer, in the order in which they come.

        Raises CallTimeout after `timeout` seconds (10 unless given here or by `timeout()`), with the answers so far
        in `answers` and the ids of those that did not answer in `missing`. A socket that goes away meanwhile is not
        waited for, and is among the missing. If cancelled, late answers are dropped.
        """
        home = self._namespace.io._home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.call(event, *arguments, timeout=timeout))
        seconds = self._timeout if timeout is None else timeout
        return await self._namespace._gather(
            event, arguments, self._audience, 10.0 if seconds is None else seconds, local=self._local
        )

    async def fetch_sockets(self, *rooms: str | Iterable[str]) -> list[RemoteSocket]:
        """The sockets on all nodes; only those in `rooms` if some are named."""
        home = self._namespace.io._home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.fetch_sockets(*rooms))
        audience = self.to(*rooms)._audience if rooms else self._audience
        return await self._namespace._fetch(audience, local=self._local)

    def sockets_join(self, *rooms: str | Iterable[str]) -> None:
        """Let them join rooms, on all nodes. Raises InvalidValue at the end if one is in too many."""
        self._change_rooms(names(rooms), frozenset())

    def sockets_leave(self, *rooms: str | Iterable[str]) -> None:
        """Let them leave rooms, on all nodes."""
        self._change_rooms(frozenset(), names(rooms))

    def _change_rooms(self, into: frozenset[str], out_of: frozenset[str]) -> None:
        home = self._namespace.io._home
        if home.thread == get_ident() or not home.call(self._change_rooms, into, out_of):
            self._namespace._move(self._audience, into, out_of, local=self._local)

    def disconnect_sockets(self, close: bool = False) -> None:
        """Disconnect them, on all nodes; `close` ends their connections, too."""
        home = self._namespace.io._home
        if home.thread == get_ident() or not home.call(self.disconnect_sockets, close):
            self._namespace._expel(self._audience, close=close, local=self._local)


class RemoteSocket:
    """A socket on some node, as it was when it was asked for: `id`, `rooms`, `data`."""

    __slots__ = ("_namespace", "data", "id", "rooms")

    def __init__(self, namespace: Target, id: str, rooms: Iterable[str], data: dict[str, Any]) -> None:  # noqa: A002
        self._namespace = namespace
        self.id = id
        self.rooms = frozenset(rooms)
        self.data = data

    def __repr__(self) -> str:
        return f"<RemoteSocket {self.id} in {self._namespace.name}>"

    @property
    def _itself(self) -> Broadcast:
        return Broadcast(self._namespace, Audience(only=self.id))

    def emit(self, event: str, *arguments: Any) -> None:
        """As `Socket.emit`, whichever node it is on."""
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


def names(rooms: Iterable[str | Iterable[str]]) -> frozenset[str]:
    """Rooms given one by one or as lists. Raises TypeError for a room that is not text."""
    found: set[str] = set()
    for room in rooms:
        found.update((room,) if isinstance(room, str) else room)
    if not all(isinstance(room, str) for room in found):
        raise TypeError(f"rooms must be strings: {sorted(map(repr, found))}")
    return frozenset(found)
