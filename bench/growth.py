"""Growth: does a publish cost more because others are connected or have patterns, a delivery because it has company?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.catalog import BROADCAST, FLOOR, RELAY
from bench.figures import ratios
from bench.foreign import held
from bench.load import Load
from bench.process import BenchFailed, Server
from bench.relay import publisher, register, subscribers
from bench.rounds import Bench, Sample, cpu_per_operation, rows
from bench.table import Row

RECEIVERS = 10
OTHERS = (10, 10_000)
SAME_PUBLISH = 1.10
SAME_DELIVERY = 1.15
DELIVERY = "growth, one delivery among subscribers"


def growth(bench: Bench) -> list[Row]:
    """The three questions, for the relay."""
    if RELAY in bench.catalog.missing:
        return [Row("growth", RELAY, "", note=bench.catalog.missing[RELAY], status="SKIPPED")]
    made = _guarded(bench, "growth, others connected", lambda: _bystanders(bench))
    made += _guarded(bench, "growth, patterns of others", lambda: _patterns(bench))
    return made + _guarded(bench, "growth, subscribers", lambda: _subscribers(bench))


def _guarded(bench: Bench, scenario: str, measure: Callable[[], list[Row]]) -> list[Row]:
    try:
        return measure()
    except BenchFailed as error:
        return [bench.failure(scenario, RELAY, error)]


def _bystanders(bench: Bench) -> list[Row]:
    """Publishes to 10 subscribers among 10 and among 10,000 connections on other topics."""

    def surround(stack: ExitStack, server: Server, others: int) -> None:
        paths = register(server.port, [f"other.{number}" for number in range(others)], first_user=1_000)
        stack.enter_context(Load("idle", server.port, bench.load_core, "--connections", str(others), paths=paths))

    scenario = f"growth, publish to {RECEIVERS} among others on other topics"
    return _among_others(bench, scenario, surround)


def _patterns(bench: Bench) -> list[Row]:
    """Publishes to 10 subscribers among 10 and among 10,000 patterns of others, which do not cover the topic."""

    def surround(stack: ExitStack, server: Server, others: int) -> None:
        stack.enter_context(held(server.port, others))

    return _among_others(bench, f"growth, publish to {RECEIVERS} among patterns of others", surround)


def _among_others(bench: Bench, scenario: str, surround: Callable[[ExitStack, Server, int], None]) -> list[Row]:
    """Publishes among few and among many others.

    Both servers stay up and take turns, so that a pair is two runs a few seconds apart.
    """
    publishes = bench.counted(20_000)
    samples: dict[str, list[Sample]] = {}
    with ExitStack() as stack:
        crowds: dict[str, tuple[Server, Load]] = {}
        for others in OTHERS:
            server = stack.enter_context(bench.catalog.ready[RELAY].start(BROADCAST, bench.server_core))
            surround(stack, server, others)
            load = stack.enter_context(subscribers(RELAY, server, bench.load_core, RECEIVERS))
            load.run(publishes // 5)
            crowds[_among(others)] = server, load
        task = bench.progress.add_task(scenario, total=bench.pairs * len(crowds))
        for _ in range(bench.pairs):
            for name, (server, load) in crowds.items():
                samples.setdefault(name, []).append(cpu_per_operation(server, load, publishes))
                bench.progress.advance(task)
    made = rows(scenario, "CPU us/publish", tuple(samples), samples, {})
    few, many = (samples[_among(others)] for others in OTHERS)
    made[-1].ratio = ratios(_values(many), _values(few))
    made[-1].bound = SAME_PUBLISH
    made[-1].note = f"the ratio is to {_among(OTHERS[0])}"
    return made


def _among(others: int) -> str:
    return f"{RELAY} among {others:,}"


@dataclass(frozen=True, slots=True)
class _Crowd:
    """A server with its subscribers, and a publisher to a topic that has none."""

    server: Server
    load: Load
    nobody: Load | None

    def delivery(self, bench: Bench, size: int) -> Sample:
        """The cost of one delivery, the request's own price taken off."""
        request = cpu_per_operation(self.server, self.nobody, bench.counted(5_000)).value if self.nobody else 0.0
        # The other servers ran since this one did: its sockets are no longer in the caches.
        self.load.run(max(2, bench.counted(30_000) // size))
        whole = cpu_per_operation(self.server, self.load, max(5, bench.counted(300_000) // size), size)
        return replace(whole, value=whole.value - request / size)


def _subscribers(bench: Bench) -> list[Row]:
    """The cost of one delivery with 100, 1,000 and 10,000 subscribers, at the relay and at the floor.

    A publish has a price of its own, the request, which 100 deliveries share by 100 and 10,000
    by 10,000. It is measured on a topic without subscribers, in the same round at the same
    server, and taken off first. The floor publishes over WebSocket: there it is a frame.
    """
    sizes = (100, 1_000) if bench.quick else (100, 1_000, 10_000)
    samples: dict[tuple[str, int], list[Sample]] = {(name, size): [] for size in sizes for name in (RELAY, FLOOR)}
    with ExitStack() as stack:
        crowds = {(name, size): _crowd(bench, stack, name, size) for name, size in samples}
        task = bench.progress.add_task(DELIVERY, total=bench.pairs * len(crowds))
        for _ in range(bench.pairs):
            for (name, size), crowd in crowds.items():
                samples[name, size].append(crowd.delivery(bench, size))
                bench.progress.advance(task)
    mine = {size: samples[RELAY, size] for size in sizes}
    floor = {size: samples[FLOOR, size] for size in sizes}
    relayed = _delivery_rows(RELAY, mine)
    in_floors = _beside_floor(mine, floor)
    for row, source in zip(in_floors, relayed, strict=True):
        row.load_share, row.server_share, row.waited_share = source.load_share, source.server_share, source.waited_share
    return [*relayed, *_delivery_rows(FLOOR, floor), *in_floors]


def _crowd(bench: Bench, stack: ExitStack, name: str, size: int) -> _Crowd:
    server = stack.enter_context(bench.catalog.ready[name].start(BROADCAST, bench.server_core))
    load = stack.enter_context(subscribers(name, server, bench.load_core, size))
    nobody = None
    if name == RELAY:
        nobody = stack.enter_context(publisher(server, bench.load_core, "--connections", "0", topic="nobody"))
        nobody.run(bench.counted(1_000))
    load.run(max(2, bench.counted(60_000) // size))
    return _Crowd(server, load, nobody)


def _delivery_rows(name: str, samples: Mapping[int, list[Sample]]) -> list[Row]:
    by_label = {f"{name}, {size:,}": taken for size, taken in samples.items()}
    made = rows(DELIVERY, "CPU us/delivery", tuple(by_label), by_label, {})
    smallest = min(samples)
    for size, row in zip(samples, made, strict=True):
        if size != smallest:
            row.ratio = ratios(_values(samples[size]), _values(samples[smallest]))
            row.note = f"the ratio is to {smallest:,}"
            row.bound = SAME_DELIVERY if name == RELAY else None
    return made


def _beside_floor(mine: Mapping[int, list[Sample]], floor: Mapping[int, list[Sample]]) -> list[Row]:
    """The relay's price in floors: more sockets than the cache holds make the kernel dearer too."""
    in_floors = {size: ratios(_values(mine[size]), _values(floor[size])) for size in mine}
    smallest = in_floors[min(mine)]
    made: list[Row] = []
    for size, figure in in_floors.items():
        row = Row("growth, one delivery in floors", f"{RELAY}, {size:,}", "floors", figure)
        if figure is not smallest and figure is not None and smallest is not None:
            row.ratio = ratios(figure.values, smallest.values)
            row.note = f"the ratio is to {min(mine):,}"
            row.bound = SAME_DELIVERY
        made.append(row)
    return made


def _values(samples: list[Sample]) -> tuple[float, ...]:
    return tuple(sample.value for sample in samples)
