"""What a namespace sends, as hub/delivery.py serves it: events for many, packets for one, and what has to follow them.

A namespace is one lane: where something waits for the log or for a large audience, everything after it waits, too.
Volatile events are in no lane.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, cast

from partyline.hub.delivery import Lane, Parcel
from partyline.interfaces import Member as AnyMember
from partyline.models import Policy
from partyline.socketio.dialects import Emission
from partyline.wire.socketio.packets import Messages

if TYPE_CHECKING:
    from partyline.socketio.seams import Member, Space


class EventParcel(Parcel):
    """An event for sockets of a namespace, chosen when it was emitted."""

    __slots__ = ("namespace", "sockets")

    def __init__(
        self, namespace: Space, lane: Lane | None, sockets: Collection[Member], message: Emission | None, size: int
    ) -> None:
        self.lane, self.message, self.size = lane, message, size
        self.policy, self.waited, self.then = Policy.CLOSE, False, None
        self.namespace = namespace
        self.sockets = sockets

    def waits(self) -> None:
        if not self.waited:
            self.waited = True
            self.sockets = list(self.sockets)

    def members(self) -> Collection[AnyMember]:
        return self.still(self.sockets) if self.waited else self.sockets

    def still(self, members: Collection[AnyMember]) -> Collection[AnyMember]:
        sockets = cast("Collection[Member]", members)
        if self.lane is None:  # volatile
            return [socket for socket in sockets if socket.reachable and socket.writable]
        return [socket for socket in sockets if socket.reachable]

    def served(self) -> None:
        if self.namespace.watched:
            assert isinstance(self.message, Emission)
            self.namespace.tell_outgoing(self.message.body, self.sockets)
        if self.namespace.dynamic:
            self.namespace.vanish()

    def joined(self, socket: Member) -> None:
        """A session goes on: this is for it too, if it would come with what was missed."""


class PacketParcel(Parcel):
    """A packet for one socket, that keeps its place among the events. While it waits it counts as an event that does:
    nothing more is read from a client whose answers do not leave."""

    __slots__ = ("_messages", "_namespace", "_socket")

    def __init__(self, namespace: Space, socket: Member, messages: Messages) -> None:
        super().__init__(namespace.lane, None, sum(map(len, messages)))
        self._namespace = namespace
        self._socket = socket
        self._messages = messages

    def waits(self) -> None:
        if not self.waited:
            self.waited = True
            self._socket.waits(self.size)

    def served(self) -> None:
        socket = self._socket
        if socket.reachable:
            socket.write(self._messages)
        if self.waited:
            socket.waited(self.size)
        if self._namespace.dynamic:
            self._namespace.vanish()


class ActionParcel(Parcel):
    """Something that is done once everything before it in a namespace has been served."""

    __slots__ = ("_action", "_namespace")

    def __init__(self, namespace: Space, action: Callable[[], object]) -> None:
        super().__init__(namespace.lane)
        self._namespace = namespace
        self._action = action

    def served(self) -> None:
        try:
            self._action()
        finally:
            self._namespace.vanish()
