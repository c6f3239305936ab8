"""SocketIO: the namespaces of one server, and the Engine.IO server beneath them."""

from __future__ import annotations

import asyncio
import base64
import inspect
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from typing import Any, Final
from weakref import WeakValueDictionary

from starlette.routing import BaseRoute

from partyline.adapters.nats.bus import NatsBus
from partyline.adapters.redis_bus import RedisBus
from partyline.config import option
from partyline.engineio.connection import EngineConnection
from partyline.engineio.engine import EngineIO
from partyline.engineio.limits import SessionLimits
from partyline.engineio.receiver import Request
from partyline.errors import CallTimeout, ConfigError
from partyline.hub.cluster import Cluster
from partyline.hub.delivery import Delivery, Parcel
from partyline.interfaces import Adapter, Bus, Dialect, Follows
from partyline.metrics import Counters
from partyline.models import Audience
from partyline.server.home import Home
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.socketio.acks import outcome as in_full
from partyline.socketio.broadcast import RemoteSocket
from partyline.socketio.connection import Multiplexer
from partyline.socketio.handlers import Handlers
from partyline.socketio.joining import NodeCluster, Streaming
from partyline.socketio.journal import EventDialect, Journal
from partyline.socketio.namespace import Namespace
from partyline.socketio.nodes import Nodes
from partyline.socketio.recovery import MemoryTable, Recovery
from partyline.socketio.seams import Recovering
from partyline.wire.cluster.streams import offset_text
from partyline.wire.socketio.msgpack import MSGPACK
from partyline.wire.socketio.packets import JSON, Parser

_PATH: Final = "/socket.io/"
_KINDS: Final = {"str": (r"[^/]+", str), "int": (r"[0-9]{1,18}", int), "path": (r".+", str)}
_HOLE = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::([a-z]+))?\}")

Matcher = Callable[[str, dict[str, Any]], Any]


