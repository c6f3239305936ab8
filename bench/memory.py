"""Idle: what an open connection that says nothing costs, and how fast they are accepted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.catalog import ECHO, FLOOR, NODE_WS, PARTYLINE, RELAY, UVICORN, WEBSOCKETS, Contender
from bench.load import Load
from bench.process import BenchFailed
from bench.procfs import settled_resident_bytes, usage
from bench.relay import register
from bench.rounds import Bench, Sample, rotate, rows
from bench.table import Row

SIZES = (1_000, 10_000)
WARM_UP = 10  # few: what is left of them must not count against a thousand
RELAY_BOUND_KB = 3.0
MAX_ROUNDS = 3  # resident memory varies by a percent, not by a fifth


@dataclass(slots=True)
class _Idle:
    """One server filled up step by step."""

    kilobytes: dict[int, float] = field(default_factory=dict)
    accepted_per_second: float = 0.0
    cpu_us_per_connection: float = 0.0
    registration_kb: float | None = None
    cpu_us_per_registration: float = 0.0


def idle(bench: Bench) -> list[Row]:
    """Resident bytes per connection at 1,000 and 10,000, and connections accepted per second."""
    names = (RELAY, PARTYLINE, FLOOR, NODE_WS, WEBSOCKETS, UVICORN)
    filled: dict[str, list[_Idle]] = {}

    def measure(contender: Contender) -> Sample:
        found = _fill(bench, contender)
        filled.setdefault(contender.label, []).append(found)
        return Sample(found.cpu_us_per_connection, per_second=found.accepted_per_second)

    samples, without = rotate(bench, "idle", names, measure, min(bench.pairs, MAX_ROUNDS))
    made: list[Row] = []
    for size in _sizes(bench):
        chosen = {name: [Sample(found.kilobytes[size]) for found in filled[name]] for name in samples}
        sized = rows(f"idle, {size:,} connections", "kB/connection", names, chosen, without, RELAY)
        for row in sized:
            if row.server == RELAY and row.figure is not None:
                row.bound = RELAY_BOUND_KB
        made += sized
    alone = {
        name: [Sample(found.registration_kb) for found in taken if found.registration_kb is not None]
        for name, taken in filled.items()
        if name in samples and taken[0].registration_kb is not None
    }
    made += rows("idle, of which the registration", "kB/registration", (RELAY,), alone, {}, RELAY)
    registered = {name: [Sample(found.cpu_us_per_registration) for found in filled[name]] for name in alone}
    made += rows("registering", "CPU us/registration", (RELAY,), registered, {}, RELAY)
    made += rows("connecting", "CPU us/connection", names, samples, without, RELAY)
    return made


def _fill(bench: Bench, contender: Contender) -> _Idle:
    """Start a server, open 1,000 connections, then 9,000 more."""
    found = _Idle()
    relay = contender.name == RELAY
    with contender.start(ECHO, bench.server_core) as server, ExitStack() as stack:

        def opened(count: int, first_user: int) -> Load:
            paths = register(server.port, _topics(first_user, count), first_user) if relay else None
            return Load("idle", server.port, bench.load_core, "--connections", str(count), paths=paths)

        with opened(WARM_UP, 1):
            pass
        empty = settled_resident_bytes(server.pid)
        held, first_user = 0, WARM_UP + 1
        for size in _sizes(bench):
            added = size - held
            paths = None
            if relay:
                before, cpu = settled_resident_bytes(server.pid), usage(server.pid)
                paths = register(server.port, _topics(first_user, added), first_user)
                found.cpu_us_per_registration = (usage(server.pid) - cpu).cpu_ns / 1000 / added
                found.registration_kb = (settled_resident_bytes(server.pid) - before) / 1000 / added
            cpu = usage(server.pid)
            load = Load("idle", server.port, bench.load_core, "--connections", str(added), paths=paths)
            stack.enter_context(load)
            found.cpu_us_per_connection = (usage(server.pid) - cpu).cpu_ns / 1000 / added
            found.accepted_per_second = load.connections_per_second
            # Measured from the empty server: a registration is part of what a connection costs.
            found.kilobytes[size] = (settled_resident_bytes(server.pid) - empty) / 1000 / size
            held, first_user = size, first_user + added
            server.check()
        if any(value <= 0 for value in found.kilobytes.values()) and contender.name != FLOOR:
            raise BenchFailed("the server's resident memory shrank: this is no figure")
    return found


def _sizes(bench: Bench) -> tuple[int, ...]:
    return SIZES[:1] if bench.quick else SIZES


def _topics(first: int, count: int) -> list[str]:
    """One topic for each connection: nobody shares a room."""
    return [f"idle.{number}" for number in range(first, first + count)]
