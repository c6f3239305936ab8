"""What `partyline doctor` looks at in every engine: how long it takes to answer, and how its clock goes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from partyline.findings import Finding, ok, warning
from partyline.interfaces import Durability

_ROUNDS: Final = 7
_SLOW: Final = 0.01  # seconds: every durable publish waits for at least one round trip
_ASKEW: Final = 1.0  # seconds between the clocks of servers


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found, and what a message survives that this engine has accepted; None if that is not known."""

    findings: Sequence[Finding]
    durability: Durability | None = None


async def times(engine: str, clock: Callable[[], Awaitable[float]]) -> list[Finding]:
    """Findings about an engine whose time, in seconds since 1970, `clock` asks for. Raises what it raises."""
    took: list[float] = []
    ahead: list[float] = []
    for _ in range(_ROUNDS):
        began, here = time.monotonic(), time.time()
        there = await clock()
        took.append(time.monotonic() - began)
        ahead.append(there - here - took[-1] / 2)
    return [_latency(engine, median(took)), _clock(engine, median(ahead))]


def _latency(engine: str, seconds: float) -> Finding:
    text = f"{engine} answers in {seconds * 1000:.1f} ms"
    if seconds > _SLOW:
        return warning("latency", text, "run both in one place: every durable publish waits for it at least once")
    return ok("latency", text)


def _clock(engine: str, ahead: float) -> Finding:
    if abs(ahead) > _ASKEW:
        text = f"{engine} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
        return warning("clock", text, "set both by NTP: the lives and ages of messages go by these clocks")
    return ok("clock", f"{engine} and this machine differ by {abs(ahead):.2f} s")
