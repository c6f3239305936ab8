"""Rounds: every server once per round, so that a ratio compares neighbours in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from bench.catalog import Catalog, Contender
from bench.figures import Figure, ratios
from bench.load import Load, MessageLost, Result
from bench.machine import Cores
from bench.process import BenchFailed, Server
from bench.procfs import usage
from bench.table import Row


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one server."""

    value: float
    per_second: float | None = None
    per_wakeup: float | None = None
    load_share: float | None = None
    server_share: float | None = None
    waited_share: float | None = None
    result: Result | None = None


@dataclass(slots=True)
class Bench:
    """What every scenario needs: the machine, the servers, how often, how long."""

    catalog: Catalog
    cores: Cores | None
    pairs: int
    quick: bool
    console: Console
    progress: Progress
    compares: bool = False
    lost: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def server_core(self) -> int | None:
        return self.cores.server if self.cores else None

    @property
    def load_core(self) -> int | None:
        return self.cores.load if self.cores else None

    def counted(self, number: int) -> int:
        """An operation count; in a quick run a fifth of it, or half where two checkouts are compared."""
        return number // (2 if self.compares else 5) if self.quick else number

    def failure(self, scenario: str, name: str, error: BenchFailed) -> Row:
        """Record a run without a figure, and say so in a row."""
        what = f"{scenario}, {name}: {error}"
        (self.lost if isinstance(error, MessageLost) else self.failures).append(what)
        self.console.print(f"[bold red]FAILED[/] {escape(what)}", highlight=False)
        return Row(
            scenario, name, "", note=str(error), status="MESSAGE LOST" if isinstance(error, MessageLost) else "FAILED"
        )


def cpu_per_operation(server: Server, load: Load, run: int, per_run: int = 1) -> Sample:
    """Server CPU microseconds per operation over one counted run.

    `run` is what the generator counts (messages), `per_run` the operations in each of them
    (deliveries). Both readings of /proc are taken while the server is asleep: the generator has
    every answer, and schedstat is exact only for a thread that is not running.
    """
    before = usage(server.pid)
    result = load.run(run)
    used = usage(server.pid) - before
    server.check()
    operations = run * per_run
    return Sample(
        value=used.cpu_ns / 1000 / operations,
        per_second=operations / result.seconds,
        per_wakeup=operations / max(1, used.sleeps),
        load_share=result.cpu_share,
        server_share=used.cpu_ns / 1e9 / result.seconds,
        waited_share=used.waited_ns / 1e9 / result.seconds,
        result=result,
    )


def rotate(
    bench: Bench,
    scenario: str,
    names: Sequence[str],
    measure: Callable[[Contender], Sample],
    pairs: int | None = None,
) -> tuple[dict[str, list[Sample]], dict[str, Row]]:
    """Run `measure` for every server in every round, in alternating order.

    Returns the samples of the servers that worked, by their labels, and a row for each that is missing or failed;
    a failed server is not tried again, and its earlier samples are dropped.
    """
    without: dict[str, Row] = {}
    for name in names:
        if name in bench.catalog.missing:
            without[name] = Row(scenario, name, "", note=bench.catalog.missing[name], status="SKIPPED")
    sides = bench.catalog.sides(names)
    samples: dict[str, list[Sample]] = {label: [] for label in sides}
    rounds = pairs or bench.pairs
    total = rounds * len(samples)
    task = bench.progress.add_task(scenario, total=total)
    for number in range(rounds):
        for label in list(samples)[:: -1 if number % 2 else 1]:
            bench.progress.update(task, description=f"{scenario}: {label}")
            try:
                samples[label].append(measure(sides[label]))
            except BenchFailed as error:
                without[label] = bench.failure(scenario, label, error)
                del samples[label]
            bench.progress.advance(task)
    bench.progress.update(task, description=scenario, completed=total)
    return samples, without


def rows(
    scenario: str,
    unit: str,
    names: Sequence[str],
    samples: Mapping[str, list[Sample]],
    without: Mapping[str, Row],
    subject: str = "",
    bounds: Mapping[str, float] | None = None,
) -> list[Row]:
    """One row per server, with the ratio of `subject` to each of the others."""
    made: list[Row] = []
    there = {*samples, *without}
    for name in [name for name in names if name in there] + sorted(there.difference(names)):
        if name in without:
            made.append(without[name])
            continue
        taken = samples[name]
        row = Row(scenario, name, unit, Figure(tuple(sample.value for sample in taken)))
        row.per_second = _median([sample.per_second for sample in taken])
        row.per_wakeup = _median([sample.per_wakeup for sample in taken])
        row.load_share = _median([sample.load_share for sample in taken])
        row.server_share = _median([sample.server_share for sample in taken])
        row.waited_share = _median([sample.waited_share for sample in taken])
        # A server of another checkout is compared with the one of that name here, every other one with the subject.
        beside = next((own for own in names if name.startswith(f"{own} of ")), subject)
        if beside in samples and name != beside:
            mine = [sample.value for sample in samples[beside]]
            row.ratio = ratios(mine, row.figure.values if row.figure else ())
            row.bound = (bounds or {}).get(name)
        made.append(row)
    return made


def _median(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return Figure(tuple(numbers)).median if numbers else None
