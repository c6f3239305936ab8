"""Counters. Plain integers that only grow, changed on the loop's thread; `/metrics` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from partyline import log
from partyline.errors import PartylineError

ABOUT: Final = {
    "accepted": "TCP connections accepted",
    "requests": "HTTP requests with a complete head",
    "upgrades": "WebSocket handshakes answered with 101",
    "received": "Messages from WebSocket clients",
    "published": "Messages handed to the hub",
    "delivered": "Messages offered to members",
    "dropped": "Messages dropped or superseded in an outbox",
    "violations": "WebSocket connections failed for breaking the protocol",
    "refused": "Requests, upgrades and authentications refused",
    "errors": "Exceptions that reached the last resort",
    "write_errors": "Failed commits of the database",
    "damaged": "Messages in the log that are not what was written, found when they were read",
    "pruned": "Messages that retention took out of the log",
    "unsent": "Messages to other servers that Redis did not get, or perhaps did not",
    "unreadable": "Messages of other servers that could not be read",
}


@dataclass(slots=True)
class Counters:
    """One process's counters, each changed on one thread only.

    `limits` counts how often each limit was hit, by the setting's name (a fixed set).
    """

    accepted: int = 0
    requests: int = 0
    upgrades: int = 0
    received: int = 0
    published: int = 0
    delivered: int = 0
    dropped: int = 0
    violations: int = 0
    refused: int = 0
    errors: int = 0
    write_errors: int = 0
    damaged: int = 0
    pruned: int = 0
    unsent: int = 0
    unreadable: int = 0
    limits: dict[str, int] = field(default_factory=dict)

    def hit(self, limit: str) -> None:
        """The limit with this setting name refused, closed or dropped something."""
        self.limits[limit] = self.limits.get(limit, 0) + 1

    def refuse(self, error: PartylineError) -> None:
        """A request or an upgrade is refused with this error."""
        self.refused += 1
        if error.limit is not None:
            self.hit(error.limit)

    def totals(self) -> dict[str, int]:
        """The plain counters by name."""
        return {name: getattr(self, name) for name in ABOUT}


def exposition(counters: Counters, connections: int) -> bytes:
    """The counters in Prometheus' text format. Raises ImportError without the extra `metrics`.

    Label values come from fixed sets of our own words: no topic, user or address becomes one.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    class Reader(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, value in counters.totals().items():
                yield CounterMetricFamily(f"partyline_{name}", f"{ABOUT[name]}.", value=value)
            hits = CounterMetricFamily("partyline_limit_hits", "Times a limit was hit, by setting.", labels=["limit"])
            for limit, value in sorted(counters.limits.items()):
                hits.add_metric([limit], value)
            yield hits
            lost = "Records of the logs that were dropped, since nobody read them."
            yield CounterMetricFamily("partyline_logs_dropped", lost, value=log.dropped())
            yield GaugeMetricFamily("partyline_connections", "Open connections of all kinds.", value=connections)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Reader())
    return generate_latest(registry)
