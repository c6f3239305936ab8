"""API keys, which are kept as hashes and compared in constant time, and the rights of principals."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from partyline.errors import Forbidden, Unauthenticated
from partyline.topics import any_contains, any_covers


def key_hash(key: str) -> str:
    """A key in the configuration: `sha256:` and 64 hex digits.

    A plain hash is enough: keys are random, not chosen by people, so there is nothing to guess from a dictionary.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Token(NamedTuple):
    """The facts of a token that revocations use: its user (`sub`), its id (`jti`), and when it was issued (`iat`)."""

    user: str
    id: str | None
    issued: float | None


@dataclass(frozen=True, slots=True)
class Principal:
    """The party that a request comes from, and what it may do, as topic patterns.

    `name` tells principals apart and is not a secret. A token also has a `user` (its `sub`), a time at which it
    `expires` (seconds since 1970), and perhaps an id and a time at which it was `issued`.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    admin: bool = False
    user: str | None = None
    expires: float | None = None
    token_id: str | None = None
    name: str = ""
    issued: float | None = None

    @property
    def token(self) -> Token | None:
        """The token that it came with; None if it came with a key, or in open mode."""
        return None if self.user is None else Token(self.user, self.token_id, self.issued)

    @property
    def _what(self) -> str:
        return "key" if self.user is None else "token"

    def may_act_for(self, user: str) -> None:
        """Raise Forbidden for a token of another user. A key may act for every user."""
        if self.user is not None and self.user != user:
            raise Forbidden("this token is another user's: its sub must be the user id", field="user_id")

    def may_publish(self, topic: str) -> None:
        """Raise Forbidden if no `publish` pattern covers `topic`."""
        if not any_covers(self.publish, topic):
            raise Forbidden(f"this {self._what} may not publish to {topic!r}", field="topic")

    def may_subscribe(self, topic: str) -> None:
        """Raise Forbidden if no `subscribe` pattern covers `topic`."""
        if not any_covers(self.subscribe, topic):
            raise Forbidden(f"this {self._what} may not subscribe to {topic!r}", field="topic")

    def may_subscribe_pattern(self, pattern: str) -> None:
        """Raise Forbidden if no single `subscribe` pattern covers all of `pattern`."""
        if not any_contains(self.subscribe, pattern):
            raise Forbidden(f"this {self._what} may not subscribe to all of {pattern!r}", field="topic")

    def must_be_admin(self, what: str) -> None:
        """Raise Forbidden without the admin right."""
        if not self.admin:
            raise Forbidden(f"{what} needs a key or a token with admin rights")


EVERYBODY = Principal((">",), (">",), admin=True)
"""The principal of every request in open mode."""


class KeyRing:
    """The configured keys. Without any, everybody is let in: open mode."""

    __slots__ = ("_keys", "open_mode")

    def __init__(self, keys: Sequence[tuple[str, Principal]] = ()) -> None:
        self._keys = tuple((hashed.encode(), principal) for hashed, principal in keys)
        self.open_mode = not self._keys

    def find(self, key: str) -> Principal | None:
        """The principal that a key stands for, or None if the key is not known.

        Every configured key is compared, in constant time, so the timing reveals nothing.
        """
        presented = key_hash(key).encode()
        found: Principal | None = None
        for hashed, principal in self._keys:
            if hmac.compare_digest(hashed, presented):
                found = principal
        return found


def bearer(authorization: str | None) -> str:
    """The credential in an Authorization header (RFC 6750 2.1). Raises Unauthenticated if it is missing."""
    scheme, _, credential = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated("this needs an API key or a token: send Authorization: Bearer KEY")
    return credential.strip()
