"""The namespaces of one node among those of the others: actions for all nodes are done here, and sent to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import urlencode

from partyline import log
from partyline.errors import CallTimeout, InvalidValue, PartylineError
from partyline.hub.cluster import Cluster
from partyline.hub.questions import Collected, Expected, Question
from partyline.metrics import Counters
from partyline.models import Audience
from partyline.socketio.acks import Gathering
from partyline.socketio.broadcast import EVERYBODY, RemoteSocket
from partyline.socketio.handlers import awaited
from partyline.socketio.handshake import Handshake
from partyline.wire.cluster.messages import (
    Answered,
    Emit,
    Expel,
    Fetch,
    Missing,
    Move,
    NodeMessage,
    Reached,
    Request,
    ServerSide,
    ServerSideAnswer,
    Sockets,
)
from partyline.wire.socketio.packets import event_values
from partyline.wire.socketio.values import check_integers, in_messagepack, places, plain

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Member

_log = log.get("socketio")

_MOST_WORK: Final = 10_000


class HasNamespaces(Protocol):
    """What this file needs of a server."""

    counters: Counters

    def _existing(self, name: str) -> Namespace | None: ...

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None: ...


class Peers(Protocol):
    """The other nodes, whatever protocol they speak. `shows_handshakes`: they want to see the sockets' handshakes."""

    shows_handshakes: bool

    @property
    def others(self) -> list[str]:
        """The other nodes, sorted; empty if they have no names."""

    async def start(self, heard: Callable[[str, NodeMessage], None]) -> None:
        """Begin: `heard(node, message)` gets what others send, except answers."""

    def send(self, message: NodeMessage, to: str = "") -> None:
        """Send something to all others, or to one that has asked. Raises what encoders raise."""

    def ask(self, question: Question, namespace: str) -> Request:
        """The name for a question; its answers go to `question` until `settle`."""

    def settle(self, request: Request) -> None:
        """No more answers are wanted."""

    def opened(self, namespace: str) -> None:
        """A namespace is there."""

    def closed(self, namespace: str) -> None:
        """A namespace is gone."""

    def room(self, namespace: str, room: str, there: bool) -> None:
        """A room has got its first member here, or lost its last."""

    async def close(self) -> None:
        """Leave. Whatever was sent before still goes out."""


