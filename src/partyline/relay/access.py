"""Who a call comes from: keys and tokens, and a limit on guessing them."""

from __future__ import annotations

import time

from starlette.requests import Request

from partyline.errors import RateLimited, Unauthenticated
from partyline.metrics import Counters
from partyline.relay.requests import peer
from partyline.trust.keys import KeyRing, Principal
from partyline.trust.rate import PerAddress


class Access:
    """Finds the principal behind a credential. `failures_per_minute` per address, 0: off."""

    def __init__(self, keys: KeyRing, counters: Counters, failures_per_minute: float) -> None:
        self._keys = keys
        self._counters = counters
        self._limited = failures_per_minute > 0 and not keys.open_mode
        self._failures = PerAddress(failures_per_minute / 60, failures_per_minute)

    @property
    def open_mode(self) -> bool:
        """Nobody needs a credential."""
        return self._keys.open_mode

    def principal(self, request: Request) -> Principal:
        """Who asks over HTTP. Raises as `authenticate` does."""
        return self.authenticate(request.headers.get("authorization"), peer(request).address)

    def authenticate(self, authorization: str | None, address: str) -> Principal:
        """Who an Authorization header stands for.

        Raises Unauthenticated; RateLimited for an address that failed too often.
        """
        now = time.monotonic()
        if self._limited and (bucket := self._failures.bucket(address, now)).empty(now):
            self._counters.hit("auth_failures_per_minute")
            raise RateLimited("too many failed authentications from this address", retry_after=bucket.wait())
        try:
            return self._keys.authenticate(authorization)
        except Unauthenticated:
            if self._limited:
                self._failures.bucket(address, now).allow(now)
            raise
