"""Token buckets: how often something may happen, for one connection or for each address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from partyline.errors import PartylineError, RateLimited
from partyline.trust.addresses import source

_MOST_ADDRESSES = 10_000


class Bucket:
    """Allows `rate` events per second in the long run and `burst` at once. Time is an argument, in seconds."""

    __slots__ = ("_at", "_left", "burst", "rate", "refused")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.refused = 0  # events refused since one was last allowed
        self._left = burst
        self._at = now

    def allow(self, now: float, events: int = 1) -> bool:
        """Take `events` if that many are left, otherwise none."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < events:
            self.refused += events
            return False
        self._left -= events
        self.refused = 0
        return True

    def empty(self, now: float) -> bool:
        """Whether `allow` would refuse."""
        return min(self.burst, self._left + (now - self._at) * self.rate) < 1.0

    def wait(self) -> float:
        """Seconds until the next event is allowed, at most."""
        return 1.0 / self.rate if self.rate else 60.0


class Refusing(Protocol):
    """Something that tells its client of an event that was refused."""

    def refused(self, error: PartylineError, message: str | bytes) -> None: ...


class Closing(Protocol):
    """Something that can end a connection."""

    def close(self, code: int, reason: str = "") -> None: ...


class Gate(Bucket):
    """The rate of one connection's events (`events_per_second`, `events_burst`), by one rule for all connections.

    An event beyond the rate is refused, and its client is told. A client that ignores this for as many events as the
    burst has is disconnected. `hit` counts refusals.
    """

    __slots__ = ("hit",)

    def __init__(self, rate: float, burst: float, now: float, hit: Callable[[str], None]) -> None:
        super().__init__(rate, burst, now)
        self.hit = hit

    def refuse(self, connection: Closing, session: Refusing | None, message: str | bytes = "") -> None:
        """Refuse an event after `allow` returned False. Without a `session` nobody is told."""
        self.hit("events_per_second")
        if self.refused > self.burst:
            connection.close(4429, "too many events")
        elif session is not None:
            session.refused(RateLimited("too many messages: slow down", retry_after=self.wait()), message)


class PerAddress:
    """One bucket per address, or /64 of IPv6; the least recently seen ones are forgotten beyond 10,000."""

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def bucket(self, address: str, now: float) -> Bucket:
        address = source(address)
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > _MOST_ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket
