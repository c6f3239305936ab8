"""Which tokens are revoked, by user or by token id. Everything is in memory, and a check is one look-up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from partyline.errors import Overloaded
from partyline.trust.keys import Token

Kind = Literal["sub", "jti"]

MAX_REVOCATIONS: Final = 1_000_000


class Revocations:
    """The revocations. Each is kept for `kept` seconds, after which the tokens that it affects have expired.

    Times are seconds since 1970.
    """

    __slots__ = ("_at", "_kept")

    def __init__(self, kept: float) -> None:
        self._kept = kept
        # By (kind, name), in the order in which they were made, so that forgetting begins at the front.
        self._at: dict[tuple[Kind, str], float] = {}

    def __len__(self) -> int:
        return len(self._at)

    def restore(self, rows: Iterable[tuple[Kind, str, float]]) -> None:
        """Take over the revocations of an earlier process, the earliest first."""
        for kind, name, at in rows:
            self._at[kind, name] = at

    def revoke(self, kind: Kind, name: str, now: float) -> float:
        """Refuse the tokens of the user `name`, or the one with the id `name`, from now on; return the time of it.

        Raises Overloaded if there are too many. Revoking again moves the time forward, never back.
        """
        self._forget(now)
        earlier = self._at.pop((kind, name), now)
        if len(self._at) >= MAX_REVOCATIONS:
            raise Overloaded(
                f"this server has {MAX_REVOCATIONS} revocations: wait until some are over", limit="max_revocations"
            )
        at = self._at[kind, name] = max(now, earlier)
        return at

    def refuses(self, token: Token, now: float) -> bool:
        """Whether a token is revoked.

        A user's revocation affects the tokens issued before it; a token that does not say when it was issued is refused
        as long as the revocation is kept.
        """
        at = self._at.get(("sub", token.user))
        if at is not None and now - at <= self._kept and (token.issued is None or token.issued <= at):
            return True
        if token.id is None:
            return False
        at = self._at.get(("jti", token.id))
        return at is not None and now - at <= self._kept

    def oldest(self, now: float) -> float:
        """The time before which revocations are forgotten."""
        return now - self._kept

    def _forget(self, now: float) -> None:
        oldest = self.oldest(now)
        while self._at and (first := next(iter(self._at))) and self._at[first] < oldest:
            del self._at[first]
