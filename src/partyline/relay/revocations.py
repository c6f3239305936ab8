"""Revoking tokens while they are in use: what lives on one ends with it, and stays ended after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from partyline.trust.keys import Token
from partyline.trust.revocations import Kind, Revocations


class Holder(Protocol):
    """A connection, a stream or a registration that was let in with a token."""

    def revoked(self) -> None:
        """Its token counts no more: end now. Lets go of the token by itself, now or later."""
        ...


class Table(Protocol):
    """Where revocations outlive the process (`stores.sqlite.revocations`)."""

    def load(self) -> Iterable[tuple[str, str, float]]: ...
    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None: ...


class Revoker:
    """The revocations of one server, and who holds which token. `kept` is in seconds.

    A user's revocation is for the tokens issued up to now, by the clock of whoever issues them. Where such a clock is
    ahead of ours, tokens show it: their `iat` is in the future when they come. By as much as the furthest that was seen
    a revocation reaches into the future, so that it reaches every token that has been used here.
    """

    def __init__(self, table: Table, kept: float, *, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock
        self._revocations = Revocations(kept)
        self._revocations.restore(cast("Iterable[tuple[Kind, str, float]]", table.load()))
        self._holders: dict[tuple[Kind, str], dict[Holder, Token]] = {}
        self._ahead = 0.0  # seconds that the clock of an issuer was ahead of ours at most

    def seen(self, token: Token) -> None:
        """A token has come, and its signature is right."""
        if token.issued is not None:
            self._ahead = max(self._ahead, token.issued - self._clock())

    def refuses(self, token: Token) -> bool:
        """Whether the token is revoked."""
        return self._revocations.refuses(token, self._clock())

    def hold(self, token: Token, holder: Holder) -> bool:
        """`holder` lives on `token` from now on, until it lets go. False, and nothing held, where it is revoked."""
        if self.refuses(token):
            return False
        for name in _names(token):
            self._holders.setdefault(name, {})[holder] = token
        return True

    def release(self, token: Token, holder: Holder) -> None:
        """`holder` is gone. Does nothing where it holds nothing."""
        for name in _names(token):
            holders = self._holders.get(name)
            if holders is not None and holders.pop(holder, None) is not None and not holders:
                del self._holders[name]

    async def revoke(self, kind: Kind, name: str) -> tuple[float, int]:
        """Refuse these tokens and end what lives on them, at once. Return up to which `iat` they are refused, and how
        many holders ended, when that is on the disk.

        Raises Overloaded (nothing happened), or StoreUnavailable (it holds in this process, and is written as soon as
        the disk takes it). Cancelled, all of it happens all the same.
        """
        now = self._clock()
        at = self._revocations.revoke(kind, name, now + (self._ahead if kind == "sub" else 0.0))
        holders = self._holders.get((kind, name), {})
        ended = [holder for holder, token in holders.items() if self._revocations.refuses(token, now)]
        for holder in ended:
            holder.revoked()
        await self._table.save(kind, name, at, oldest=self._revocations.oldest(now))
        return at, len(ended)


def _names(token: Token) -> list[tuple[Kind, str]]:
    user: tuple[Kind, str] = ("sub", token.user)
    return [user] if token.id is None else [user, ("jti", token.id)]
