"""The cluster protocol of our own nodes, over any adapter or bus that carries bytes.

Every node announces itself, so that a node that asks a question knows whose answers to wait for.
Nothing is kept here: a node that is away misses what is sent (at most once, like Socket.IO's own adapters). What must
not get lost goes through the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec

from partyline import log
from partyline.hub.questions import Question
from partyline.hub.timers import Timers
from partyline.interfaces import Adapter, Bus, KnowsNodes
from partyline.metrics import Counters
from partyline.wire.cluster.messages import (
    Answered,
    Gone,
    Here,
    Missing,
    NodeMessage,
    Reached,
    Reply,
    Request,
    ServerSideAnswer,
    Sockets,
)

_log = log.get("cluster")

VERSION: Final = 1
"""Of the messages. Nodes of neighbouring versions work together: a node ignores a message that it does not know."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    to: str  # a node, or "" for all
    message: NodeMessage


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    """The same with a message that this version does not know."""

    sender: str
    to: str
    message: Any


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Envelope).decode
_decode_sealed: Final = msgspec.msgpack.Decoder(_Sealed).decode


class Cluster:
    """This node among the others (`socketio.nodes.Peers`).

    A node not heard from for `patience` is gone; that and `heartbeat` are in seconds. `subject` is what all hear on a
    bus.
    """

    shows_handshakes = False

    def __init__(
        self,
        carrier: Adapter | Bus,
        timers: Timers,
        counters: Counters,
        *,
        subject: str = "nodes",
        heartbeat: float = 2.0,
        patience: float = 5.75,
    ) -> None:
        self._bus = carrier if isinstance(carrier, Bus) else None
        self._subject = subject
        self.node = secrets.token_hex(8) if self._bus is None else self._bus.node
        if self._bus is None and isinstance(carrier, KnowsNodes):
            self.node = carrier.node
            carrier.lost = self.lose
        self.timer_slot = 0
        self._adapter = None if isinstance(carrier, Bus) else carrier
        self._leave = carrier.close
        self._lost = 0  # of what others have said, as far as the operator was told
        self._timers = timers
        self._counters = counters
        self._heartbeat = heartbeat
        self._beat = 0.0  # when the next heartbeat is due
        self._patience = patience
        self._others: dict[str, float] = {}  # nodes, and when they were last heard from
        self._strange: set[str] = set()  # those among them whose version is too far from ours
        self._heard: Callable[[str, NodeMessage], None] = lambda node, message: None
        self.missed: Callable[[], None] = lambda: None  # called when something that others have said is lost
        self.changed: Callable[[str, bool], None] = lambda node, there: None  # called when one has come, or is gone
        self._questions: dict[Request, Question] = {}
        self._number = 0
        self._closed = False

    @property
    def others(self) -> list[str]:
        """The other nodes, sorted."""
        return sorted(self._others)

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        """Begin: `heard(node, message)` gets what others send, except answers. Raises what the adapter raises."""
        self._heard = heard
        if self._bus is not None:
            await self._bus.start(self._said)
            self._bus.listen(self._subject, self._said)
            if self._bus.connected:
                await self._bus.ready()
        elif self._adapter is not None:
            await self._adapter.start(self._received)
        self.send(Here("", first=True, version=VERSION))
        self._timers.set(self, self._timers.now() + self._heartbeat)

    def send(self, message: NodeMessage, to: str = "") -> None:
        """Send something to all others, or to one. Raises TypeError if it cannot be encoded."""
        if self._closed:
            return
        data = _encode(_Envelope(self.node, to, message))
        if self._adapter is not None:
            self._adapter.publish(data)
        elif self._bus is not None and to:
            self._bus.send(to, data)
        elif self._bus is not None:
            self._bus.publish(self._subject, data)

    def ask(self, question: Question, namespace: str, only: str = "") -> Request:
        """The name for a question to the present nodes, or to `only` one; its answers go to `question` until
        `settle`."""
        self._number += 1
        self._questions[self._number] = question
        question.expected.name((only,) if only else self._others)
        return self._number

    def settle(self, request: Request) -> None:
        self._questions.pop(request, None)

    def opened(self, namespace: str) -> None:
        """A namespace exists. Nothing to do: every node hears of all, and says so where it has nobody."""

    def closed(self, namespace: str) -> None:
        """A namespace is gone."""

    def room(self, namespace: str, room: str, there: bool) -> None:
        """A room has got its first member here, or lost its last. Nothing to do: every node hears of all rooms."""

    async def close(self) -> None:
        self.send(Gone(""))
        self._closed = True
        self._timers.cancel(self)
        await self._leave()

    def on_deadline(self, now: float) -> None:
        """Send the next heartbeat, if it is due. A node that was not heard from for so long is gone at once."""
        for node, heard in tuple(self._others.items()):
            if now - heard >= self._patience:
                _log.warning("a node is silent: it counts as gone", node=node)
                self.lose(node)
        if now >= self._beat:
            self._beat = now + self._heartbeat
            self.send(Here("", first=False, version=VERSION))
        if self._bus is not None and (lost := self._bus.lost()) != self._lost:
            _log.warning("messages from other nodes are lost", count=lost - self._lost)
            self._counters.lost += lost - self._lost
            self._lost = lost
            self.missed()
        self._timers.set(self, min([self._beat, *(heard + self._patience for heard in self._others.values())]))

    def lose(self, node: str) -> None:
        """A node is gone."""
        there = self._others.pop(node, None) is not None
        self._strange.discard(node)
        for question in tuple(self._questions.values()):
            question.lost(node)
        if there:
            self.changed(node, False)

    def _said(self, node: str, data: bytes) -> None:
        self._received(data)

    def _received(self, data: bytes) -> None:
        try:
            envelope = _decode(data)
        except msgspec.MsgspecError as error:
            self._unreadable(data, error)
            return
        sender, message = envelope.sender, envelope.message
        if sender == self.node or envelope.to not in ("", self.node) or self._closed:
            return
        if isinstance(message, Gone):
            self.lose(sender)
            return
        self._alive(sender)
        if isinstance(message, Here):
            if abs(message.version - VERSION) > 1 and sender not in self._strange:
                self._strange.add(sender)
                _log.error(
                    "a node of a version that this one cannot work with: upgrade in smaller steps",
                    node=sender,
                    version=message.version,
                    own=VERSION,
                )
            if message.first:
                self.send(Here("", first=False, version=VERSION), sender)
            return
        if isinstance(message, Reached | Answered | Missing | Sockets | ServerSideAnswer | Reply):
            question = self._questions.get(message.request)
            if question is not None:
                question.heard(sender, message)
            return
        try:
            self._heard(sender, message)
        except Exception:
            _log.exception("a message from another node could not be handled", node=sender, kind=type(message).__name__)

    def _unreadable(self, data: bytes, error: Exception) -> None:
        """A message of an unknown kind, which is ignored, or one of another program."""
        self._counters.unreadable += 1
        try:
            sender = _decode_sealed(data).sender
        except msgspec.MsgspecError:
            _log.warning("a message that no node has sent", error=str(error))
            return
        if sender != self.node and not self._closed:
            self._alive(sender)

    def _alive(self, node: str) -> None:
        there = node in self._others
        self._others[node] = self._timers.now()
        if not there:
            self.changed(node, True)
