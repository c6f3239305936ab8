"""Echo, broadcast and latency: the scenarios where work is done for each message."""

from __future__ import annotations

from dataclasses import replace

from bench.catalog import BROADCAST, ECHO, FLOOR, NODE_WS, PARTYLINE, RELAY, UVICORN, WEBSOCKETS, Contender
from bench.figures import Figure, three_digits
from bench.load import Load
from bench.relay import publisher, subscribers
from bench.rounds import Bench, Sample, cpu_per_operation, rotate, rows
from bench.table import Row

CONNECTIONS = 64
PAYLOAD = 64
ECHO_BOUNDS = {FLOOR: 1.5, NODE_WS: 0.65, WEBSOCKETS: 0.35}
BROADCAST_BOUNDS = {FLOOR: 1.4}
RATE = 10_000


def echo(bench: Bench) -> list[Row]:
    """64 connections with one message of 64 bytes in flight on each."""
    names = (PARTYLINE, FLOOR, NODE_WS, WEBSOCKETS, UVICORN)
    operations = bench.counted(200_000)

    def measure(contender: Contender) -> Sample:
        with contender.start(ECHO, bench.server_core) as server, _echo_load(server.port, bench.load_core) as load:
            load.run(operations // 5)
            return cpu_per_operation(server, load, operations)

    scenario = f"echo, {CONNECTIONS} connections, {PAYLOAD} B"
    samples, without = rotate(bench, scenario, names, measure)
    return rows(scenario, "CPU us/message", names, samples, without, PARTYLINE, ECHO_BOUNDS)


def _echo_load(port: int, core: int | None, *more: str) -> Load:
    return Load("echo", port, core, "--connections", str(CONNECTIONS), "--payload", str(PAYLOAD), *more)


def broadcast(bench: Bench) -> list[Row]:
    """One publisher to 1,000 subscribers, beside every peer, and to 10,000 beside the floor."""
    made = _broadcast(bench, 1_000, (RELAY, FLOOR, NODE_WS, WEBSOCKETS))
    return made if bench.quick else made + _broadcast(bench, 10_000, (RELAY, FLOOR))


def publish(bench: Bench) -> list[Row]:
    """One publisher by HTTP to a topic that nobody has, one ephemeral message in each request."""
    names = (RELAY,)
    publishes = bench.counted(20_000)

    def measure(contender: Contender) -> Sample:
        with (
            contender.start(BROADCAST, bench.server_core) as server,
            publisher(server, bench.load_core, "--connections", "0", topic="nobody") as load,
        ):
            load.run(publishes // 5)
            return cpu_per_operation(server, load, publishes)

    scenario = "HTTP publish, ephemeral, one message a request"
    samples, without = rotate(bench, scenario, names, measure)
    return rows(scenario, "CPU us/publish", names, samples, without, RELAY)


def _broadcast(bench: Bench, receivers: int, names: tuple[str, ...]) -> list[Row]:
    messages = max(5, bench.counted(300_000) // receivers)

    def measure(contender: Contender) -> Sample:
        with (
            contender.start(BROADCAST, bench.server_core) as server,
            subscribers(contender.name, server, bench.load_core, receivers) as load,
        ):
            load.run(max(2, messages // 5))
            return cpu_per_operation(server, load, messages, receivers)

    scenario = f"broadcast, 1 to {receivers:,}, {PAYLOAD} B"
    samples, without = rotate(bench, scenario, names, measure)
    return rows(scenario, "CPU us/delivery", names, samples, without, RELAY, BROADCAST_BOUNDS)


def latency(bench: Bench) -> list[Row]:
    """Echo at a fixed offered rate; latency counts from when a message was due."""
    names = (PARTYLINE, FLOOR, NODE_WS, WEBSOCKETS, UVICORN)
    operations = bench.counted(5 * RATE)

    def measure(contender: Contender) -> Sample:
        with (
            contender.start(ECHO, bench.server_core) as server,
            _echo_load(server.port, bench.load_core, "--rate", str(RATE)) as load,
        ):
            load.run(operations // 5)
            return cpu_per_operation(server, load, operations)

    scenario = f"latency, {RATE:,} messages/s offered"
    samples, without = rotate(bench, scenario, names, measure)
    made: list[Row] = []
    for field, label in (("latency_p50_us", "p50"), ("latency_p99_us", "p99"), ("latency_p999_us", "p99.9")):
        chosen = {name: [_with_field(sample, field) for sample in taken] for name, taken in samples.items()}
        made += rows(f"{scenario}, {label}", "us", names, chosen, without, PARTYLINE)
    for row in made:
        if row.server in samples and row.scenario.endswith("p99"):
            late = Figure(tuple(_field(sample, "late_p99_us") for sample in samples[row.server]))
            row.note = f"the generator itself sent up to {three_digits(late.median)} us late (p99)"
    return made


def _field(sample: Sample, name: str) -> float:
    assert sample.result is not None
    return sample.result.fields[name]


def _with_field(sample: Sample, name: str) -> Sample:
    """The same run, with one of the generator's own figures as its value."""
    return replace(sample, value=_field(sample, name))
