"""What nodes send each other: one tagged union, written once, over any adapter that carries bytes.

Every node tells the others that it is there, so that a node that asks a question knows whose answers to wait for.
Nothing is kept here: a node that is away misses what is sent (at most once, like Socket.IO's own adapters). What must
not get lost goes through the log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from partyline import log
from partyline.hub.timers import Timers
from partyline.interfaces import Adapter

_log = log.get("cluster")


class _NodeMessage(msgspec.Struct, frozen=True, array_like=True, tag_field="kind"):
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
    request: int | None = None
    seconds: float = 0.0
    only: str = ""


class Reached(_NodeMessage, frozen=True, tag=2):
    """An event with a request has been sent to these sockets of one node."""

    request: int
    sockets: list[str]


class Answered(_NodeMessage, frozen=True, tag=3):
    """One of them has acknowledged."""

    request: int
    socket: str
    arguments: list[Any]


class Missing(_NodeMessage, frozen=True, tag=4):
    """One of them has gone."""

    request: int
    socket: str


class Fetch(_NodeMessage, frozen=True, tag=5):
    """Who is there? Answered by Sockets."""

    request: int
    rooms: list[str]
    excluded: list[str]
    only: str = ""


class Sockets(_NodeMessage, frozen=True, tag=6):
    """The sockets of one node: id, rooms, data."""

    request: int
    sockets: list[tuple[str, list[str], dict[str, Any]]]


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
    request: int | None = None


class ServerSideAnswer(_NodeMessage, frozen=True, tag=10):
    """What a server answered."""

    request: int
    value: Any


class Here(_NodeMessage, frozen=True, tag=11):
    """A node is there; `first` when it has just come and wants to know which others are."""

    first: bool


class Gone(_NodeMessage, frozen=True, tag=12):
    """A node leaves."""


NodeMessage: TypeAlias = (
    Emit | Reached | Answered | Missing | Fetch | Sockets | Move | Expel | ServerSide | ServerSideAnswer | Here | Gone
)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    to: str  # a node, or "" for all
    message: NodeMessage


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Envelope).decode


class Question(Protocol):
    """A question that waits for answers of nodes."""

    def heard(self, node: str, message: NodeMessage) -> None:
        """One of them has."""
        ...

    def lost(self, node: str) -> None:
        """One of them is gone: it will not answer."""
        ...


class Cluster:
    """This node among the others. `heartbeat` and `patience` (for a node's sign of life) are in seconds."""

    def __init__(self, adapter: Adapter, timers: Timers, *, heartbeat: float = 5.0, patience: float = 12.0) -> None:
        self.node = secrets.token_hex(8)
        self.timer_slot = 0
        self._adapter = adapter
        self._timers = timers
        self._heartbeat = heartbeat
        self._patience = patience
        self._others: dict[str, float] = {}  # nodes, and when they were heard of last
        self._heard: Callable[[str, NodeMessage], None] = lambda node, message: None
        self._questions: dict[int, Question] = {}
        self._number = 0
        self._closed = False

    @property
    def others(self) -> list[str]:
        """The other nodes, sorted."""
        return sorted(self._others)

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        """Begin: `heard(node, message)` gets what others send, except answers. Raises what the adapter raises."""
        self._heard = heard
        await self._adapter.start(self._received)
        self.send(Here("", first=True))
        self._timers.set(self, self._timers.now() + self._heartbeat)

    def send(self, message: NodeMessage, to: str = "") -> None:
        """Send something to all others, or to one. Raises InvalidValue's cause (TypeError) if it has no form."""
        if not self._closed:
            self._adapter.publish(_encode(_Envelope(self.node, to, message)))

    def ask(self, question: Question) -> int:
        """A number for a question; its answers go to `question` until `settle`."""
        self._number += 1
        self._questions[self._number] = question
        return self._number

    def settle(self, number: int) -> None:
        """No more answers are wanted."""
        self._questions.pop(number, None)

    async def close(self) -> None:
        """Leave. What was sent so far still goes out."""
        self.send(Gone(""))
        self._closed = True
        self._timers.cancel(self)
        await self._adapter.close()

    def on_deadline(self, now: float) -> None:
        """The next heartbeat. A node that was not heard of is gone."""
        self.send(Here("", first=False))
        for node, heard in tuple(self._others.items()):
            if now - heard > self._patience:
                _log.warning("a node is silent: it counts as gone", node=node)
                self._lose(node)
        self._timers.set(self, now + self._heartbeat)

    def _lose(self, node: str) -> None:
        self._others.pop(node, None)
        for question in tuple(self._questions.values()):
            question.lost(node)

    def _received(self, data: bytes) -> None:
        try:
            envelope = _decode(data)
        except msgspec.MsgspecError as error:  # another version's, or another program's
            _log.warning("something that is not a message of a node", error=str(error))
            return
        sender, message = envelope.sender, envelope.message
        if sender == self.node or envelope.to not in ("", self.node) or self._closed:
            return
        if isinstance(message, Gone):
            self._lose(sender)
            return
        self._others[sender] = self._timers.now()
        if isinstance(message, Here):
            if message.first:
                self.send(Here("", first=False), sender)
            return
        if isinstance(message, Reached | Answered | Missing | Sockets | ServerSideAnswer):
            question = self._questions.get(message.request)
            if question is not None:
                question.heard(sender, message)
            return
        try:
            self._heard(sender, message)
        except Exception:
            _log.exception("what a node sent could not be done", node=sender, kind=type(message).__name__)


class Collected:
    """A question with one answer from each node."""

    def __init__(self, nodes: list[str]) -> None:
        self.answers: list[NodeMessage] = []
        self.missing = set(nodes)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._look()

    def heard(self, node: str, message: NodeMessage) -> None:
        if node in self.missing:
            self.missing.discard(node)
            self.answers.append(message)
            self._look()

    def lost(self, node: str) -> None:
        self.missing.discard(node)
        self._look()

    async def wait(self, seconds: float) -> None:
        """Return when all have answered, or the time is over: then some are `missing`."""
        await asyncio.wait([self._done], timeout=seconds)

    def _look(self) -> None:
        if not self.missing and not self._done.done():
            self._done.set_result(None)
