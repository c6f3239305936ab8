"""One client of v1, on any transport: commands come in, values go out, and the hub offers messages to its member.

A carrier is a subclass: a WebSocket (`websocket.py`), a stream of server-sent events (`events.py`), a socket of the
Socket.IO namespace /relay (`partyline.bridge`). Expiry, revocation, positions, gaps, listing and closing are here.

Long because every carrier gets all of these from it.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import msgspec

from partyline import log
from partyline.errors import Conflict, InvalidValue, NotFound, PartylineError, Unauthenticated
from partyline.hub.history import Start, resume
from partyline.interfaces import Member, View
from partyline.models import Message, Payload, Position, Receipt
from partyline.relay.services import Services
from partyline.relay.v1.publishing import make_draft
from partyline.relay.v1.reading import check_limit, history_page, parse_after
from partyline.relay.values import Done, Known, Missed, PublishedHere, Reached, Subscribed, UsersHere
from partyline.topics import check_subscription, check_topic, is_pattern, matcher
from partyline.trust.keys import Principal
from partyline.wire import relay as wire

_log = log.get("relay")

MAX_PATTERNS: Final = 100  # of one client

Asked: TypeAlias = Any
"""What a carrier matches answers to commands by."""

_Rest: TypeAlias = Callable[[], Awaitable[None]]


class V1Session(ABC):
    """One client of v1. A carrier calls `begin`, then `do` for each command, then `end`."""

    __slots__ = (
        "_address",
        "_advanced",
        "_ended",
        "_in_hand",
        "_jobs",
        "_opened_at",
        "_patterns",
        "_principal",
        "_services",
        "_stopping",
        "_subscriptions",
        "_worker",
        "public_id",
        "timer_slot",
    )

    def __init__(self, services: Services, principal: Principal | None, address: str) -> None:
        self._services = services
        self._principal = principal
        self._address = address
        self._subscriptions: dict[str, _Subscription] = {}
        # Those of them that are to patterns, and what tells which topics they cover.
        self._patterns: dict[str, tuple[_Subscription, Callable[[str], object]]] = {}
        self._jobs: deque[tuple[Asked, _Rest]] | None = None  # None: no worker has been needed yet
        self._worker: asyncio.Task[None] | None = None
        self._advanced = 0  # the offset up to which the client knows that nothing is missing
        self._opened_at = 0.0
        self._in_hand = 0  # publishes without an answer yet
        self._stopping: Callable[[], None] | None = None  # called when there are none left
        self._ended = False
        self.public_id = secrets.token_hex(8)
        self.timer_slot = 0

    # What a carrier is

    @property
    @abstractmethod
    def member(self) -> Member:
        """This client's hub member."""

    @abstractmethod
    def reply(self, asked: Asked, value: msgspec.Struct) -> None:
        """Answer a command."""

    @abstractmethod
    def refuse(self, asked: Asked, error: PartylineError) -> None:
        """Answer a command with an error."""

    @abstractmethod
    def tell(self, kind: str, value: msgspec.Struct) -> None:
        """Send an unsolicited value: `position`."""

    @abstractmethod
    async def drained(self) -> None:
        """Return when there is room for a message, or the client is gone."""

    @property
    def pings(self) -> bool:
        """Whether something else tells a quiet client that the server is alive."""
        return True

    @property
    def heartbeat(self) -> float:
        """Seconds between two checks of a quiet client."""
        return self._services.settings.ping_interval

    # What a carrier calls

    def begin(self) -> None:
        """The client is connected. Its member is complete, but for `user`."""
        services = self._services
        services.open.add(self)
        self._opened_at = services.timers.now()
        self._advanced = services.hub.fanned_out
        if self._principal is not None:
            self._enter(self._principal)
        self._arm()

    def do(self, command: wire.Command, asked: Asked) -> None:
        """Carry out a command; it is answered now or later."""
        if self._stopping is not None or self._ended:
            return
        try:
            self._do(command, asked)
        except PartylineError as error:
            self._failed(asked, error)

    def finish(self, then: Callable[[], None]) -> None:
        """The server stops (`interfaces.Finishes`): no further command is carried out."""
        self._stopping = then
        if not self._in_hand:
            then()

    def end(self) -> None:
        """The client is gone. Doing it again does nothing."""
        if self._ended:
            return
        self._ended = True
        services = self._services
        services.open.discard(self)
        services.timers.cancel(self)
        if self._worker is not None:
            self._worker.cancel()
        self._jobs = None
        for topic in tuple(self._subscriptions):
            self._unwatch(topic)
        self._subscriptions.clear()
        self._patterns.clear()
        services.hub.remove(self.member)
        if self._principal is not None and (token := self._principal.token) is not None:
            services.access.revoker.release(token, self)

    # relay.services.Listed, relay.revocations.Holder

    def close(self, code: int, reason: str = "") -> None:
        """End the connection."""
        if not self._ended:
            self.member.close(code, reason)

    def revoked(self) -> None:
        """Its token no longer counts."""
        self.close(4401, "token revoked")

    # Commands

    def _do(self, command: wire.Command, asked: Asked) -> None:
        if isinstance(command, wire.Auth):
            self._authenticate(command, asked)
            return
        if isinstance(command, wire.PingCommand):
            self.reply(asked, Done())
            return
        principal = self._principal
        if principal is None:
            raise Unauthenticated('the first command must be auth: {"type": "auth", "token": "..."}')
        match command:
            case wire.Subscribe():
                self._in_order(asked, lambda: self._subscribe(command, asked, principal))
            case wire.Unsubscribe():
                ending = self._subscriptions.get(command.topic)
                self._in_order(asked, lambda: self._unsubscribe(command, asked))
                if ending is not None:
                    ending.unwanted = True  # only now: an unsubscribe that is refused changes nothing
            case wire.Publish():
                self._publish(command, asked, principal)
            case wire.History():
                self._history(command, asked, principal)
            case wire.PresenceOf():
                principal.may_subscribe(check_topic(command.topic))
                self._presence(command.topic, asked)

    def _authenticate(self, command: wire.Auth, asked: Asked) -> None:
        if self._principal is not None:
            raise Conflict("this connection is authenticated already", code="already_authenticated")
        try:
            principal = self._services.access.authenticate(f"Bearer {command.token}", self._address)
        except Unauthenticated as error:
            self._services.hub.counters.refused += 1
            _log.info("refused", code=error.code, close_code=error.close_code, address=self._address)
            self._failed(asked, error)
            self.close(4401, error.code)
            return
        self._enter(principal)
        self.reply(asked, Known(msgspec.UNSET if principal.user is None else principal.user))

    def _enter(self, principal: Principal) -> None:
        self._principal = principal
        token = principal.token
        if token is not None and not self._services.access.revoker.hold(token, self):
            self.revoked()
            return
        self.member.user = principal.user
        self._services.hub.add(self.member)
        self._arm()

    def _subscribe(self, command: wire.Subscribe, asked: Asked, principal: Principal) -> _Rest | None:
        """Subscribe; returns the rest of the job if it has to catch up."""
        name, settings = command.topic, self._services.settings
        if is_pattern(name):
            principal.may_subscribe_pattern(check_subscription(name))
            view = View(patterns=(name,), user=principal.user)
            if command.presence:
                raise InvalidValue("presence: only a topic has it, not a pattern", field="presence")
        else:
            principal.may_subscribe(check_topic(name))
            view = View(frozenset((name,)), user=principal.user)
        if name in self._subscriptions:
            raise Conflict(f"this connection is subscribed to {name!r} already", code="already_subscribed")
        if len(self._subscriptions) >= settings.topics_per_connection:
            raise InvalidValue(
                f"one connection may have {settings.topics_per_connection} subscriptions (topics_per_connection)",
                code="too_many_rooms",
                field="topic",
                limit="topics_per_connection",
            )
        if view.patterns and len(self._patterns) >= MAX_PATTERNS:
            raise InvalidValue(
                f"one connection may have {MAX_PATTERNS} subscriptions to patterns",
                code="too_many_rooms",
                field="topic",
                limit="patterns_per_connection",
            )
        after = parse_after(command.after)
        hub = self._services.hub
        subscription = _Subscription(self, name, view, asked, hub.fanned_out)
        self._subscriptions[name] = subscription
        if view.patterns:
            self._patterns[name] = subscription, matcher(view.patterns)
        if command.presence:
            subscription.watches = True
            hub.watch(name, self.member)
        if after == "latest":
            subscription.attach()
            self.reply(asked, Subscribed(self.position(hub.fanned_out), recovered=True))
            return None
        return lambda: self._resume(subscription, after if isinstance(after, Position) else None)

    async def _resume(self, subscription: _Subscription, after: Position | None) -> None:
        """Let one subscription catch up. Jobs run one at a time, so no other subscription catches up meanwhile."""
        services = self._services
        try:
            await resume(services.hub, services.store, subscription.view, after, subscription)
        except _Unwanted:
            pass  # its unsubscribe is next
        except BaseException:
            self._forget(subscription.name)  # the client may subscribe again, from where it got to
            raise

    def has(self, message: Message, *, besides: _Subscription) -> bool:
        """Whether another subscription of this client has brought, or will bring, this message. What that costs does
        not grow with its subscriptions to topics, of which there may be many."""
        room = message.room
        others = [one for one, covers in self._patterns.values() if covers(room)]
        if (named := self._subscriptions.get(room)) is not None:
            others.append(named)
        offset = cast("int", message.offset)
        return any(one.live and one.start < offset for one in others if one is not besides)

    def began(self, subscription: _Subscription, start: Start) -> None:
        """A subscription that has to catch up begins at `start`."""
        self._advanced = min(self._advanced, start.position.offset)
        oldest = msgspec.UNSET if start.oldest is None else str(start.oldest)
        self.reply(subscription.asked, Subscribed(str(start.position), start.recovered, oldest))

    def attach(self, subscription: _Subscription) -> None:
        """A subscription misses nothing now: it goes on live."""
        if self._subscriptions.get(subscription.name) is not subscription:
            return  # gone while it caught up
        subscription.live = True
        if subscription.view.patterns:
            self._services.hub.join_pattern(self.member, subscription.name)
        else:
            self._services.hub.join(self.member, subscription.name)

    def _unsubscribe(self, command: wire.Unsubscribe, asked: Asked) -> None:
        if command.topic not in self._subscriptions:
            raise NotFound(f"this connection is not subscribed to {command.topic[:60]!r}", code="not_subscribed")
        self._forget(command.topic)
        self.reply(asked, Done())

    def _forget(self, name: str) -> None:
        self._unwatch(name)
        subscription = self._subscriptions.pop(name, None)
        self._patterns.pop(name, None)
        if subscription is not None and subscription.live:
            self._services.hub.leave(self.member, name)

    def _publish(self, command: wire.Publish, asked: Asked, principal: Principal) -> None:
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

        def done(outcome: Receipt | PartylineError) -> None:
            if isinstance(outcome, PartylineError):
                self._failed(asked, outcome)
            elif not self._ended:
                self.reply(asked, PublishedHere.of(outcome))
            self._in_hand -= 1
            if self._stopping is not None and not self._in_hand:
                self._stopping()

        self._in_hand += 1
        self._services.hub.publish(draft, done)

    def _history(self, command: wire.History, asked: Asked, principal: Principal) -> None:
        principal.may_subscribe(check_topic(command.topic))
        limit = check_limit(command.limit)
        after = parse_after("earliest" if command.after is None else command.after)
        services = self._services

        async def read() -> None:
            page = await history_page(services.hub, services.store, command.topic, principal.user, after, limit)
            self.reply(asked, page)

        self._job(asked, read)

    def _presence(self, topic: str, asked: Asked) -> None:
        users, others = self._services.hub.presence.users(topic), self._services.others
        if others is None:
            self.reply(asked, UsersHere(users))
            return

        async def ask() -> None:
            more, missing = await others.users(topic)
            self.reply(asked, UsersHere(sorted(more.union(users)), missing))

        self._job(asked, ask)

    # Jobs: commands that wait for the store, one after the other

    def _in_order(self, asked: Asked, command: Callable[[], _Rest | None]) -> None:
        """Run a command after those that wait: subscriptions rely on what earlier ones have brought."""
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

        self._job(asked, job)

    def _job(self, asked: Asked, job: _Rest) -> None:
        jobs = self._jobs = deque() if self._jobs is None else self._jobs
        if len(jobs) >= self._services.settings.max_pending_events:
            raise InvalidValue(
                "too many commands wait for the log: wait for answers",
                code="too_many_pending",
                limit="max_pending_events",
            )
        jobs.append((asked, job))
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work(jobs))

    async def _work(self, jobs: deque[tuple[Asked, _Rest]]) -> None:
        try:
            while jobs:
                asked, job = jobs.popleft()
                try:
                    await job()
                except PartylineError as error:
                    self._failed(asked, error)
                except Exception:
                    self._services.hub.counters.errors += 1
                    _log.exception("a command failed")
                    self._failed(asked, PartylineError("the server failed; the command may be tried again"))
        finally:
            self._worker = None

    # What the client is told

    def _unwatch(self, name: str) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None and subscription.watches:
            self._services.hub.unwatch(name, self.member)
            subscription.watches = False

    def position(self, offset: int) -> str:
        """An offset of the log as clients write it."""
        return f"{self._services.store.epoch}-{offset}"

    def _failed(self, asked: Asked, error: PartylineError) -> None:
        if error.limit is not None:
            self._services.hub.counters.hit(error.limit)
        if not self._ended:
            self.refuse(asked, error)

    # Deadlines: the first command, the token's end, and the position of a quiet subscriber

    def _arm(self) -> None:
        if self._ended:
            return
        services = self._services
        now = services.timers.now()
        if self._principal is None:
            due = self._opened_at + services.settings.first_command_timeout
        else:
            due = now + self.heartbeat
            if self._principal.expires is not None:
                due = min(due, now + max(0.0, self._principal.expires - services.clock()))
        services.timers.set(self, due)

    @property
    def expired(self) -> bool:
        """Whether its token has expired."""
        expires = None if self._principal is None else self._principal.expires
        return expires is not None and self._services.clock() >= expires

    def on_deadline(self, now: float) -> None:
        services = self._services
        if self._principal is None:
            services.hub.counters.hit("first_command_timeout")
            self.close(4408, "too slow to identify")
            return
        if self.expired:
            self.close(4401, "token expired")
            return
        head = services.hub.fanned_out
        moved = head > self._advanced and bool(self._subscriptions)
        if (moved or not self.pings) and all(one.live for one in self._subscriptions.values()):
            self._advanced = head
            self.tell("position", Reached(self.position(head)))
        self._arm()


class _Unwanted(Exception):
    """A subscription was ended while it caught up."""


@dataclass(slots=True, eq=False)
class _Subscription:
    """A topic or a pattern of one client (`hub.history.Sink` while it catches up)."""

    session: V1Session
    name: str
    view: View
    asked: Asked
    start: int  # everything of the view after this offset has been or will be sent
    live: bool = False
    unwanted: bool = False  # its unsubscribe is waiting: it may stop catching up
    watches: bool = False  # it is told who comes and goes

    def began(self, start: Start) -> None:
        self.start = start.position.offset
        self.session.began(self, start)

    async def deliver(self, message: Message) -> None:
        session = self.session
        await session.drained()
        if self.unwanted:
            raise _Unwanted
        if not session.has(message, besides=self):
            session.member.offer(Payload(session.member.dialect.encode(message)))

    def gap(self, start: Start) -> None:
        position = str(start.position)
        self.session.tell("position", Missed(self.name, position, recovered=False, oldest=str(start.oldest)))

    def attach(self) -> None:
        self.session.attach(self)
