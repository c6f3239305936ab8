"""Counters. Plain integers that only grow, changed on the loop's thread; `/metrics` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Final

from partyline import log
from partyline.errors import PartylineError


def _counter(about: str) -> int:
    return field(default=0, metadata={"about": about})


@dataclass(slots=True)
class Counters:
    """One process's counters, each changed on one thread only.

    `limits` counts how often each limit was hit, by the setting's name (a fixed set).
    """

    accepted: int = _counter("TCP connections accepted")
    requests: int = _counter("HTTP requests with a complete head")
    upgrades: int = _counter("WebSocket handshakes answered with 101")
    received: int = _counter("Messages from WebSocket clients")
    published: int = _counter("Messages handed to the hub")
    delivered: int = _counter("Messages offered to members")
    dropped: int = _counter("Messages dropped or superseded in an outbox")
    violations: int = _counter("WebSocket connections failed for breaking the protocol")
    refused: int = _counter("Requests, upgrades and authentications refused")
    errors: int = _counter("Exceptions that reached the last resort")
    write_errors: int = _counter("Failed commits of the database")
    damaged: int = _counter("Messages in the log that are not what was written, found when they were read")
    pruned: int = _counter("Messages that retention took out of the log")
    unsent: int = _counter("Messages to other servers that did not go out, or perhaps did not")
    lost: int = _counter("Messages of other servers that are known not to have come")
    unreadable: int = _counter("Messages of other servers that could not be read")
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


ABOUT: Final = {one.name: one.metadata["about"] for one in fields(Counters) if one.metadata}


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
