"""Registrations: who may connect at /ws/<id>, with which topics. In memory, and written to the database later."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from partyline.config import Settings
from partyline.errors import Forbidden, NotFound, Overloaded, RateLimited, StoreUnavailable
from partyline.hub.timers import Timers
from partyline.metrics import Counters
from partyline.models import Position
from partyline.relay.revocations import Revoker
from partyline.stores.sqlite.registrations import Row
from partyline.topics import any_covers
from partyline.trust.keys import Token
from partyline.trust.rate import Closing

_MOST_PATIENCE: Final = 5.0  # seconds that a registration waits for the disk
_FREE: Final = 1024  # bytes of topics that every registration may have, however much the others hold
_LONGEST_ID: Final = 64  # characters
_MOST_FETCHING: Final = 1_000  # registrations that are looked for on other nodes
_NAME: Final = 64  # bytes that a topic costs beside its characters


def id_hash(connection_id: str) -> bytes:
    """The form in which an id is kept: it is a credential that neither memory dumps nor the file should hold."""
    return hashlib.sha256(connection_id.encode()).digest()


def weight(topics: tuple[str, ...]) -> int:
    """The bytes of a registration's topics beyond those that every registration may have."""
    return max(0, sum(map(len, topics)) + _NAME * len(topics) - _FREE)


class Registrations(Protocol):
    """Where registrations outlive the process. Nothing blocks; what is saved is written soon."""

    def load(self) -> Iterable[Row]:
        """What an earlier process left. Raises ConfigError if it cannot be read."""

    def save(self, row: Row) -> None:
        """Insert or replace."""

    def delete(self, key: bytes) -> None:
        """Remove, if it is there."""

    async def flush(self) -> None:
        """Return when everything so far is kept."""


@runtime_checkable
class Shared(Registrations, Protocol):
    """The same for several nodes, any of which may take a registration over. One node has it at a time."""

    def serve(self, hand_over: Callable[[bytes], Row | None]) -> None:
        """Another node asks for a registration by its `id_hash`: `hand_over` lets go of it, and returns it."""
        ...

    def save(self, row: Row, life: float | None = None) -> None:
        """Insert or replace, for `life` seconds; None: while this node is there."""
        ...

    async def claim(self, key: bytes) -> Row | None:
        """Take a registration of another node, if there is one. Raises StoreUnavailable."""
        ...


class User(Closing, Protocol):
    """The live session that uses a registration."""

    def follow(self, topics: tuple[str, ...]) -> None:
        """Follow these topics, which the registration has now."""


@dataclass(slots=True, eq=False, repr=False)
class Registration:
    """One id that was handed out. It has a deadline while no connection uses it."""

    registry: Registry
    id_hash: bytes
    user: str
    topics: tuple[str, ...]
    grants: tuple[str, ...]
    confirmed: Position | None = None  # its client certainly has everything up to here; None: it does not resume
    used: bool = False
    created: float = 0.0
    token: Token | None = None  # the one it was made with
    connection: User | None = None
    timer_slot: int = 0

    @property
    def public_id(self) -> str:
        """Its name in lists and logs: tells registrations apart, opens nothing."""
        return hashlib.sha256(b"public " + self.id_hash).hexdigest()[:16]

    def on_deadline(self, now: float) -> None:
        self.registry.expire(self)

    def revoked(self) -> None:
        """The token that made it no longer counts (`relay.revocations.Holder`)."""
        self.registry.revoked(self)


