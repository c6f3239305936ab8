"""Revoking tokens while they are in use: everything that depends on a token ends with it, also after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from partyline import log
from partyline.errors import CONTAINED
from partyline.trust.keys import Token
from partyline.trust.revocations import Kind, Revocations

_log = log.get("relay")


class RevocationRows(Protocol):
    """Where revocations outlive the process."""

    def load(self) -> Iterable[tuple[str, str, float]]:
        """Kind, name and time of each, the earliest first. Raises ConfigError."""

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        """Return when it is kept; those from before `oldest` may go. Raises StoreUnavailable."""


class Holder(Protocol):
    """A connection, a stream or a registration that was made with a token."""

    def revoked(self) -> None:
        """End now: the token is revoked. The holder releases the token by itself, now or later."""


class Revoker:
    """The revocations of one server, and the holders of each token. `kept` is in seconds.

    Revoking a user affects the tokens issued before that, by their issuer's clock. If that clock is ahead of ours, the
    tokens show it: their `iat` is in our future when they are used. So a revocation reaches into the future by the
    largest lead seen, and affects every token that has been used here.
    """

    def __init__(self, table: RevocationRows, kept: float, *, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock
        self._revocations = Revocations(kept)
        self._revocations.restore(cast("Iterable[tuple[Kind, str, float]]", table.load()))
        self._holders: dict[tuple[Kind, str], dict[Holder, Token]] = {}
        self._ahead = 0.0  # the largest lead of an issuer's clock over ours, in seconds

    def seen(self, token: Token) -> None:
        """Note a token that was used, after its signature was verified."""
        if token.issued is not None:
            self._ahead = max(self._ahead, token.issued - self._clock())

    def refuses(self, token: Token) -> bool:
        """Whether the token is revoked."""
        return self._revocations.refuses(token, self._clock())

    def hold(self, token: Token, holder: Holder) -> bool:
        """Let `holder` depend on `token` until it releases it. Returns False if the token is revoked already."""
        if self.refuses(token):
            return False
        for name in _names(token):
            self._holders.setdefault(name, {})[holder] = token
        return True

    def release(self, token: Token, holder: Holder) -> None:
        """Forget `holder`, if it holds the token."""
        for name in _names(token):
            holders = self._holders.get(name)
            if holders is not None and holders.pop(holder, None) is not None and not holders:
                del self._holders[name]

    async def revoke(self, kind: Kind, name: str) -> tuple[float, int]:
        """Refuse these tokens and end their holders, at once. Once that is on disk, return the last `iat` that is
        refused, and how many holders ended.

        Raises Overloaded, if nothing happened, or StoreUnavailable, if the revocation holds in this process and will
        be written as soon as the disk allows. Cancelling this changes nothing.
        """
        now = self._clock()
        at, ended = self.apply(kind, name, now + (self._ahead if kind == "sub" else 0.0))
        await self._table.save(kind, name, at, oldest=self._revocations.oldest(now))
        return at, ended

    def apply(self, kind: Kind, name: str, until: float) -> tuple[float, int]:
        """Refuse these tokens, issued up to `until`, and end their holders; returns the same as `revoke`.

        Raises Overloaded.
        """
        now = self._clock()
        at = self._revocations.revoke(kind, name, until)
        holders = self._holders.get((kind, name), {})
        ended = [holder for holder, token in holders.items() if self._revocations.refuses(token, now)]
        for holder in ended:
            try:
                holder.revoked()
            except CONTAINED:  # the others must still end, and the revocation be written
                _log.exception("a connection whose token was revoked could not be ended", holder=type(holder).__name__)
        return at, len(ended)


def _names(token: Token) -> list[tuple[Kind, str]]:
    user: tuple[Kind, str] = ("sub", token.user)
    return [user] if token.id is None else [user, ("jti", token.id)]
