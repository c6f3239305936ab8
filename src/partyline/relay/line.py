"""The WebSocket of v1: one connection, many topics and patterns, commands with answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from partyline import log
from partyline.errors import Conflict, InvalidValue, NotFound, PartylineError, Unauthenticated
from partyline.hub.history import Gap, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Connection, Dialect, Store, View
from partyline.models import Draft, Message, Position, Receipt
from partyline.models import message_id as new_id
from partyline.relay.access import Access
from partyline.server.site import Carrier
from partyline.server.turn import OWN_READ
from partyline.topics import check_subscription, check_topic, is_pattern, is_printable
from partyline.trust.keys import Principal
from partyline.wire import relay as wire
from partyline.wire.json import compact, to_json
from partyline.wire.websocket.deflate import Deflate, deflate
from partyline.wire.websocket.frames import TEXT, frame, text_frame

_log = log.get("relay")

SUBPROTOCOL: Final = "partyline.v1"
MAX_PAGE: Final = 1_000
MAX_PATTERNS: Final = 100  # of one connection
MAX_TTL: Final = 366 * 86_400  # seconds


@dataclass(frozen=True, slots=True, eq=False)
class LineDialect:
    """Messages as v1 `message` frames."""

    epoch: str
    agreed: Deflate | None
    compress_from: int

    def encode(self, message: Message) -> bytes:
        text = to_json(wire.envelope(message, self.epoch, wire.MessageFrame))
        if self.agreed is not None and len(text) >= self.compress_from:
            return frame(TEXT, deflate(text, self.agreed.window_bits), rsv1=True)
        return text_frame(text)


class LineConnection(Connection, Protocol):
    """What carries a line: a WebSocket on whatever transport, or something that stands for one."""

    @property
    def pings(self) -> bool:
        """Whether something tells a quiet client that the server lives."""
        ...

    def send_utf8(self, payload: bytes) -> None:
        """A frame of the line as JSON."""
        ...

    def known(self) -> None:
        """The client has said who it is: the limits of strangers end."""
        ...

    async def drained(self) -> None:
        """Return when there is room for more, or the connection is gone."""
        ...


@lru_cache(maxsize=64)
def _dialect(epoch: str, agreed: Deflate | None, compress_from: int) -> Dialect:
    return LineDialect(epoch, agreed, compress_from)


@dataclass(frozen=True, slots=True)
class LineRules:
    """Seconds, bytes and counts; docs/reference/limits.md has each."""

    first_command_timeout: float = 10.0
    heartbeat: float = 25.0
    topics_per_connection: int = 1_000
    compress_from: int = 1_024
    max_pending_events: int = 64


@dataclass(frozen=True, slots=True)
class LineServices:
    """What all lines of one server share."""

    hub: Hub
    store: Store
    access: Access
    timers: Timers
    rules: LineRules
    server: str
    clock: Callable[[], float] = time.time


@dataclass(slots=True)
class _Subscription:
    view: View
    start: int  # everything of the view behind this offset has been or will be sent
    live: bool = False
    unwanted: bool = False  # its unsubscribe waits behind it: catching up may stop
    earlier: tuple[int, int] = (0, 0)  # what it brought before a gap
    watcher: Callable[[str, str, bool], None] | None = field(default=None)

    def has(self, offset: int) -> bool:
        """Whether it has brought, or will bring, a message with this offset of its view."""
        return (self.live and self.start < offset) or self.earlier[0] < offset <= self.earlier[1]


class _Unwanted(Exception):
    """A subscription that is ended while it catches up."""


class LineSession:
    """One connection at /v1/ws."""

    __slots__ = (
        "_address",
        "_advanced",
        "_connection",
        "_greeting",
        "_jobs",
        "_opened_at",
        "_principal",
        "_services",
        "_subscriptions",
        "_worker",
        "public_id",
        "timer_slot",
    )

    def __init__(self, services: LineServices, principal: Principal | None, address: str) -> None:
        self._services = services
        self._principal = principal
        self._address = address
        self._connection: LineConnection | None = None
        self._greeting: asyncio.TimerHandle | None = None  # its `welcome` is still to come
        self._subscriptions: dict[str, _Subscription] = {}
        self._jobs: deque[tuple[wire.CommandId, Callable[[], Awaitable[None]]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._advanced = 0  # the offset up to which the client knows that nothing is missing
        self._opened_at = 0.0
        self.public_id = secrets.token_hex(8)
        self.timer_slot = 0

    @property
    def member(self) -> Connection:
        """What the hub knows it as. Asked for while it is open."""
        assert self._connection is not None
        return self._connection

    # interfaces.Session

    def opened(self, connection: Connection) -> None:
        self._connection = cast("LineConnection", connection)
        services = self._services
        self.choose_dialect(connection)
        self._opened_at = services.timers.now()
        self._advanced = services.hub.fanned_out
        self._greeting = asyncio.get_running_loop().call_later(OWN_READ, self._greet)
        if self._principal is not None:
            self._enter(self._principal)
        self._arm()

    def _greet(self) -> None:
        """Say `welcome`, in a read of its own behind the 101, or now that the client has something to say."""
        greeting, self._greeting = self._greeting, None
        if greeting is not None and self._connection is not None:
            greeting.cancel()
            services = self._services
            self._say(
                {
                    "type": "welcome",
                    "connection": self.public_id,
                    "server": services.server,
                    "heartbeat": services.rules.heartbeat,
                }
            )

    def choose_dialect(self, connection: Connection) -> None:
        """Messages go out as frames of v1, compressed where that was agreed."""
        agreed = cast("Carrier", connection).deflate
        connection.dialect = _dialect(self._services.store.epoch, agreed, self._services.rules.compress_from)

    def text(self, text: str) -> None:
        self._greet()
        command_id: wire.CommandId = None
        try:
            command = wire.decode_command(text)
            command_id = command.id
            self._handle(command)
        except PartylineError as error:
            self._fail(command_id if command_id is not None else wire.find_id(text), error)

    def do(self, command: wire.Command) -> None:
        """Do a command that has been read already."""
        self._greet()
        try:
            self._handle(command)
        except PartylineError as error:
            self._fail(command.id, error)

    def binary(self, data: bytes) -> None:
        self.refused(InvalidValue("commands are JSON text, not binary messages", code="unknown_command"), data)

    def refused(self, error: PartylineError, message: str | bytes) -> None:
        self._greet()
        self._fail(wire.find_id(message) if isinstance(message, str) else None, error)

    def closed(self) -> None:
        connection, self._connection = self._connection, None
        services = self._services
        services.timers.cancel(self)
        if self._greeting is not None:
            self._greeting.cancel()
        if self._worker is not None:
            self._worker.cancel()
        self._jobs.clear()
        for topic in tuple(self._subscriptions):
            self._unwatch(topic)
        self._subscriptions.clear()
        if connection is not None:
            services.hub.remove(connection)
        if self._principal is not None and (token := self._principal.token) is not None:
            services.access.revoker.release(token, self)

    def revoked(self) -> None:
        """Its token counts no more (`relay.revocations.Holder`)."""
        self._close(4401, "token revoked")

    # Commands

    def _handle(self, command: wire.Command) -> None:
        if isinstance(command, wire.Auth):
            self._authenticate(command)
            return
        if isinstance(command, wire.PingCommand):
            self._reply(command.id, {})
            return
        principal = self._principal
        if principal is None:
            raise Unauthenticated('the first command must be auth: {"type": "auth", "token": "..."}')
        match command:
            case wire.Subscribe():
                self._in_order(command.id, lambda: self._subscribe(command, principal))
            case wire.Unsubscribe():
                if (ending := self._subscriptions.get(command.topic)) is not None:
                    ending.unwanted = True
                self._in_order(command.id, lambda: self._unsubscribe(command))
            case wire.Publish():
                self._publish(command, principal)
            case wire.History():
                self._history(command, principal)
            case wire.PresenceOf():
                principal.may_subscribe(check_topic(command.topic))
                self._reply(command.id, {"users": self._services.hub.presence.users(command.topic)})

    def _authenticate(self, command: wire.Auth) -> None:
        if self._principal is not None:
            raise Conflict("this connection is authenticated already", code="already_authenticated")
        try:
            principal = self._services.access.authenticate(f"Bearer {command.token}", self._address)
        except Unauthenticated as error:
            self._services.hub.counters.refused += 1
            _log.info("refused", code=error.code, close_code=error.close_code, address=self._address)
            self._fail(command.id, error)
            self._close(4401, error.code)
            return
        self._enter(principal)
        self._reply(command.id, {"user": principal.user} if principal.user is not None else {})

    def _enter(self, principal: Principal) -> None:
        connection = self._connection
        assert connection is not None
        self._principal = principal
        token = principal.token
        if token is not None and not self._services.access.revoker.hold(token, self):
            self.revoked()
            return
        connection.known()
        connection.user = principal.user
        self._services.hub.add(connection)
        self._arm()

    def _subscribe(self, command: wire.Subscribe, principal: Principal) -> Callable[[], Awaitable[None]] | None:
        """Subscribe; what is left to do behind it, if it has to catch up."""
        name, rules = command.topic, self._services.rules
        if is_pattern(name):
            principal.may_subscribe_pattern(check_subscription(name))
            view = View(patterns=(name,), user=principal.user)
            if command.presence:
                raise InvalidValue("presence: a pattern has none, only a topic", field="presence")
        else:
            principal.may_subscribe(check_topic(name))
            view = View(frozenset((name,)), user=principal.user)
        if name in self._subscriptions:
            raise Conflict(f"this connection is subscribed to {name!r} already", code="already_subscribed")
        if view.patterns and sum(bool(one.view.patterns) for one in self._subscriptions.values()) >= MAX_PATTERNS:
            raise InvalidValue(
                f"one connection may have {MAX_PATTERNS} subscriptions to patterns",
                code="too_many_rooms",
                field="topic",
                limit="patterns_per_connection",
            )
        if len(self._subscriptions) >= rules.topics_per_connection:
            raise InvalidValue(
                f"one connection may have {rules.topics_per_connection} subscriptions (topics_per_connection)",
                code="too_many_rooms",
                field="topic",
                limit="topics_per_connection",
            )
        after = parse_after(command.after)
        hub = self._services.hub
        subscription = _Subscription(view, hub.fanned_out)
        self._subscriptions[name] = subscription
        if command.presence:
            subscription.watcher = self._presence_changed
            hub.presence.watch(name, subscription.watcher)
        if after == "latest":
            self._attach(name, subscription)
            self._reply(command.id, {"position": self._position(hub.fanned_out), "recovered": True})
            return None
        start = after if isinstance(after, Position) else None
        return lambda: self._resume(command.id, name, subscription, start)

    async def _resume(
        self, command_id: wire.CommandId, name: str, subscription: _Subscription, after: Position | None
    ) -> None:
        """Catch one subscription up. Jobs run one at a time, so no other one catches up meanwhile."""
        services, connection = self._services, self._connection
        try:
            start = await find_start(services.hub, services.store, subscription.view, after)
        except BaseException:
            self._forget(name)
            raise
        subscription.start = start.position.offset
        self._advanced = min(self._advanced, subscription.start)
        answer: dict[str, Any] = {"position": str(start.position), "recovered": start.recovered}
        if start.oldest is not None:
            answer["oldest"] = str(start.oldest)
        self._reply(command_id, answer)
        if connection is None:
            return

        async def deliver(message: Message) -> None:
            await connection.drained()
            if subscription.unwanted:
                raise _Unwanted
            if not self._has(message, besides=subscription):
                connection.send(connection.dialect.encode(message))

        try:
            await catch_up(
                services.hub,
                services.store,
                subscription.view,
                subscription.start,
                deliver=deliver,
                attach=lambda: self._attach(name, subscription),
            )
        except _Unwanted:
            pass  # its unsubscribe is next
        except Gap as gap:
            # Retention overtook this reader. It is told, and goes on live: a hole is never silent.
            subscription.earlier = (subscription.start, gap.reached)
            subscription.start = services.hub.fanned_out
            self._attach(name, subscription)
            oldest = Position(services.store.epoch, gap.oldest - 1)
            self._say(
                {
                    "type": "position",
                    "topic": name,
                    "position": self._position(services.hub.fanned_out),
                    "recovered": False,
                    "oldest": str(oldest),
                }
            )

        except BaseException:
            self._forget(name)  # it may be subscribed to again, from where it came to
            raise

    def _has(self, message: Message, *, besides: _Subscription) -> bool:
        """Whether another subscription of this connection has brought, or will bring, this message."""
        offset = cast("int", message.offset)
        return any(
            other.has(offset) and other.view.sees(message.draft)
            for other in self._subscriptions.values()
            if other is not besides
        )

    def _attach(self, name: str, subscription: _Subscription) -> None:
        connection = self._connection
        if connection is None or self._subscriptions.get(name) is not subscription:
            return  # gone while it caught up
        subscription.live = True
        if subscription.view.patterns:
            self._services.hub.join_pattern(connection, name)
        else:
            self._services.hub.join(connection, name)

    def _unsubscribe(self, command: wire.Unsubscribe) -> None:
        if command.topic not in self._subscriptions:
            raise NotFound(f"this connection is not subscribed to {command.topic[:60]!r}", code="not_subscribed")
        self._forget(command.topic)
        self._reply(command.id, {})

    def _forget(self, name: str) -> None:
        self._unwatch(name)
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None and subscription.live and self._connection is not None:
            self._services.hub.leave(self._connection, name)

    def _publish(self, command: wire.Publish, principal: Principal) -> None:
        draft = make_draft(
            principal,
            command.topic,
            bytes(command.data),
            user_id=command.user_id,
            message_id=command.message_id,
            key=command.key,
            ttl=command.ttl,
            durable=command.durable,
        )
        command_id = command.id

        def done(outcome: Receipt | PartylineError) -> None:
            if isinstance(outcome, PartylineError):
                self._fail(command_id, outcome)
            else:
                self._say(wire.publish_reply(command_id, outcome))

        self._services.hub.publish(draft, done)

    def _history(self, command: wire.History, principal: Principal) -> None:
        principal.may_subscribe(check_topic(command.topic))
        limit = check_limit(command.limit)
        after = parse_after("earliest" if command.after is None else command.after)
        view = View(frozenset((command.topic,)), user=principal.user)

        async def read() -> None:
            page = await history_page(self._services, view, command.topic, after, limit)
            self._reply(command.id, page)

        self._job(command.id, read)

    # Jobs: what has to wait for the store, one after the other

    def _in_order(
        self, command_id: wire.CommandId, command: Callable[[], Callable[[], Awaitable[None]] | None]
    ) -> None:
        """Run a command behind those that wait: what one subscription has brought, another one relies on."""
        if self._worker is None:
            rest = command()
            if rest is None:
                return

            job = rest
        else:

            async def job() -> None:
                rest = command()
                if rest is not None:
                    await rest()

        self._job(command_id, job)

    def _job(self, command_id: wire.CommandId, job: Callable[[], Awaitable[None]]) -> None:
        if len(self._jobs) >= self._services.rules.max_pending_events:
            raise InvalidValue(
                "too many commands wait for the log: wait for answers",
                code="too_many_pending",
                limit="max_pending_events",
            )
        self._jobs.append((command_id, job))
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._jobs:
                command_id, job = self._jobs.popleft()
                try:
                    await job()
                except PartylineError as error:
                    self._fail(command_id, error)
                except Exception:
                    _log.exception("a command failed")
                    self._fail(command_id, PartylineError("the server failed; the command may be tried again"))
        finally:
            self._worker = None

    # What the client is told

    def _presence_changed(self, topic: str, user: str, joined: bool) -> None:
        self._say({"type": "join" if joined else "leave", "topic": topic, "user": user})

    def _unwatch(self, name: str) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None and subscription.watcher is not None:
            self._services.hub.presence.unwatch(name, subscription.watcher)
            subscription.watcher = None

    def _position(self, offset: int) -> str:
        return f"{self._services.store.epoch}-{offset}"

    def _reply(self, command_id: wire.CommandId, fields: dict[str, Any]) -> None:
        self._say({"type": "reply", **({} if command_id is None else {"id": command_id}), **fields})

    def _fail(self, command_id: wire.CommandId, error: PartylineError) -> None:
        if error.limit is not None:
            self._services.hub.counters.hit(error.limit)
        self._say(
            {
                "type": "error",
                **({} if command_id is None else {"id": command_id}),
                "code": error.code,
                "message": error.message,
            }
        )

    def _say(self, value: dict[str, Any] | wire.PublishReply) -> None:
        if self._connection is not None:
            self._connection.send_utf8(to_json(value))

    def _close(self, code: int, reason: str) -> None:
        if self._connection is not None:
            self._connection.close(code, reason)

    # Deadlines: the first command, the token's end, and the position of a quiet subscriber

    def _arm(self) -> None:
        services = self._services
        now = services.timers.now()
        if self._principal is None:
            due = self._opened_at + services.rules.first_command_timeout
        else:
            due = now + services.rules.heartbeat
            if self._principal.expires is not None:
                due = min(due, now + max(0.0, self._principal.expires - services.clock()))
        services.timers.set(self, due)

    def on_deadline(self, now: float) -> None:
        services = self._services
        if self._principal is None:
            services.hub.counters.hit("first_command_timeout")
            self._close(4408, "too slow to identify")
            return
        if self._principal.expires is not None and services.clock() >= self._principal.expires:
            self._close(4401, "token expired")
            return
        head = services.hub.fanned_out
        moved = head > self._advanced and bool(self._subscriptions)
        # Where no pings of ours tell the client that the server lives, this does.
        alive = self._connection is not None and not self._connection.pings
        if (moved or alive) and all(one.live for one in self._subscriptions.values()):
            self._advanced = head
            self._say({"type": "position", "position": self._position(head)})
        self._arm()


def make_draft(
    principal: Principal,
    topic: str,
    data: bytes,
    *,
    user_id: float | str | None = None,
    message_id: str | None = None,
    key: str | None = None,
    ttl: float | None = None,
    durable: bool | None = None,
) -> Draft:
    """What a v1 publish hands to the hub, checked. Raises InvalidValue or Forbidden."""
    principal.may_publish(check_topic(topic))
    for name, value in (("id", message_id), ("key", key)):
        if value is not None and not (0 < len(value) <= 128 and is_printable(value)):
            raise InvalidValue(f"{name}: {value[:60]!r} is not 1-128 printable characters", field=name)
    if ttl is not None and not 0 < ttl <= MAX_TTL:
        raise InvalidValue(f"ttl: {ttl:g} is not a number of seconds between 0 and a year", field="ttl")
    return Draft(
        topic,
        compact(data),
        message_id if message_id is not None else new_id(),
        user=None if user_id is None else wire.user_text(user_id),
        key=key,
        sender=principal.user,
        chosen_id=message_id is not None,
        publisher=principal.name if principal.user is None else f"user {principal.user}",
        ttl=ttl,
        durable=durable,
    )


def parse_after(text: str | None) -> Position | str:
    """A position, or the words earliest and latest; None is latest. Raises InvalidValue."""
    if text is None or text == "latest":
        return "latest"
    return text if text == "earliest" else Position.parse(text)


def check_limit(limit: int) -> int:
    """The size of a page of history. Raises InvalidValue."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidValue(f"limit: {limit} is not between 1 and {MAX_PAGE}", field="limit")
    return limit


async def history_page(
    services: LineServices, view: View, topic: str, after: Position | str, limit: int
) -> dict[str, Any]:
    """A page of history as v1 answers it. Raises StoreUnavailable."""
    store = services.store
    position = after if isinstance(after, Position) else None
    if after == "latest":
        position = Position(store.epoch, services.hub.fanned_out)
    start = await find_start(services.hub, store, view, position)
    at = start.position.offset if start.recovered else (start.oldest or start.position).offset
    page = await store.read(view, at, limit)
    # Not beyond what is fanned out: who resumed from such a position would hear of it again, live.
    reached = services.hub.fanned_out
    return {
        "topic": topic,
        "messages": [wire.entry(one, store.epoch) for one in page.messages if cast("int", one.offset) <= reached],
        "next": f"{store.epoch}-{min(page.next, reached)}",
        "more": page.more or page.next > reached,
        "recovered": start.recovered,
    }
