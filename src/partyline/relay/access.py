"""Authentication: the principal of a call by its key or token, and a limit on guesses."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.requests import Request

from partyline.errors import RateLimited, Unauthenticated
from partyline.metrics import Counters
from partyline.relay.requests import peer
from partyline.relay.revocations import Revoker
from partyline.trust.keys import EVERYBODY, KeyRing, Principal, bearer
from partyline.trust.rate import PerAddress
from partyline.trust.tokens import MAX_QUERY_LIFE, MAX_TOKEN, Tokens, looks_like_token


class Access:
    """Finds the principal that a credential stands for. `failures_per_minute` is per address; 0 is off."""

    def __init__(
        self,
        keys: KeyRing,
        counters: Counters,
        failures_per_minute: float,
        tokens: Tokens | None,
        revoker: Revoker,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.revoker = revoker
        self._keys = keys
        self._tokens = tokens
        self._counters = counters
        self._clock = clock
        self.open_mode = keys.open_mode and tokens is None  # no credential is needed
        self._limited = failures_per_minute > 0 and not self.open_mode
        self._failures = PerAddress(failures_per_minute / 60, failures_per_minute)

    def principal(self, request: Request, *, in_query: bool = False) -> Principal:
        """The principal of an HTTP request. `in_query` also accepts a short-lived `?token=`, for browsers that cannot
        send a header.

        Raises as `authenticate` does.
        """
        return self.authenticate(
            request.headers.get("authorization"),
            peer(request).address,
            request.scope["query_string"] if in_query else b"",
        )

    def authenticate(self, authorization: str | None, address: str, query: bytes = b"") -> Principal:
        """The principal of an Authorization header or, without one, of a `token` in a raw query.

        Raises Unauthenticated, RateLimited for an address that has failed too often, or Overloaded while the keys that
        sign tokens are being fetched.
        """
        if self.open_mode:
            return EVERYBODY
        now = time.monotonic()
        if self._limited and (bucket := self._failures.bucket(address, now)).empty(now):
            self._counters.hit("auth_failures_per_minute")
            raise RateLimited("too many failed authentications from this address", retry_after=bucket.wait())
        try:
            principal = self._find(authorization, query)
            if principal.token is not None:
                self.revoker.seen(principal.token)
            self.check(principal)
        except Unauthenticated:
            if self._limited:
                self._failures.bucket(address, now).allow(now)
            raise
        return principal

    def check(self, principal: Principal) -> None:
        """Raise Unauthenticated if its token has expired or was revoked. Call it again after awaiting."""
        token = principal.token
        if token is None:
            return
        if principal.expires is not None and self._clock() >= principal.expires:
            raise Unauthenticated("this token has expired: get a new one", code="token_expired")
        if self.revoker.refuses(token):
            raise revoked()

    def _find(self, authorization: str | None, query: bytes) -> Principal:
        if authorization is None and query and (token := query_token(query)) is not None:
            if self._tokens is None:
                raise Unauthenticated("this server takes no tokens")
            return self._tokens.verify(token, self._clock(), longest=MAX_QUERY_LIFE)
        credential = bearer(authorization)
        if len(credential) > MAX_TOKEN:
            raise Unauthenticated(f"a key or a token has at most {MAX_TOKEN} characters")
        principal = self._keys.find(credential)
        if principal is not None:
            return principal
        if self._tokens is None or not looks_like_token(credential):
            raise Unauthenticated("this API key is not known here")
        return self._tokens.verify(credential, self._clock())


def query_token(query: bytes) -> str | None:
    """The `token` in a raw query, or None."""
    if b"token" not in query:
        return None
    try:
        found = parse_qs(query.decode("ascii"), max_num_fields=100).get("token")
    except ValueError:
        return None
    return found[0] if found else None


def revoked() -> Unauthenticated:
    """The error for a revoked token."""
    return Unauthenticated("this token was revoked: get a new one", code="token_revoked")
