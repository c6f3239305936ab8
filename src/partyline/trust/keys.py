"""API keys: kept as hashes, compared in constant time, each with rights by topic pattern."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from partyline.errors import Forbidden, Unauthenticated
from partyline.topics import any_covers


def key_hash(key: str) -> str:
    """How a key stands in the configuration: `sha256:` and 64 hex digits.

    A plain hash is enough: keys are random, not chosen by people, so there is nothing to guess from a dictionary.
    """
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from, and what it may do, by topic patterns."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    admin: bool = False

    def may_publish(self, topic: str) -> None:
        """Raises Forbidden where no `publish` pattern covers `topic`."""
        if not any_covers(self.publish, topic):
            raise Forbidden(f"this key may not publish to {topic!r}", field="topic")

    def may_subscribe(self, topic: str) -> None:
        """Raises Forbidden where no `subscribe` pattern covers `topic`."""
        if not any_covers(self.subscribe, topic):
            raise Forbidden(f"this key may not subscribe to {topic!r}", field="topic")


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