class SocketIO(Namespace):
    """A Socket.IO server on one path, for `partyline.build(settings, extras=[...])`; itself its main namespace, `/`.

    Times are in seconds; limits that are None follow the server's settings of the same names. `version_3` admits
    clients of Socket.IO 2 (Engine.IO 3). `parser` is "json" or "msgpack", the same for all clients. A client has
    `connect_timeout` for its first CONNECT, and a CONNECT may carry `max_auth_bytes`. At most `max_pending_events`
    events of a connection, and `max_pending_bytes`, wait for handlers; then reading from it pauses. The handlers of a
    disconnected socket have `disconnect_grace` before they are cancelled. With a `recovery_window` events are kept in
    the log, and a client that comes back within it gets what it missed, without passing the middlewares unless
    `skip_middlewares` is False. An `adapter` (an Adapter, a Bus or a NodeCluster) joins other servers; questions to
    them wait `nodes_timeout`. Further arguments are those of `partyline.EngineIO`. Raises ConfigError.
    """

    def __init__(
        self,
        path: str = _PATH,
        *,
        parser: str | Parser = "json",
        connect_timeout: float | None = None,
        max_attachments: int | None = None,
        max_pending_events: int | None = None,
        max_pending_bytes: int | None = None,
        rooms_per_connection: int | None = None,
        namespaces_per_connection: int = 1_000,
        max_auth_bytes: int = 64 * 1024,
        disconnect_grace: float = 5.0,
        recovery_window: float | None = None,
        skip_middlewares: bool = True,
        adapter: Adapter | Bus | NodeCluster | None = None,
        nodes_timeout: float = 5.0,
        **engine: Any,
    ) -> None:
        super().__init__(self, "/")
        self.parser = _parser(parser)
        self.connect_timeout: float
        self.max_attachments: int
        self.max_pending_events: int
        self.max_pending_bytes: int
        self.rooms_per_connection: int
        self._outbox_bytes = 1024 * 1024  # the server's, once there is one
        self.namespaces_per_connection = option(
            "namespaces_per_connection", namespaces_per_connection, like="rooms_per_connection"
        )
        self.max_auth_bytes = option("max_auth_bytes", max_auth_bytes, like="max_message", least=1)
        self.disconnect_grace = option("disconnect_grace", disconnect_grace, like="drain_time")
        self.recovery_window = option("recovery_window", recovery_window, like="ping_timeout")
        self.skip_middlewares = skip_middlewares
        self._recovery: Recovering | None = None
        self._stream: Streaming | None = None  # of the cluster, if its sessions are recovered
        self._nodes: Nodes | None = None
        self.nodes_timeout = option("nodes_timeout", nodes_timeout, like="ping_timeout")
        self._adapter = adapter
        self._akin = False  # whether the others on it have the same log, if that is a shared one
        keeps = isinstance(adapter, NodeCluster) and adapter.keeps
        if adapter is not None and recovery_window is not None and not keeps:
            raise ConfigError(
                "recovery_window: nodes would need one log for all of them, and each has its own: leave it out, or the "
                "adapter; of Node's forms only streams has one",
                field="recovery_window",
            )
        given = {
            "connect_timeout": connect_timeout,
            "max_attachments": max_attachments,
            "max_pending_events": max_pending_events,
            "max_pending_bytes": max_pending_bytes,
            "rooms_per_connection": rooms_per_connection,
        }
        self._given = {name: option(name, value) for name, value in given.items()}
        self.engine = EngineIO(path, accept=self._accept, **engine)
        self._realm = "" if path == _PATH else "," + path  # a comma is in no namespace's name
        self.counters = Counters()
        self._home = Home()
        self._delivery = Delivery(self.counters, lambda found: Parcel())
        self.connections: set[Multiplexer] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # those that may outlive their sockets
        self._namespaces: dict[str, Namespace] = {"/": self}
        self._dynamic: list[_Dynamic] = []
        self._asleep: WeakValueDictionary[str, Namespace] = WeakValueDictionary()  # applications may hold them
        self._dialects: dict[tuple[int, str | None], EventDialect] = {}

    # Namespaces

    def namespace(self, name: str | Matcher) -> Namespace:
        """The namespace of this name, created by the first call.

        A name with holes, such as `/game-{id:int}` (`str`, `int` or `path`), stands for all that match: each is a
        namespace of its own with these handlers, and has the contents of the holes in its `params`. A `str` has no
        slash in it, and ends at the character that follows its hole. A function `matches(name, auth)`, `def` or
        `async def`, decides itself which clients it takes. Raises ConfigError.
        """
        if callable(name):
            return self._add_dynamic(_Dynamic(self, "/*", name, is_pattern=False))
        name = name if name.startswith("/") else "/" + name
        if "{" in name or "}" in name:
            return self._add_dynamic(_Dynamic(self, name, _pattern(name), is_pattern=True))
        if "," in name or "?" in name:
            raise ConfigError(f"namespace: {name!r} must not have , or ? in it: they end a namespace on the wire")
        found = self._namespaces.get(name)
        if found is not None:
            return found
        for dynamic in self._dynamic:
            params = dynamic.matches(name, {}) if dynamic.is_pattern else None
            if params is not None:
                return self._child(name, dynamic, params)
        return self._open(Namespace(self, name))

    def _wake(self, namespace: Namespace) -> None:
        """A namespace of a pattern is needed, though nobody may be in it."""
        if namespace._is_asleep:
            namespace._is_asleep = False
            self._asleep.pop(namespace.name, None)
            self._open(namespace)

    def _named(self, name: str) -> Namespace:
        """The namespace of exactly this name, whatever patterns there are."""
        return self._namespaces.get(name) or self._open(Namespace(self, name))

    def _open(self, namespace: Namespace) -> Namespace:
        self._namespaces[namespace.name] = namespace
        if self._attached:
            self._open_journal(namespace)
        if self._nodes is not None:
            self._nodes.opened(namespace)
        return namespace

    @property
    def _attached(self) -> bool:
        """Whether it belongs to a server yet."""
        return hasattr(self.engine, "site")

    def namespaces(self) -> list[str]:
        """The names of those that exist now, sorted."""
        return sorted(self._namespaces)

    async def _find(self, name: str, auth: dict[str, Any] | None) -> Namespace | None:
        """The namespace that a client asks for, if there is one."""
        found = self._namespaces.get(name)
        if found is not None:
            return found
        for dynamic in self._dynamic:
            params = dynamic.matches(name, {} if auth is None else auth)
            if inspect.isawaitable(params):
                await asyncio.sleep(0)  # as in Handler.step
                params = await params
            if params is not None and params is not False:
                found = self._namespaces.get(name) or self._child(name, dynamic, params)
                self._wake(found)
                return found
        return None

    def _forget(self, namespace: Namespace) -> None:
        """A namespace of a pattern is empty: it lasts only as long as the application holds it."""
        if self._namespaces.get(namespace.name) is namespace:
            del self._namespaces[namespace.name]
            if self._nodes is not None:
                self._nodes.closed(namespace.name)
            if namespace._journal is not None:
                namespace._journal.close()
            namespace._journal = namespace._event_log = None
            namespace._is_asleep = True
            self._asleep[namespace.name] = namespace

    def _add_dynamic(self, dynamic: _Dynamic) -> Namespace:
        self._dynamic.append(dynamic)
        return dynamic

    def _child(self, name: str, dynamic: _Dynamic, params: Any) -> Namespace:
        """A namespace of a pattern, asleep."""
        child = self._asleep.get(name)
        if child is None:
            child = Namespace(self, name, dynamic._handlers, params if isinstance(params, dict) else {})
            child._is_asleep = True
            self._asleep[name] = dynamic.children[name] = child
        return child

    def asgi(self, settings: Any = None) -> Any:
        """This server as an ASGI application of its own, without the relay: a `partyline.Application`.

        `settings` are `partyline.Settings`; None reads them as the command does. Mount it where requests still have its
        `path`: at the root, or in front of another application.
        """
        application = import_module("partyline.mounting").Application  # a layer above this one: not imported at the top
        return application(settings, extras=[self], relay=False)

    # server.site.Extra

    def attach(self, site: Site) -> None:
        """The server is built."""
        self.engine.attach(site)
        self._home = site.home
        self.counters = site.counters
        self._outbox_bytes = site.limits.outbox_bytes
        self._delivery = site.hub.delivery if site.hub is not None else Delivery(self.counters, lambda found: Parcel())
        limits = site.settings_of(SessionLimits)
        for name, value in self._given.items():
            setattr(self, name, getattr(limits, name) if value is None else value)
        if (
            self.recovery_window is not None
            and (self._adapter is None or self._akin)
            and site.hub is not None
            and site.store is not None
        ):
            table = site.sessions or MemoryTable()
            self._recovery = Recovery(site.hub, site.store, table, site.timers, self.recovery_window, self._realm)
        if isinstance(self._adapter, RedisBus | NatsBus):
            self._adapter.counters = site.counters
        if isinstance(self._adapter, NodeCluster):
            joined = self._adapter.join(site.timers, site.counters)
            self._nodes = Nodes(self, joined)
            if self.recovery_window is not None and isinstance(joined, Streaming):
                self._stream = joined
                self._delivery = joined.delivery
                self._recovery = joined.recover(self.recovery_window)
        elif self._adapter is not None:
            self._nodes = Nodes(self, Cluster(self._adapter, site.timers, site.counters))
        for namespace in self._namespaces.values():
            self._open_journal(namespace)
            if self._nodes is not None:
                self._nodes.opened(namespace)

    def _others(self) -> list[str]:
        """The other nodes, as far as they are known."""
        return [] if self._nodes is None else self._nodes.others

    def _lost(self, node: str) -> None:
        """A node is gone."""
        if self._nodes is not None:
            self._nodes.lost(node)

    def _spread(self, bus: Bus, *, recovers: bool) -> None:
        """Join other servers on a bus, unless it has an adapter already; called before it is attached.

        `recovers`: they share the sessions, and the log, too. Raises ConfigError where that cannot be.
        """
        if self._adapter is None:
            if self.recovery_window is not None and not recovers:
                raise ConfigError(
                    "recovery_window: on a bus without a log that all servers share, a session is known to one of them "
                    "only: name a log (--log), or leave it out",
                    field="recovery_window",
                )
            self._adapter, self._akin = bus, True

    # server.site.Background

    async def start(self) -> None:
        """Find the other nodes. Raises what the adapter raises."""
        if self._nodes is not None:
            await self._nodes.start()

    async def stop(self) -> None:
        """Leave them."""
        if self._nodes is not None:
            await self._nodes.close()

    def _open_journal(self, namespace: Namespace) -> None:
        site = self.engine.site
        alone = self._adapter is None or (self._akin and isinstance(site.store, Follows))
        if site.hub is not None and site.store is not None and alone:
            recovery = self._recovery is not None and namespace._recovers
            node = site.node
            namespace._journal = Journal(namespace, site.hub, site.store, recovery=recovery, node=node)
            namespace._event_log = namespace._journal if recovery else None
        elif self._stream is not None and namespace._recovers:
            namespace._event_log = self._stream.journal(namespace)

    def routes(self) -> Sequence[BaseRoute]:
        """Its HTTP path."""
        return self.engine.routes()

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """Its WebSockets."""
        return self.engine.upgrade(upgrade)

    # For its connections

    def _existing(self, name: str) -> Namespace | None:
        """The namespace of this name, if there is one now."""
        return self._namespaces.get(name)

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that may outlive its caller."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, connection: EngineConnection, request: Request) -> Multiplexer:
        made = Multiplexer(self, connection, request)
        self.connections.add(made)
        return made

    def _dialect(self, protocol: int, *, recovery: bool) -> Dialect:
        """The one dialect of all clients that speak alike."""
        store = self.engine.site.store
        epoch = None
        if recovery:
            epoch = "" if self._stream is not None or store is None else store.epoch
        found = self._dialects.get((protocol, epoch))
        if found is None:
            place = offset_text if epoch == "" else f"{epoch}-{{}}".format
            found = EventDialect(self.parser, protocol, None if epoch is None else place)
            self._dialects[protocol, epoch] = found
        return found

    def _new_id(self) -> str:
        """A public id: it names a socket and opens nothing. 120 random bits."""
        return base64.urlsafe_b64encode(os.urandom(15)).decode("ascii")