class Registry:
    """All registrations of one process, by the hash of their id."""

    def __init__(
        self,
        table: Registrations,
        timers: Timers,
        counters: Counters,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        revoker: Revoker | None = None,
        mark: str = "",
    ) -> None:
        """`mark` ends each id: it says which worker has the registration."""
        self._mark = mark
        self._table = table
        self._shared = table if isinstance(table, Shared) else None
        self._fetching: dict[bytes, asyncio.Future[None]] = {}
        self._revoker = revoker
        self._timers = timers
        self._counters = counters
        self._settings = settings
        self._clock = clock
        self._by_hash: dict[bytes, Registration] = {}
        self._per_user: dict[str, int] = {}
        self._bytes = 0  # what the topics of all registrations weigh
        self._tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._restore()
        if self._shared is not None:
            self._shared.serve(self._hand_over)

    def __len__(self) -> int:
        return len(self._by_hash)

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may have some of them."""
        return self._shared is not None

    def __contains__(self, registration: Registration) -> bool:
        return registration.id_hash in self._by_hash

    def create(
        self,
        user: str,
        topics: tuple[str, ...],
        grants: tuple[str, ...],
        confirmed: Position | None = None,
        token: Token | None = None,
    ) -> str:
        """A new registration; returns its id, 32 hex digits and the mark, which is kept nowhere.

        One with a `confirmed` position resumes from there. `token` is the one that it is made with, if any: the
        registration ends when that is revoked, not when it expires. Raises RateLimited (too many of this user) or
        Overloaded (too many in all, or too many bytes of topics).
        """
        limits = self._settings
        if self._per_user.get(user, 0) >= limits.registrations_per_user:
            self._counters.hit("registrations_per_user")
            raise RateLimited(
                f"user {user[:60]!r} has {limits.registrations_per_user} registrations (registrations_per_user): "
                "DELETE one, or wait until one expires",
                retry_after=limits.resume_window or limits.unused_registration_life,
                code="too_many_registrations",
                field="user_id",
            )
        if len(self._by_hash) >= limits.max_registrations:
            self._counters.hit("max_registrations")
            raise Overloaded(f"this server has {limits.max_registrations} registrations (max_registrations)")
        self._check_bytes(weight(topics))
        connection_id = secrets.token_hex(16) + self._mark
        names, patterns, hashed = self._shared_tuple(topics), self._shared_tuple(grants), id_hash(connection_id)
        registration = Registration(self, hashed, user, names, patterns, confirmed, created=self._clock(), token=token)
        self._insert(registration)
        self._timers.set(registration, self._timers.now() + limits.unused_registration_life)
        self._save(registration)
        return connection_id

    async def kept(self, registration: Registration) -> None:
        """Return when the database has it, so that it survives a kill; otherwise it is written later.

        If the disk does not take it, forgets it and raises StoreUnavailable. Cancelling this loses nothing.
        """
        try:
            async with asyncio.timeout(_MOST_PATIENCE):
                await self._table.flush()
        except TimeoutError:
            self.remove(registration)
            raise StoreUnavailable("the database does not take the registration now: try again in a moment") from None

    def has(self, connection_id: str) -> bool:
        """Whether the registration of an id is here."""
        return id_hash(connection_id) in self._by_hash

    def find(self, connection_id: str) -> Registration:
        """The registration of an id, from memory. Raises NotFound."""
        registration = self._by_hash.get(id_hash(connection_id))
        if registration is None:
            raise NotFound(
                "this connection id is not registered (any more): POST /register for a new one",
                code="unknown_connection",
            )
        return registration

    def fetch(self, connection_id: str) -> asyncio.Future[None] | None:
        """Take a registration over, if another node has it: done when `find` can tell. None if it can tell now.

        The future raises StoreUnavailable. Cancelling it does not stop the others that wait for the same. Raises
        Overloaded.
        """
        if self._shared is None or len(connection_id) > _LONGEST_ID:
            return None
        key = id_hash(connection_id)
        if key in self._by_hash:
            return None
        fetching = self._fetching.get(key)
        if fetching is None:
            if len(self._fetching) >= _MOST_FETCHING:
                self._counters.hit("max_fetching_registrations")
                raise Overloaded("too many registrations are looked for on other nodes: try again in a moment")
            fetching = self._fetching[key] = asyncio.ensure_future(self._fetch(self._shared, key))
            fetching.add_done_callback(lambda _: self._fetching.pop(key))
        return asyncio.shield(fetching)

    async def _fetch(self, shared: Shared, key: bytes) -> None:
        row = await shared.claim(key)
        if row is not None and key not in self._by_hash:
            self._take_in(row, max(self._settings.resume_window, _MOST_PATIENCE))

    def _hand_over(self, key: bytes) -> Row | None:
        """Another node has taken this registration: its client is there."""
        registration = self._by_hash.get(key)
        if registration is None:
            return None
        row, connection = _row(registration), registration.connection
        self._drop(registration)
        if connection is not None:
            connection.close(4000, "replaced by a newer connection")
        return row

    def remove(self, registration: Registration) -> None:
        """Forget it. The caller has to close its connection."""
        if registration in self:
            self._drop(registration)
            self._table.delete(registration.id_hash)

    def _drop(self, registration: Registration) -> None:
        del self._by_hash[registration.id_hash]
        left = self._per_user[registration.user] - 1
        if left:
            self._per_user[registration.user] = left
        else:
            del self._per_user[registration.user]
        self._bytes -= weight(registration.topics)
        self._timers.cancel(registration)
        if registration.token is not None and self._revoker is not None:
            self._revoker.release(registration.token, registration)

    def revoked(self, registration: Registration) -> None:
        """Its token was revoked: end it and its connection."""
        connection = registration.connection
        self.remove(registration)
        if connection is not None:
            connection.close(4001, "token revoked")

    def attach(self, registration: Registration, connection: User) -> User | None:
        """Let `connection` use it from now on; returns the one that did before, if any."""
        earlier, registration.connection = registration.connection, connection
        self._timers.cancel(registration)
        if not registration.used or self._shared is not None:
            registration.used = True
            self._save(registration)
        return earlier

    def detach(self, registration: Registration, connection: User) -> None:
        """`connection` is gone: the resume window begins, unless another connection has taken its place."""
        if registration.connection is not connection:
            return
        registration.connection = None
        if registration not in self:
            return
        if self._settings.resume_window > 0:
            self._timers.set(registration, self._timers.now() + self._settings.resume_window)
            if self._shared is not None:
                self._save(registration)  # from now on it has an end
        else:
            self.remove(registration)

    def set_topics(self, registration: Registration, topics: tuple[str, ...]) -> None:
        """Replace its topics, those of its live connection too; the caller has checked the names.

        Raises Overloaded if they need more room and the registrations of this server have none left.
        """
        if registration in self:
            more = weight(topics) - weight(registration.topics)
            self._check_bytes(more)
            self._bytes += more
        registration.topics = self._shared_tuple(topics)
        self._save(registration)
        if registration.connection is not None:
            registration.connection.follow(registration.topics)

    def confirm(self, registration: Registration, position: Position) -> None:
        """Its client has everything up to `position`: a reconnect begins there. This never goes back."""
        known = registration.confirmed
        if known is None or (known.epoch == position.epoch and known.offset >= position.offset):
            return
        registration.confirmed = position
        self._save(registration)

    def check_grants(self, registration: Registration, topics: Iterable[str]) -> None:
        """Raises Forbidden for a topic that the creator's patterns do not cover."""
        for topic in topics:
            if not any_covers(registration.grants, topic):
                raise Forbidden(f"this registration may not subscribe to {topic!r}", field="topics")

    def expire(self, registration: Registration) -> None:
        """Its deadline passed without a connection."""
        if registration.connection is None:
            self.remove(registration)

    def _check_bytes(self, more: int) -> None:
        most = self._settings.max_registration_bytes
        if more > 0 and self._bytes + more > most:
            self._counters.hit("max_registration_bytes")
            raise Overloaded(
                f"the topics of this server's registrations have {most} bytes already (max_registration_bytes): "
                "take fewer or shorter topics, or come back later"
            )

    def _save(self, registration: Registration) -> None:
        if registration not in self:
            return  # removed meanwhile: its connection must not bring it back
        if self._shared is None:
            self._table.save(_row(registration))
        elif registration.connection is not None:
            self._shared.save(_row(registration))
        else:
            self._shared.save(_row(registration), self._life(registration))

    def _life(self, registration: Registration) -> float:
        """Seconds that it may go without a connection."""
        limits = self._settings
        return limits.resume_window if registration.used else limits.unused_registration_life

    def _insert(self, registration: Registration) -> None:
        self._by_hash[registration.id_hash] = registration
        self._per_user[registration.user] = self._per_user.get(registration.user, 0) + 1
        self._bytes += weight(registration.topics)
        if registration.token is not None and self._revoker is not None:
            self._revoker.hold(registration.token, registration)

    def _refused(self, registration: Registration) -> bool:
        token = registration.token
        return token is not None and self._revoker is not None and self._revoker.refuses(token)

    def _shared_tuple(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """One shared tuple for the same few names: most registrations have the default topics."""
        if weight(names):
            return names
        if len(self._tuples) > 1_000:
            self._tuples.clear()
        return self._tuples.setdefault(names, names)

    def _restore(self) -> None:
        """Load the registrations of an earlier process. Its clients were cut off with it: their windows begin now."""
        wall = self._clock()
        for row in self._table.load():
            if row.used:
                life = self._settings.resume_window
            else:
                # A clock that was set back must not make it live longer than it may.
                age = max(0.0, wall - row.created)
                life = max(self._settings.unused_registration_life - age, self._settings.resume_window)
            if not self._take_in(row, life):
                self._table.delete(row.id_hash)

    def _take_in(self, row: Row, life: float) -> bool:
        """Have a registration that another process had, for `life` seconds without a connection; False if it is
        over."""
        topics, grants = self._shared_tuple(row.topics), self._shared_tuple(row.grants)
        token = None if row.token is None else Token(row.user, *row.token)
        registration = Registration(
            self, row.id_hash, row.user, topics, grants, row.confirmed, row.used, row.created, token
        )
        if life <= 0 or self._refused(registration):
            return False
        self._insert(registration)
        self._timers.set(registration, self._timers.now() + life)
        if self._shared is not None:
            self._save(registration)
        return True


def _row(registration: Registration) -> Row:
    """A registration as it is kept."""
    return Row(
        registration.id_hash,
        registration.user,
        registration.topics,
        registration.grants,
        registration.used,
        registration.created,
        registration.confirmed,
        None if registration.token is None else registration.token[1:],
    )
