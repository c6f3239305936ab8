"""A namespace: its sockets, its rooms, its handlers, and how an event reaches many."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from partyline import log
from partyline.errors import ConfigError, InvalidValue, Overloaded
from partyline.hub.delivery import Lane
from partyline.hub.rooms import Rooms
from partyline.models import Audience, Draft
from partyline.socketio.acks import Gathering, outcome
from partyline.socketio.broadcast import EVERYBODY, Broadcast, RemoteSocket, Target
from partyline.socketio.handlers import AnyFunction, Handlers
from partyline.socketio.journal import ActionParcel, Emission, Entry, EventParcel, Journal, PacketParcel
from partyline.socketio.listening import Listening
from partyline.wire.socketio.attachments import Body
from partyline.wire.socketio.packets import Messages, event_values
from partyline.wire.socketio.values import frozen

if TYPE_CHECKING:
    from partyline.models import Position
    from partyline.socketio.seams import EventLog, Member, Server

_log = log.get("socketio")


class Namespace(Broadcast, Listening):
    """One namespace, from `SocketIO.namespace`. As a `Broadcast` it stands for everybody in it.

    `name` begins with a slash; `params` are a pattern's matches in it; `sockets` are those on this node, by id.
    """

    __slots__ = (
        "__weakref__",
        "_acks",
        "_draft",
        "_entering",
        "_event_log",
        "_gatherings",
        "_handlers",
        "_is_asleep",
        "_is_dynamic",
        "_journal",
        "_lane",
        "_members",
        "_recovers",
        "_shares",
        "_watched",
        "io",
        "name",
        "params",
        "sockets",
    )

    def __init__(
        self,
        io: Server,
        name: str,
        handlers: Handlers | None = None,
        params: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(self)
        self.io = io
        self.name = name
        self.params = params or {}
        self._handlers = Handlers() if handlers is None else handlers
        self._is_dynamic = params is not None
        self._is_asleep = False  # made by a pattern, and empty
        self._recovers = True  # if the server has recovery on
        self._shares = self._is_dynamic  # it shares its handlers with the others of its pattern
        self._entering = 0  # clients on their way in
        self.sockets: dict[str, Member] = {}
        self._members = Rooms()
        self._watched: set[Member] = set()  # sockets with listeners for outgoing events
        self._journal: Journal | None = None
        self._event_log: EventLog | None = None  # the journal, if every emitted event is kept
        self._lane = Lane()  # what it sends, in order
        self._draft = Draft(name, b"", "")  # for events that are not kept
        self._acks = 0
        self._gatherings: dict[int, Gathering] = {}

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    @property
    def _key(self) -> str:
        """Its name among those of all servers in one log."""
        return self.name + self.io._realm

    @property
    def _namespace(self) -> Target:
        return self

    @_namespace.setter
    def _namespace(self, _: Target) -> None:
        """Ignored, to avoid a reference cycle: a namespace of a pattern is gone as soon as nobody holds it."""

    def _own(self) -> Handlers:
        if self._shares:
            self._handlers, self._shares = self._handlers.copy(), False
            self.io._wake(self)
        return self._handlers

    # The log

    async def publish(self, room: str, event: str, *arguments: Any) -> Position:
        """Keep an event in the durable log, then send it to a room; its position, once it is kept.

        Raises InvalidValue; StoreUnavailable, Overloaded or TooManyTopics if it is not kept, and then nobody gets it.
        If cancelled, it is published all the same.
        """
        event_values(event, (), None)
        home = self.io._home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.publish(room, event, *arguments))
        try:
            return await self._kept().publish(self.io.parser.body(event, arguments), room)
        finally:
            self._vanish()

    async def history(self, room: str, *, before: Position | None = None, limit: int = 50) -> list[Entry]:
        """The events published to a room: the newest `limit` (at most 1,000) before a position, oldest first.

        Each has `position`, `event`, `arguments` and `time`. Raises StoreUnavailable, InvalidValue.
        """
        if limit < 1:
            raise InvalidValue(f"limit: {limit} must be 1 or more", field="limit")
        home = self.io._home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.history(room, before=before, limit=limit))
        try:
            return await self._kept().history(room, before, limit)
        finally:
            self._vanish()

    def _kept(self) -> Journal:
        self.io._wake(self)
        if self._journal is None:
            raise ConfigError("there is no log here: build a server with this SocketIO among its extras")
        return self._journal

    # broadcast.Target

    def emit(self, event: str, *arguments: Any) -> None:
        home = self.io._home
        if home.thread != get_ident() and home.call(self.emit, *event_values(event, frozen(arguments), None)):
            return
        self._broadcast(event, arguments, EVERYBODY)

    def _broadcast(
        self,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        *,
        local: bool = False,
        volatile: bool = False,
    ) -> None:
        """Send an event to an audience. Raises InvalidValue."""
        if self._is_asleep and self.io._recovery is not None and not volatile:
            self.io._wake(self)  # sessions that are away may come back for it
        kept = None if volatile else self._event_log
        if kept is not None and not (kept.shared and local):
            kept.emit(event, arguments, audience, local=local)
            return
        nodes = self.io._nodes
        if nodes is not None and not local and audience.only not in self.sockets:
            event_values(event, (), None)
            nodes.emit(self, event, arguments, audience, volatile=volatile)
        self._emit_here(event, arguments, audience, volatile=volatile)

    def _emit_here(self, event: str, arguments: tuple[Any, ...], audience: Audience, *, volatile: bool = False) -> None:
        """Send an event that is not kept to an audience on this node. Raises InvalidValue."""
        if volatile:
            members: Collection[Member] = [member for member in self._select(audience) if member.writable]
            if members:
                self._post(None, self.io.parser.body(event, arguments), members)
            else:
                event_values(event, (), None)  # the name is checked though nobody is there
            return
        members = self._select(audience)
        if members:
            self._post(self._lane, self.io.parser.body(event, arguments), members)
        else:
            event_values(event, (), None)

    def _emit_to(self, socket: Member, event: str, arguments: tuple[Any, ...], *, volatile: bool = False) -> None:
        """Send an event to one socket, even if others are in the room of its id. Raises InvalidValue."""
        if volatile or self._event_log is None:
            self._post(None if volatile else self._lane, self.io.parser.body(event, arguments), (socket,))
        else:
            self._event_log.emit(event, arguments, Audience(only=socket.id), socket)

    def _post(self, lane: Lane | None, body: Body, members: Collection[Member], ack: int | None = None) -> None:
        self.io.counters.published += 1
        emission = Emission(self._draft, None, 0.0, namespace=self.name, body=body, ack=ack)
        self.io._delivery.post(EventParcel(self, lane, members, emission, len(body.data)))

    async def _gather(
        self, event: str, arguments: tuple[Any, ...], audience: Audience, seconds: float, *, local: bool
    ) -> list[Any]:
        """An audience's answers to an event."""
        event_values(event, (), None)
        gathering = Gathering()
        nodes = None if local else self.io._nodes
        request = None if nodes is None else nodes.gather(self, event, arguments, audience, seconds, gathering)
        try:
            await self._gather_here(event, arguments, audience, seconds, gathering)
        finally:
            if nodes is not None and request is not None:
                nodes.settle(request)
        return outcome(gathering.answers, gathering.absent, seconds)

    async def _gather_here(
        self,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        seconds: float,
        gathering: Gathering,
        reached: Callable[[list[str]], None] | None = None,
    ) -> None:
        """Ask this node's sockets; `reached` is told which they are before any of them can answer."""
        number = self._next_ack()
        members = self._present(audience)
        identifiers = [member.id for member in members]
        if reached is not None:
            reached(identifiers)
        self._gatherings[number] = gathering
        for member in members:
            member._asked(1)
        try:
            gathering.reached("", identifiers)
            self._post(self._lane, self.io.parser.body(event, arguments), members, number)
            await gathering.wait(seconds)
        finally:
            del self._gatherings[number]
            for member in members:
                if member.id in gathering.waiting:
                    member._asked(-1)

    async def _fetch(self, audience: Audience, *, local: bool) -> list[RemoteSocket]:
        """The sockets of an audience."""
        here = [RemoteSocket(self, member.id, member.rooms, member.data) for member in self._present(audience)]
        if local or self.io._nodes is None:
            return here
        return here + await self.io._nodes.fetch(self, audience, self.io.nodes_timeout)

    def _move(self, audience: Audience, into: frozenset[str], out_of: frozenset[str], *, local: bool) -> None:
        """Let an audience join and leave rooms. Raises InvalidValue after the last one, if some may not join."""
        if self.io._nodes is not None and not local and audience.only not in self.sockets:
            self.io._nodes.move(self, audience, into, out_of)
        if self.io._recovery is not None:
            self.io._recovery.moved(self, audience, into, out_of)
        refusal: InvalidValue | None = None
        for member in tuple(self._select(audience)):
            self._leave(member, out_of)
            try:
                self._join(member, into)
            except InvalidValue as error:
                refusal = error
        if refusal is not None:
            raise refusal

    def _expel(self, audience: Audience, *, close: bool, local: bool) -> None:
        """Disconnect an audience."""
        if self.io._nodes is not None and not local and audience.only not in self.sockets:
            self.io._nodes.expel(self, audience, close=close)
        if self.io._recovery is not None:
            self.io._recovery.expelled(self, audience)
        for member in tuple(self._select(audience)):
            member.disconnect(close)

    # Between servers

    def on_server_side(self, event: str) -> Callable[[AnyFunction], AnyFunction]:
        """`function(*arguments)` hears what another node sends with `server_side_emit`. To be used as a decorator."""

        def add(function: AnyFunction) -> AnyFunction:
            there = self._handlers.server_side
            there[event] = (*there.get(event, ()), function)
            return function

        return add

    def server_side_emit(self, event: str, *arguments: Any) -> None:
        """Send an event to the other nodes' `on_server_side`. May be called from any thread. Raises InvalidValue."""
        home = self.io._home
        if home.thread != get_ident() and home.call(self.server_side_emit, event, *frozen(arguments)):
            return
        if self.io._nodes is not None:
            self.io._nodes.server_side(self, event, arguments)

    async def server_side_call(self, event: str, *arguments: Any, timeout: float = 5.0) -> list[Any]:  # noqa: ASYNC109
        """The same, and gather the other nodes' answers. Raises CallTimeout after `timeout` seconds."""
        home = self.io._home
        if home.thread not in (0, get_ident()):
            return await home.wait(self.server_side_call(event, *arguments, timeout=timeout))
        if self.io._nodes is None:
            return []
        return await self.io._nodes.server_side_call(self, event, arguments, timeout)

    # Rooms

    def _select(self, audience: Audience) -> Collection[Member]:
        """The sockets of an audience on this node, each once. May be a live view."""
        if audience.only:
            return (self.sockets[audience.only],) if audience.only in self.sockets else ()
        rooms = audience.rooms
        chosen: Collection[Member]
        if not rooms:
            chosen = self.sockets.values()
        elif len(rooms) == 1:
            (room,) = rooms
            chosen = self._in(room)
        else:
            union: dict[Member, None] = {}
            for room in rooms:
                union.update(dict.fromkeys(self._in(room)))
            chosen = union
        if audience.excluded or audience.besides:
            out: set[Member] = set()
            for room in audience.excluded:
                out.update(self._in(room))
            if audience.besides in self.sockets:
                out.add(self.sockets[audience.besides])
            if out:
                chosen = [socket for socket in chosen if socket not in out]
        return chosen

    def _present(self, audience: Audience) -> list[Member]:
        """The sockets of an audience that have been let in. One still in `on_connect` gets events once it is let in,
        but is not shown to anybody, and cannot answer."""
        return [socket for socket in self._select(audience) if socket._welcomed]

    def _in(self, room: str) -> Collection[Member]:
        return cast("Collection[Member]", self._members.members(room))  # nobody else joins these

    def rooms(self) -> list[str]:
        """The rooms that have members on this node, sorted; ids of sockets are among them."""
        return self._members.names()

    def _add(self, socket: Member) -> None:
        """A socket is on its way in."""
        self.sockets[socket.id] = socket
        self._members.join(socket, socket.id)

    def _join(self, socket: Member, rooms: Iterable[str]) -> None:
        """Raises InvalidValue."""
        if not socket.connected:
            return
        most = self.io.rooms_per_connection
        for room in rooms:
            if len(socket.rooms) > most and room not in socket.rooms:  # its own room is one more
                self.io.counters.hit("rooms_per_connection")
                raise InvalidValue(
                    f"a socket may be in {most} rooms (rooms_per_connection)",
                    code="too_many_rooms",
                    limit="rooms_per_connection",
                )
            self._members.join(socket, room)
        if self.io._recovery is not None:
            self.io._recovery.changed(socket)

    def _leave(self, socket: Member, rooms: Iterable[str]) -> None:
        for room in rooms:
            self._members.leave(socket, room)
        if self.io._recovery is not None and socket.connected:
            self.io._recovery.changed(socket)

    def _remove(self, socket: Member, reason: str) -> None:
        """A socket is gone: take it out of all rooms, and stop waiting for it."""
        if self.io._recovery is not None:
            self.io._recovery.left(socket, reason)
        for room in tuple(socket.rooms):
            self._members.leave(socket, room)
        self.sockets.pop(socket.id, None)
        self._watched.discard(socket)
        for gathering in tuple(self._gatherings.values()):
            if socket.id in gathering.waiting:
                gathering.gone(socket.id)
                socket._asked(-1)
        self._vanish()

    def _vanish(self) -> None:
        """Go, if it was made by a pattern, nobody is in it or on the way in, and it has no handlers of its own."""
        if not self._is_dynamic or not self._shares or self.sockets or self._entering or self._is_asleep:
            return
        if not self._lane.parcels:
            self.io._forget(self)

    # Out

    def _next_ack(self) -> int:
        """An id for an acknowledgement, unique in the namespace, so that a broadcast has one for everybody."""
        self._acks += 1
        return self._acks

    def _answered(self, socket: Member, number: int, arguments: Callable[[], list[Any]]) -> None:
        """An acknowledgement of a broadcast. One that nobody waits for is dropped undecoded."""
        gathering = self._gatherings.get(number)
        if gathering is not None and socket.id in gathering.waiting:
            gathering.answered(socket.id, arguments())
            socket._asked(-1)

    def _tell_outgoing(self, body: Body, sockets: Collection[Member]) -> None:
        """An event has left: tell those of these sockets that listen for outgoing events."""
        watching = self._watched.intersection(sockets)
        if watching:
            event, *arguments = self.io.parser.values(body)
            for socket in watching:
                if socket._reachable:
                    socket._tell_outgoing(event, tuple(arguments))

    def _in_turn(self, socket: Member, messages: Messages, *, must: bool = False) -> None:
        """Send a packet to one socket, after the events that wait. If too much waits, its connection is closed, unless
        the packet `must` wait."""
        if not self._lane.parcels:
            socket._write(messages)
            return
        try:
            self.io._delivery.post(PacketParcel(self, socket, messages), must=must)
        except Overloaded:
            socket.close(1013, "too much waits for the log")

    def _after(self, action: Callable[[], object]) -> None:
        """Do something once everything that was sent before has been served."""
        if not self._lane.parcels:
            action()
        else:
            self.io._delivery.post(ActionParcel(self, action), must=True)

    def _broken(self) -> None:
        """An event goes out without a place in the log: no session can go on over it."""
        if self.io._recovery is not None:
            self.io._recovery.broken(self)

    def _handled(self, socket: Member) -> None:
        """A handler has run: the socket's data may have changed."""
        if self.io._recovery is not None:
            self.io._recovery.changed(socket)