class _Dynamic(Namespace):
    """A pattern of namespaces made on demand. To emit to it is to emit to each of them."""

    __slots__ = ("children", "is_pattern", "matches")

    def __init__(self, io: SocketIO, name: str, matches: Matcher, *, is_pattern: bool) -> None:
        super().__init__(io, name, Handlers())
        self.matches = matches
        self.is_pattern = is_pattern
        self.children: WeakValueDictionary[str, Namespace] = WeakValueDictionary()

    def _awake(self) -> list[Namespace]:
        return [child for child in self.children.values() if not child._is_asleep]

    def _broadcast(self, event: str, arguments: tuple[Any, ...], audience: Audience, **how: bool) -> None:
        for child in self._awake():
            child._broadcast(event, arguments, audience, **how)

    async def _gather(
        self, event: str, arguments: tuple[Any, ...], audience: Audience, seconds: float, *, local: bool
    ) -> list[Any]:
        children = [child._gather(event, arguments, audience, seconds, local=local) for child in self._awake()]
        answers: list[Any] = []
        missing: list[str] = []
        for outcome in await asyncio.gather(*children, return_exceptions=True):
            if isinstance(outcome, CallTimeout):
                answers += outcome.answers
                missing += outcome.missing
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers += outcome
        return in_full(answers, missing, seconds)

    async def _fetch(self, audience: Audience, *, local: bool) -> list[RemoteSocket]:
        children = [child._fetch(audience, local=local) for child in self._awake()]
        return [socket for sockets in await asyncio.gather(*children) for socket in sockets]

    def _move(self, audience: Audience, into: frozenset[str], out_of: frozenset[str], *, local: bool) -> None:
        for child in self._awake():
            child._move(audience, into, out_of, local=local)

    def _expel(self, audience: Audience, *, close: bool, local: bool) -> None:
        for child in self._awake():
            child._expel(audience, close=close, local=local)