class Nodes:
    """A SocketIO's side of a cluster."""

    def __init__(self, io: HasNamespaces, cluster: Peers) -> None:
        self._io = io
        self._cluster = cluster
        self._working = 0  # questions and server-side events of others in hand

    @property
    def others(self) -> list[str]:
        """The ids of the other nodes, sorted."""
        return self._cluster.others

    def lost(self, node: str) -> None:
        """A node is gone."""
        if isinstance(self._cluster, Cluster):
            self._cluster.lose(node)

    async def start(self) -> None:
        """Begin to listen. Raises what the adapter raises."""
        await self._cluster.start(self._heard)

    async def close(self) -> None:
        """Leave the cluster."""
        await self._cluster.close()

    def opened(self, namespace: Namespace) -> None:
        self._cluster.opened(namespace.name)
        namespace._members.told = partial(self._cluster.room, namespace.name)

    def closed(self, namespace: str) -> None:
        self._cluster.closed(namespace)

    # What this node sends

    def emit(
        self, namespace: Namespace, event: str, arguments: tuple[Any, ...], audience: Audience, *, volatile: bool
    ) -> None:
        """Send an event on the other nodes, too. Raises InvalidValue."""
        rooms, excluded = _rooms(audience)
        self._send_values(
            lambda values: Emit(namespace.name, event, values, rooms, excluded, volatile=volatile, only=audience.only),
            arguments,
        )

    def gather(
        self,
        namespace: Namespace,
        event: str,
        arguments: tuple[Any, ...],
        audience: Audience,
        seconds: float,
        gathering: Gathering,
    ) -> Request:
        """The same, and give their answers to `gathering` until `settle`."""
        number = self._cluster.ask(_Remote(gathering), namespace.name)
        rooms, excluded = _rooms(audience)

        def question(values: list[Any]) -> Emit:
            name, only = namespace.name, audience.only
            return Emit(name, event, values, rooms, excluded, request=number, seconds=seconds, only=only)

        try:
            self._send_values(question, arguments)
        except InvalidValue:
            self._cluster.settle(number)
            raise
        return number

    def settle(self, number: Request) -> None:
        self._cluster.settle(number)

    async def fetch(self, namespace: Namespace, audience: Audience, seconds: float) -> list[RemoteSocket]:
        """The sockets of an audience on the other nodes. Raises CallTimeout if one does not answer."""

        def ask(number: Request) -> None:
            self._send(Fetch(namespace.name, number, *_rooms(audience), audience.only))

        answers = await self._ask(namespace, ask, seconds)
        return [
            RemoteSocket(namespace, identifier, rooms, data)
            for answer in answers
            if isinstance(answer, Sockets)
            for identifier, rooms, data in answer.sockets
        ]

    def move(self, namespace: Namespace, audience: Audience, into: frozenset[str], out_of: frozenset[str]) -> None:
        """Let an audience on the other nodes join and leave rooms."""
        self._send(Move(namespace.name, *_rooms(audience), list(into), list(out_of), audience.only))

    def expel(self, namespace: Namespace, audience: Audience, *, close: bool) -> None:
        """Disconnect an audience on the other nodes."""
        self._send(Expel(namespace.name, *_rooms(audience), close, audience.only))

    def server_side(self, namespace: Namespace, event: str, arguments: tuple[Any, ...]) -> None:
        """An event for the other servers. Raises InvalidValue."""
        event_values(event, (), None)
        self._send_values(lambda values: ServerSide(namespace.name, event, values), arguments)

    async def server_side_call(
        self, namespace: Namespace, event: str, arguments: tuple[Any, ...], seconds: float
    ) -> list[Any]:
        """The same, and gather the answers. Raises CallTimeout."""
        event_values(event, (), None)

        def ask(number: Request) -> None:
            self._send_values(lambda values: ServerSide(namespace.name, event, values, number), arguments)

        answers = await self._ask(namespace, ask, seconds)
        return [answer.value for answer in answers if isinstance(answer, ServerSideAnswer)]

    async def _ask(self, namespace: Namespace, ask: Callable[[Request], None], seconds: float) -> list[NodeMessage]:
        collected = Collected()
        number = self._cluster.ask(collected, namespace.name)
        try:
            ask(number)
            await collected.wait(seconds)
        finally:
            self._cluster.settle(number)
        missing = collected.expected.absent
        if missing:
            raise CallTimeout(
                f"{len(missing)} of the other nodes did not answer within {seconds:g} s",
                answers=tuple(collected.answers),
                missing=tuple(missing),
            )
        return collected.answers

    def _send(self, message: NodeMessage, to: str = "") -> None:
        self._cluster.send(message, to)

    def _send_values(self, make: Callable[[list[Any]], NodeMessage], values: Sequence[Any], to: str = "") -> None:
        """Send a message with an application's values, as clients would get them. Raises InvalidValue."""
        in_messagepack(
            lambda written: self._send(make(written), to), list(values), lambda: places(len(values), event=False)
        )

    # What the others send

    def _heard(self, node: str, message: NodeMessage) -> None:
        namespace = self._io._existing(message.namespace)
        if namespace is None:  # it is not on this node: a question still needs an answer
            self._nobody(node, message)
            return
        match message:
            case Emit(request=None):
                namespace._emit_here(
                    message.event, tuple(message.arguments), _audience(message), volatile=message.volatile
                )
            case Emit():
                self._work(self._gather_here(node, namespace, message))
            case Fetch():
                present = namespace._present(_audience(message))
                sockets = [(one.id, list(one.rooms), _data(one)) for one in present]
                handshakes = [_shown(one.handshake) for one in present] if self._cluster.shows_handshakes else []
                self._send(Sockets(message.namespace, message.request, sockets, handshakes), node)
            case Move():
                namespace._move(_audience(message), frozenset(message.into), frozenset(message.out_of), local=True)
            case Expel():
                namespace._expel(_audience(message), close=message.close, local=True)
            case ServerSide():
                self._work(self._answer(node, namespace, message))
            case _:
                pass

    def _work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for another node."""
        if self._working >= _MOST_WORK:
            self._io.counters.hit("max_node_questions")
            coroutine.close()
            return

        async def counted() -> None:
            try:
                await coroutine
            finally:
                self._working -= 1

        self._working += 1
        self._io._keep(counted())

    def _nobody(self, node: str, message: NodeMessage) -> None:
        if isinstance(message, Fetch):
            self._send(Sockets(message.namespace, message.request, []), node)
        elif isinstance(message, Emit) and message.request is not None:
            self._send(Reached(message.namespace, message.request, []), node)
        elif isinstance(message, ServerSide) and message.request is not None:
            self._send(ServerSideAnswer(message.namespace, message.request, None), node)

    async def _gather_here(self, node: str, namespace: Namespace, message: Emit) -> None:
        """Ask our sockets for another node, and pass on their answers."""
        request = message.request
        assert request is not None

        def answered(socket: str, arguments: list[Any]) -> None:
            try:
                self._send_values(lambda values: Answered(message.namespace, request, socket, values), arguments, node)
            except InvalidValue as error:
                _log.error("an answer cannot be sent to another node", socket=socket, error=error.message)
                gone(socket)

        def gone(socket: str) -> None:
            self._send(Missing(message.namespace, request, socket), node)

        def reached(sockets: list[str]) -> None:
            self._send(Reached(message.namespace, request, sockets), node)

        await namespace._gather_here(
            message.event,
            tuple(message.arguments),
            _audience(message),
            message.seconds,
            Gathering(answered, gone),
            reached,
        )

    async def _answer(self, node: str, namespace: Namespace, message: ServerSide) -> None:
        value: Any = None
        for function in namespace._handlers.server_side.get(message.event, ()):
            try:
                result = await awaited(function(*message.arguments))
                value = result if value is None else value
            except Exception:
                self._io.counters.errors += 1
                _log.exception("a handler of server-side events failed", event_name=message.event)
                value = {"error": "internal"}
        request = message.request
        if request is not None:
            try:
                self._send_values(lambda values: ServerSideAnswer(message.namespace, request, values[0]), [value], node)
            except PartylineError as error:
                _log.error("an answer to a server cannot be sent", event_name=message.event, error=error.message)
                self._send(ServerSideAnswer(message.namespace, request, {"error": "internal"}), node)


class _Remote:
    """The other nodes' part of a gathering."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self.expected: Expected = gathering.expected

    def heard(self, node: str, message: NodeMessage) -> None:
        if isinstance(message, Reached):
            self.expected.answered(node)
            self._gathering.reached(node, message.sockets, message.many)
        elif isinstance(message, Answered):
            if message.socket:
                self._gathering.answered(message.socket, message.arguments)
            else:
                self._gathering.answered_by_one(message.arguments)
        elif isinstance(message, Missing):
            self._gathering.gone(message.socket)

    def lost(self, node: str) -> None:
        self._gathering.lost(node)

    def look(self) -> None:
        self._gathering.look()


