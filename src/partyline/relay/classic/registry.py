"""Registrations: who may connect at /ws/<id>, with which topics. In memory, and written to the database later."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

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

    def __len__(self) -> int:
        return len(self._by_hash)

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
        names, patterns, hashed = self._shared(topics), self._shared(grants), id_hash(connection_id)
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

    def find(self, connection_id: str) -> Registration:
        """The registration of an id, from memory. Raises NotFound."""
        registration = self._by_hash.get(id_hash(connection_id))
        if registration is None:
            raise NotFound(
                "this connection id is not registered (any more): POST /register for a new one",
                code="unknown_connection",
            )
        return registration

    def remove(self, registration: Registration) -> None:
        """Forget it. The caller has to close its connection."""
        if self._by_hash.pop(registration.id_hash, None) is None:
            return
        left = self._per_user[registration.user] - 1
        if left:
            self._per_user[registration.user] = left
        else:
            del self._per_user[registration.user]
        self._bytes -= weight(registration.topics)
        self._timers.cancel(registration)
        self._table.delete(registration.id_hash)
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
        if not registration.used:
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
        registration.topics = self._shared(topics)
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
        self._table.save(
            Row(
                registration.id_hash,
                registration.user,
                registration.topics,
                registration.grants,
                registration.used,
                registration.created,
                registration.confirmed,
                None if registration.token is None else registration.token[1:],
            )
        )

    def _insert(self, registration: Registration) -> None:
        self._by_hash[registration.id_hash] = registration
        self._per_user[registration.user] = self._per_user.get(registration.user, 0) + 1
        self._bytes += weight(registration.topics)
        if registration.token is not None and self._revoker is not None:
            self._revoker.hold(registration.token, registration)

    def _refused(self, registration: Registration) -> bool:
        token = registration.token
        return token is not None and self._revoker is not None and self._revoker.refuses(token)

    def _shared(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """One shared tuple for the same few names: most registrations have the default topics."""
        if weight(names):
            return names
        if len(self._tuples) > 1_000:
            self._tuples.clear()
        return self._tuples.setdefault(names, names)

    def _restore(self) -> None:
        """Load the registrations of an earlier process. Its clients were cut off with it: their windows begin now."""
        now, wall = self._timers.now(), self._clock()
        for row in self._table.load():
            topics, grants = self._shared(row.topics), self._shared(row.grants)
            token = None if row.token is None else Token(row.user, *row.token)
            registration = Registration(
                self, row.id_hash, row.user, topics, grants, row.confirmed, row.used, row.created, token
            )
            if row.used:
                life = self._settings.resume_window
            else:
                # A clock that was set back must not make it live longer than it may.
                age = max(0.0, wall - row.created)
                life = max(self._settings.unused_registration_life - age, self._settings.resume_window)
            if life > 0 and not self._refused(registration):
                self._insert(registration)
                self._timers.set(registration, now + life)
            else:
                self._table.delete(row.id_hash)
