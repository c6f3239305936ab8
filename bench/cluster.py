"""Durable publishing on two servers that share a log in an engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from bench.catalog import JETSTREAM, POSTGRES, REDIS, Contender
from bench.durable import IN_FLIGHT, PAYLOAD, PUBLISHERS
from bench.engines import ENGINES
from bench.load import Load, Result
from bench.rounds import Bench, Sample, rotate, rows
from bench.table import Row

NODES = 2
PER_SECOND: Final = {POSTGRES: 15_000, REDIS: 12_000, JETSTREAM: 8_000}
LATENCY: Final = 50_000.0  # microseconds, p99


def shared_log(bench: Bench) -> list[Row]:
    """64 publishers with 8 messages of 100 bytes in flight each, half of them on each of two servers."""
    messages = bench.counted(60_000)

    def measure(contender: Contender) -> Sample:
        # Two servers, the engine and the generators: there is no core for each, so none is pinned.
        with (
            ENGINES[contender.name]() as engine,
            contender.start(engine.url, None) as one,
            contender.start(engine.url, None) as two,
        ):
            with _publishers(one.port) as first, _publishers(two.port) as second:
                _run((first, second), messages // 5)
                result = _run((first, second), messages)
            one.check()
            two.check()
            return Sample(result.seconds * 1e6 / messages, per_second=messages / result.seconds, result=result)

    scenario = f"durable publish on {NODES} servers, {PUBLISHERS} x {IN_FLIGHT} in flight, {PAYLOAD} B"
    names = tuple(ENGINES)
    samples, without = rotate(bench, scenario, names, measure)
    made = rows(scenario, "wall us/message", names, samples, without)
    for row in made:
        if row.server in samples:
            row.bound = 1e6 / PER_SECOND[row.server]
            row.note = f"the bound is {PER_SECOND[row.server]:,} acknowledged messages a second"
    for field, label in (("latency_p50_us", "p50"), ("latency_p99_us", "p99")):
        chosen = {
            name: [replace(sample, value=sample.result.fields[field]) for sample in taken if sample.result is not None]
            for name, taken in samples.items()
        }
        latencies = rows(f"{scenario}, {label}", "us", names, chosen, without)
        for row in latencies:
            if row.server in samples and label == "p99":
                row.bound = LATENCY
        made += latencies
    return made


def _publishers(port: int) -> Load:
    connections = PUBLISHERS // NODES
    arguments = ("--connections", str(connections), "--window", str(IN_FLIGHT), "--payload", str(PAYLOAD))
    return Load("publish", port, None, *arguments, "--topic", "log", "--others", paths=["/v1/ws"] * connections)


def _run(loads: tuple[Load, Load], messages: int) -> Result:
    """Both at once; the slower one counts."""
    with ThreadPoolExecutor(NODES) as pool:
        results = list(pool.map(lambda load: load.run(messages // NODES), loads))
    fields = {name: max(result.fields[name] for result in results) for name in results[0].fields}
    return Result(max(result.seconds for result in results), max(result.cpu_share for result in results), fields)
