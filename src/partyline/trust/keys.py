"""API keys: kept as hashes, compared in constant time, each with rights by topic pattern."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from partyline.errors import Forbidden, Unauthenticated
from partyline.topics import any_covers, contains


def key_hash(key: str) -> str:
    """How a key stands in the configuration: `sha256:` and 64 hex digits.

    A plain hash is enough: keys are random, not chosen by people, so there is nothing to guess from a dictionary.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from, and what it may do, by topic patterns.

    `name` tells principals apart and opens nothing. A token also has a `user` (its `sub`), a time at which it `expires`
    (seconds since 1970) and perhaps an id.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    admin: bool = False
    user: str | None = None
    expires: float | None = None
    token_id: str | None = None
    name: str = ""

    def may_publish(self, topic: str) -> None:
        """Raises Forbidden where no `publish` pattern covers `topic`."""
        if not any_covers(self.publish, topic):
            raise Forbidden(f"this key may not publish to {topic!r}", field="topic")

    def may_subscribe(self, topic: str) -> None:
        """Raises Forbidden where no `subscribe` pattern covers `topic`."""
        if not any_covers(self.subscribe, topic):
            raise Forbidden(f"this key may not subscribe to {topic!r}", field="topic")

    def may_subscribe_pattern(self, pattern: str) -> None:
        """Raises Forbidden where no one `subscribe` pattern covers all that `pattern` covers."""
        if not any(contains(granted, pattern) for granted in self.subscribe):
            raise Forbidden(f"this key may not subscribe to all of {pattern!r}", field="topic")

    def must_be_admin(self, what: str) -> None:
        """Raises Forbidden where the admin right is missing."""
        if not self.admin:
            raise Forbidden(f"{what} needs a key with admin rights")


EVERYBODY = Principal((">",), (">",), admin=True)
"""Who asks in open mode."""


class KeyRing:
    """The configured keys. Without any, everybody is let in: open mode."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[tuple[str, Principal]] = ()) -> None:
        self._keys = tuple((hashed.encode(), principal) for hashed, principal in keys)

    @property
    def open_mode(self) -> bool:
        return not self._keys

    def authenticate(self, authorization: str | None) -> Principal:
        """Who an Authorization header stands for. Raises Unauthenticated for none or an unknown key.

        Every configured key is compared, each in constant time: the answer's time tells nothing.
        """
        if not self._keys:
            return EVERYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("this needs an API key: send Authorization: Bearer KEY")
        presented = key_hash(key.strip()).encode()
        found: Principal | None = None
        for hashed, principal in self._keys:
            if hmac.compare_digest(hashed, presented):
                found = principal
        if found is None:
            raise Unauthenticated("this API key is not known here")
        return found