def _parser(parser: str | Parser) -> Parser:
    if not isinstance(parser, str):
        return parser
    known: dict[str, Parser] = {"json": JSON, "msgpack": MSGPACK}
    if parser not in known:
        raise ConfigError(f"parser: {parser!r} must be json or msgpack", field="parser")
    return known[parser]


def _pattern(name: str) -> Matcher:
    kinds: dict[str, Callable[[str], Any]] = {}
    expression, at = "", 0
    for hole in _HOLE.finditer(name):
        kind = hole[2] or "str"
        if kind not in _KINDS or hole[1] in kinds:
            raise ConfigError(f"namespace: {hole[0]} in {name!r} must be a new name and one of {', '.join(_KINDS)}")
        kinds[hole[1]] = _KINDS[kind][1]
        text = _KINDS[kind][0]
        at, before = hole.end(), name[at : hole.start()]
        if kind == "str" and at < len(name):  # it ends at the next character: no backtracking, however long the name
            text = f"[^/{re.escape(name[at])}]+"
        expression += re.escape(before) + f"(?P<{hole[1]}>{text})"
    if "{" in name[at:] or "}" in name[at:]:
        raise ConfigError(f"namespace: {name!r} has a brace that is not part of a hole such as {{id:int}}")
    compiled = re.compile(expression + re.escape(name[at:]))

    def matches(name: str, auth: dict[str, Any]) -> dict[str, Any] | None:
        match = compiled.fullmatch(name)
        return None if match is None else {key: kinds[key](value) for key, value in match.groupdict().items()}

    return matches