@lru_cache(1_000)
def _room(name: str) -> Audience:
    """Those in one room: many events are for few rooms."""
    return Audience(frozenset((name,)))


def _audience(message: Emit | Fetch | Move | Expel) -> Audience:
    if not (message.rooms or message.excluded or message.only):
        return EVERYBODY
    if len(message.rooms) == 1 and not message.excluded and not message.only:
        return _room(message.rooms[0])
    return Audience(frozenset(message.rooms), frozenset(message.excluded), message.only)


def _rooms(audience: Audience) -> tuple[list[str], list[str]]:
    """The rooms of an audience, and those left out. A socket in `besides` is on this node, so it is not sent."""
    return [audience.only] if audience.only else list(audience.rooms), list(audience.excluded)


def _data(socket: Member) -> dict[str, Any]:
    """A socket's data for another node: empty, with a log line, if something in it cannot be encoded."""
    try:
        (data,) = plain([socket.data], ["data"])
        check_integers(data, "data")
    except InvalidValue as error:
        _log.error("a socket is shown to other nodes without its data", socket=socket.id, error=error.message)
        return {}
    return cast("dict[str, Any]", data)


def _shown(handshake: Handshake) -> dict[str, Any]:
    """A socket's handshake, as Node's servers write it."""
    query = handshake.query
    return {
        "headers": handshake.headers,
        "time": time.strftime(
            "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)", time.gmtime(handshake.time)
        ),
        "address": handshake.address,
        "xdomain": "origin" in handshake.headers,
        "secure": handshake.secure,
        "issued": int(handshake.time * 1000),
        "url": "/socket.io/?" + urlencode(query),
        "query": query,
        "auth": handshake.auth,
    }
