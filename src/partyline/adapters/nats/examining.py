"""What `partyline doctor` finds about a log or a bus in NATS. Nothing is changed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from partyline.adapters.examining import Examined, times
from partyline.adapters.nats.address import LOG_OPTIONS, number, parse
from partyline.adapters.nats.durability import durability
from partyline.adapters.nats.line import Line
from partyline.adapters.nats.stream import NEWEST, Declined, Stream, seconds, version
from partyline.adapters.nats.subjects import Epoch, Subjects
from partyline.findings import Finding, ok, problem, warning
from partyline.interfaces import Durability

_NO_STREAM: Final = 10059
_FULL: Final = 0.9  # of max_bytes


async def examine(url: str, field: str) -> Examined:
    """Raises ConfigError for what is no address, and StoreUnavailable where nobody answers."""
    address = parse(url, field, LOG_OPTIONS if field == "log" else ())
    line = await Line.open(address, lambda line: None)
    try:
        what = f"NATS {line.info.get('version', '')}"
        if field != "log":
            return Examined([ok(field, what)])
        if version(line) < NEWEST:
            return Examined([problem(field, f"{what}: it is too old", f"use NATS {NEWEST[0]}.{NEWEST[1]} or later")])
        subjects = Subjects(address.prefix)
        stream = Stream(line, subjects.stream)
        try:
            info = await stream.api("STREAM.INFO")
        except Declined as error:
            if error.number != _NO_STREAM:
                raise
            return Examined([ok(field, what), ok("positions", "there is no log yet: the first server begins it")])

        async def clock() -> float:
            return seconds((await stream.api("STREAM.INFO"))["ts"])

        last = await stream.last(subjects.epoch)
        epoch = "none" if last is None else msgspec.json.decode(last.data, type=Epoch).epoch
        kept = await durability(address, number(address, "monitor", 0), info)
        findings = [
            ok(field, what),
            *await times("NATS", clock),
            ok("positions", f"epoch {epoch}, last offset {info['state']['last_seq']:,}"),
            *_log(info, kept),
        ]
        return Examined(findings, kept)
    finally:
        await line.close()


def _log(info: dict[str, Any], kept: Durability) -> Iterator[Finding]:
    if kept < Durability.POWER_CUT:
        yield warning(
            "settings",
            f"JetStream keeps less than it could: {kept.survived}",
            "give the stream 3 replicas, or set sync_interval: always in the server's jetstream block and name its "
            "monitoring port in the address (?monitor=8222)",
        )
    most, used = info["config"].get("max_bytes", -1), info["state"]["bytes"]
    if most > 0 and used > _FULL * most:
        text = f"{used:,} of {most:,} bytes are used: when it is full, every durable publish is refused (503)"
        yield warning("stream", text, "raise max_bytes of the stream, or keep less (max_age, max_messages)")
