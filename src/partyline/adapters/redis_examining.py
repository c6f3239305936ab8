"""What `partyline doctor` finds about a log or a bus in Redis or Valkey. Nothing is changed there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from partyline.adapters.asking import Asking
from partyline.adapters.examining import Examined, times
from partyline.adapters.redis_log import durability_of, fields
from partyline.adapters.redis_servers import named, servers
from partyline.errors import StoreUnavailable
from partyline.findings import Finding, ok, problem, warning
from partyline.interfaces import Durability

_OLDEST: Final = {"log": (6, 2), "bus": (6, 0)}
_FULL: Final = 0.9  # of maxmemory
_ADVICE: Final = {
    Durability.NOTHING: "set appendonly yes and appendfsync always, for what is accepted to survive a power cut",
    Durability.WINDOW: "set appendfsync always and no-appendfsync-on-rewrite no, for the last seconds to survive, too",
}


async def examine(url: str, field: str) -> Examined:
    """Raises ConfigError for what is no address, and StoreUnavailable where nobody answers."""
    server, prefix = named(url)
    there = servers(server, field)
    asking = await Asking.open(there, f"{{{prefix}}}")
    try:
        answer = await asking.ask("INFO")
        if isinstance(answer, Exception):
            raise StoreUnavailable(str(answer))
        info = fields(answer)
        name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
        findings = list(_server(name, field, info))

        async def clock() -> float:
            seconds, micros = await asking.ask("TIME")
            return int(seconds) + int(micros) / 1e6

        findings += await times(name, clock)
        if field != "log":
            return Examined(findings)
        durability = durability_of(info, await asking.ask("CONFIG", "GET", "*append*fsync*"))
        epoch, head = await asking.ask("HMGET", f"{{{prefix}}}", "epoch", "head")
        findings += _log(name, info, durability, epoch, head)
        return Examined(findings, durability)
    finally:
        await asking.close()
        await there.close()


def _server(name: str, field: str, info: Mapping[str, str]) -> Iterator[Finding]:
    version = info.get("valkey_version") or info.get("redis_version", "0")
    known = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2] if part.isdigit())
    what = f"{name} {version}"
    oldest = _OLDEST.get(field, (6, 0))
    if known < oldest:
        yield problem(field, f"{what}: it is too old", f"use Redis {oldest[0]}.{oldest[1]} or later, or Valkey")
    elif info.get("role") != "master":
        yield problem(field, f"{what}: it is a replica", "name the server that takes writes")
    else:
        yield ok(field, what)


def _log(name: str, info: Mapping[str, str], durability: Durability, epoch: Any, head: Any) -> Iterator[Finding]:
    if epoch is None:
        yield ok("positions", "there is no log yet: the first server begins it")
    else:
        yield ok("positions", f"epoch {epoch.decode()}, last offset {int(head or 0):,}")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        yield problem(
            "settings", f"{name} has maxmemory-policy {policy}: it may forget messages", "set it to noeviction"
        )
    if durability in _ADVICE:
        yield warning("settings", f"{name} keeps less than it could: {durability.survived}", _ADVICE[durability])
    most, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if most and used > _FULL * most:
        text = f"{used:,} of {most:,} bytes are used: when it is full, every durable publish is refused (503)"
        yield warning("memory", text, "raise maxmemory, or keep less (max_age, max_messages)")
