"""Token buckets: how often something may happen, for one connection or for each address."""

from __future__ import annotations

from collections import OrderedDict

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

    def allow(self, now: float) -> bool:
        """Take one event if there is one left."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1.0:
            self.refused += 1
            return False
        self._left -= 1.0
        self.refused = 0
        return True

    def empty(self, now: float) -> bool:
        """Whether `allow` would refuse."""
        return min(self.burst, self._left + (now - self._at) * self.rate) < 1.0

    def wait(self) -> float:
        """Seconds until the next event is allowed, at most."""
        return 1.0 / self.rate if self.rate else 60.0


class PerAddress:
    """One bucket per address; the least recently seen addresses are forgotten beyond 10,000."""

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def bucket(self, address: str, now: float) -> Bucket:
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > _MOST_ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket
