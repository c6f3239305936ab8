"""Durable publishing over v1: commits with fsync, alone and beside a fully loaded loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.catalog import BROADCAST, DURABLE, Contender
from bench.load import Load
from bench.process import BenchFailed, Server
from bench.relay import TOPIC, publisher, register
from bench.rounds import Bench, Sample, cpu_per_operation, rotate, rows
from bench.table import Row

PUBLISHERS = 64
IN_FLIGHT = 8
PAYLOAD = 100
BUSY = 100  # members: the loop has no time left, and turns quickly
CROWD = 10_000  # members: each message holds the loop for as long as writing to all of them takes
PER_SECOND = 30_000
LATENCY = 20_000.0  # microseconds, p99
NAMES = (DURABLE,)


def durable(bench: Bench) -> list[Row]:
    """64 publishers with 8 messages of 100 bytes in flight each: alone, and beside a fan-out without an end."""
    made = _alone(bench) + _beside(bench, BUSY)
    return made if bench.quick else made + _beside(bench, CROWD)


def _alone(bench: Bench) -> list[Row]:
    messages = bench.counted(120_000)

    def measure(contender: Contender) -> Sample:
        with contender.start(BROADCAST, bench.server_core) as server, _publishers(server, bench) as load:
            load.run(messages // 5)
            return cpu_per_operation(server, load, messages)

    scenario = f"durable publish, {PUBLISHERS} x {IN_FLIGHT} in flight, {PAYLOAD} B"
    samples, without = rotate(bench, scenario, NAMES, measure)
    made = rows(scenario, "CPU us/message", NAMES, samples, without, DURABLE)
    for row in _mine(made):
        row.bound = 1e6 / PER_SECOND
        row.note = f"the bound is {PER_SECOND:,} acknowledged messages a second per core"
    return made + _latencies(scenario, samples, without)


def _beside(bench: Bench, members: int) -> list[Row]:
    """The loop never waits: each message of the fan-out follows the last one at once, to all its members."""
    messages = bench.counted(20_000)

    def measure(contender: Contender) -> Sample:
        with (
            contender.start(BROADCAST, bench.server_core) as server,
            _saturated(server, bench, members),
            _publishers(server, bench) as load,
        ):
            load.run(messages // 5)
            result = load.run(messages)
            server.check()
            return Sample(result.seconds * 1e6 / messages, per_second=messages / result.seconds, result=result)

    scenario = f"durable publish beside a fan-out to {members:,}"
    samples, without = rotate(bench, scenario, NAMES, measure)
    made = rows(scenario, "wall us/message", NAMES, samples, without, DURABLE)
    for row in _mine(made):
        row.bound = 1e6 / PER_SECOND
        row.note = "by the wall clock: the fan-out has the rest of the core, and both generators share the other one"
    return made + _latencies(scenario, samples, without)


def _latencies(scenario: str, samples: dict[str, list[Sample]], without: dict[str, Row]) -> list[Row]:
    made: list[Row] = []
    for field, label in (("latency_p50_us", "p50"), ("latency_p99_us", "p99")):
        chosen = {
            name: [replace(sample, value=sample.result.fields[field]) for sample in taken if sample.result is not None]
            for name, taken in samples.items()
        }
        made += rows(f"{scenario}, {label}", "us", NAMES, chosen, without, DURABLE)
    for row in _mine(made):
        if row.scenario.endswith("p99"):
            row.bound = LATENCY
    return made


def _mine(made: list[Row]) -> list[Row]:
    return [row for row in made if row.server == DURABLE]


def _publishers(server: Server, bench: Bench) -> Load:
    arguments = ("--connections", str(PUBLISHERS), "--window", str(IN_FLIGHT), "--payload", str(PAYLOAD))
    return Load("publish", server.port, bench.load_core, *arguments, "--topic", "log", paths=["/v1/ws"] * PUBLISHERS)


@contextmanager
def _saturated(server: Server, bench: Bench, members: int) -> Iterator[None]:
    """Publish to the members of an ephemeral topic, the next message when all have the last one, meanwhile."""
    paths = register(server.port, [TOPIC] * members)
    over = threading.Event()
    failures: list[BenchFailed] = []
    with publisher(server, bench.load_core, "--connections", str(members), "--window", "2", paths=paths) as load:

        def run() -> None:
            try:
                while not over.is_set():
                    load.run(max(5, 20_000 // members))
            except BenchFailed as failure:
                failures.append(failure)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    if failures:
        raise failures[0]
